"""Contrastive vision-language models, whatever their origin, behind five attributes and four verbs.

`load("glyph")` is the small CLIP that ships with the book; `load("ViT-B-32-quickgelu/openai")` any
model and weights that open_clip knows. Both are open_clip models, loaded and preprocessed by open_clip;
a chapter that runs on one runs on the other. Defined in {ref}`zero-shot`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torchvision import transforms
from tqdm import tqdm

from clipbook.losses import check_number

ASSETS = Path(__file__).parent / "assets"
VOCABULARY = "vocabulary.txt.gz"  # beside the weights of models with a vocabulary of their own
POSITIONS = ("front", "middle", "end")
PRECISIONS = ("fp32", "fp16", "bf16")


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/open_clip_config.json"))


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen two-tower model. All features come back un-normalised, float32, on the CPU.

    name: as given to `load`. dim: of the shared space. scale: learned inverse temperature, which
    multiplies cosines. preprocess: open_clip's own transform, PIL image -> (3, s, s). image_size: s.
    """

    name: str
    model: nn.Module
    preprocess: Callable
    tokenizer: Callable
    device: torch.device
    image_size: int
    dim: int
    scale: float

    @cached_property
    def weights_id(self) -> str:
        """sha256 of the weights, first 16 hex digits: what a cache or a ledger entry is valid for."""
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def embed_images(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """Features of images of any size.

        Args:
            images: (n, 3, h, w), floating, in [0, 1]; resized, cropped and normalised as `preprocess` does.
            batch_size: images per forward pass, >= 1; at most 128 on a CPU, whose caches larger ones overflow.

        Returns: (n, dim). Raises ValueError for another shape, type or range, and for NaN.
        """
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise ValueError(f"images must be a tensor (n, 3, h, w) with n > 0, got {_describe(images)}")
        if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
            raise ValueError(f"images must be floating point, finite and in [0, 1], got {images.dtype} values outside")
        _check_count("batch_size", batch_size, 1)
        # the tensor part of open_clip's own pipeline; ToTensor and the conversion to RGB are done already
        steps = [t for t in self.preprocess.transforms if isinstance(t, nn.Module)]
        fit = transforms.Compose([t for t in steps if not isinstance(t, transforms.Normalize)])
        norm = transforms.Compose([t for t in steps if isinstance(t, transforms.Normalize)])
        batch_size = min(batch_size, 128) if self.device.type == "cpu" else batch_size
        blocks = _progress(images.float().split(batch_size), "images", len(images), batch_size)
        return torch.cat([self.embed_prepared(norm(fit(block.to(self.device)).clamp(0, 1))) for block in blocks])

    @torch.no_grad()
    def embed_prepared(self, batch: Tensor) -> Tensor:
        """Features of one batch (n, 3, s, s) that went through `preprocess` already; (n, dim)."""
        dtype = next(self.model.visual.parameters()).dtype
        features = self.model.encode_image(batch.to(self.device, dtype), normalize=False)  # CoCa's default is True
        return _finite(features.float().cpu(), "images", self.name)

    def embed_texts(self, texts: list[str], batch_size: int = 256) -> Tensor:
        """Features of texts, (n, dim). A text longer than the context is cut, as open_clip does.

        Raises ValueError unless `texts` is a list of at least one str, and for a batch_size below 1.
        """
        _check_count("batch_size", batch_size, 1)
        return self._encode(self._tokens(texts), batch_size)

    def embed_noised_texts(
        self,
        texts: list[str],
        n_tokens: int = 4,
        std: float = 0.02,
        position: str = "front",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Features of texts with Gaussian token embeddings put among their tokens (CLAP's noise).

        Args:
            n_tokens: how many noise tokens; 0 gives `embed_texts`.
            std: their standard deviation, in the units of the token embedding (0.02 is its initialisation).
            position: "front" (after the start token), "middle", or "end" (before the end token).
            generator: CPU generator for the noise.

        Returns: (n, dim). Raises ValueError for a bad argument, for a text that does not fit the context
        together with its noise, naming the text, and for noise with a tokenizer other than CLIP's.
        Source: Cai et al. 2024 (arXiv 2311.16445).
        """
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {POSITIONS}, got {position!r}")
        check_number("std", std, 0)
        _check_count("n_tokens", n_tokens, 0)
        tokens = self._tokens(texts)
        if n_tokens == 0:
            return self._encode(tokens, 256)
        end, context = self._end(tokens), tokens.shape[1]
        if long := self.too_long(texts, n_tokens):
            i = long[0]
            raise ValueError(
                f"texts[{i}] = {texts[i]!r}, with {n_tokens} noise tokens, exceeds the context of {context} tokens"
            )
        start = {"front": torch.ones_like(end), "middle": (end + 1) // 2, "end": end}[position][:, None]
        column = torch.arange(context)[None]
        noisy = (column >= start) & (column < start + n_tokens)
        source = torch.where(column < start, column, (column - n_tokens).clamp(min=0))
        tokens = torch.where(noisy, 1, tokens.gather(1, source))  # any id does where noise goes
        width = self._embedding().weight.shape[1]
        noise = std * torch.randn(len(texts), n_tokens, width, generator=generator)
        return self._encode(tokens, 256, noisy, noise)

    def too_long(self, texts: list[str], n_tokens: int = 0) -> list[int]:
        """Which of the texts the context does not hold in full, together with n_tokens noise tokens; ascending.

        Raises ValueError unless `texts` is a list of at least one str and n_tokens an int >= 0 that leaves room for
        a word, and for noise with a tokenizer other than CLIP's.
        """
        _check_count("n_tokens", n_tokens, 0)
        context = self.tokenizer(["a"]).shape[1]
        if n_tokens > context - 3:  # start, a word, end
            raise ValueError(f"n_tokens must be at most {context - 3}, for a context of {context}, got {n_tokens}")
        longer = self._tokens(texts, context_length=context + 1)  # room enough to see what would be cut
        if n_tokens or isinstance(self.tokenizer, SimpleTokenizer):
            long = self._end(longer) + n_tokens >= context
        else:
            long = (longer[:, :context] != self._tokens(texts)).any(1)
        return long.nonzero()[:, 0].tolist()

    def _end(self, tokens: Tensor) -> Tensor:
        """The place of the end token, (n,): in CLIP's vocabulary it has the highest id; after it comes padding."""
        if not isinstance(self.tokenizer, SimpleTokenizer):
            raise ValueError(
                f"backbone {self.name!r}: noise tokens need a tokenizer whose end token has the highest id, CLIP's"
            )
        return tokens.argmax(1)

    def _tokens(self, texts: list[str], **room: int) -> Tensor:
        if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"texts must be a list of at least one str, got {texts!r:.80}")
        return self.tokenizer(list(texts), **room)

    def _embedding(self) -> nn.Embedding:
        tower = getattr(self.model, "text", self.model)
        if not isinstance(getattr(tower, "token_embedding", None), nn.Embedding):
            raise ValueError(f"backbone {self.name!r} has no token embedding to add noise to")
        return tower.token_embedding

    @torch.no_grad()
    def _encode(self, tokens: Tensor, batch_size: int, noisy: Tensor | None = None, noise: Tensor | None = None):
        out = []
        length = int(tokens.argmax(1).max()) + 1  # up to where a tower that `_context` shortens reads its feature off
        with self._context(length) as length:
            tokens = tokens[:, :length]
            for index in _progress(torch.arange(len(tokens)).split(batch_size), "texts", len(tokens), batch_size):
                handle = None
                if noisy is not None:  # the tower runs as it is; only what its embedding layer returns is changed
                    where, values = noisy[index, :length].to(self.device), noise[index].to(self.device)

                    def put(_, __, x, where=where, values=values):
                        x = x.clone()
                        x[where] = values.reshape(-1, x.shape[-1]).to(x.dtype)
                        return x

                    handle = self._embedding().register_forward_hook(put)
                try:
                    out.append(self.model.encode_text(tokens[index].to(self.device), normalize=False).float().cpu())
                finally:
                    if handle:
                        handle.remove()
        return _finite(torch.cat(out), "texts", self.name)

    @contextmanager
    def _context(self, length: int):
        """Shorten open_clip's own CLIP text tower to `length` tokens while inside; yields the length in force.

        Exact: the tower is causal and reads its feature off at the end token, so padding behind it never
        reaches the result. It is most of the work: CLIP's context is 77, a prompt has about 15 tokens.
        """
        model = self.model
        causal = type(model) is open_clip.CLIP and model.text_pool_type == "argmax" and model.attn_mask is not None
        if not causal:
            yield None
            return
        position, mask = model.positional_embedding, model.attn_mask
        try:
            model.positional_embedding = nn.Parameter(position[:length], requires_grad=False)
            model.attn_mask = mask[:length, :length]
            yield length
        finally:
            model.positional_embedding, model.attn_mask = position, mask


def _progress(blocks, what: str, n: int, batch_size: int):
    # a bar appears only when the wait is noticeable (tqdm's delay, in seconds), and goes when done
    if n <= batch_size:
        return blocks
    return tqdm(blocks, desc=f"embedding {what}", unit_scale=batch_size, delay=3, leave=False)


def _check_count(name: str, value: int, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be an int of at least {low}, got {value!r}")


def _describe(x) -> str:
    return f"{tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def _finite(features: Tensor, what: str, name: str) -> Tensor:
    if not bool(features.isfinite().all()):
        bad = int((~features.isfinite().all(1)).sum())
        raise ValueError(f"backbone {name!r} gave non-finite features for {bad} of {len(features)} {what}")
    return features


def load(name: str = "glyph", device: str | None = None, *, precision: str = "fp32") -> Backbone:
    """Load a model, in evaluation mode, frozen.

    Args:
        name: a model shipped with the package ("glyph"), "ARCH/TAG" of open_clip ("ViT-B-32-quickgelu/openai";
            the tag "random" gives untrained weights, seed 0), "local-dir:PATH" or "hf-hub:ORG/REPO".
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        precision: of the weights, as open_clip names it: "fp32", "fp16", "bf16".

    Raises ValueError for an unknown name, device or precision; for a folder without weights; for anything that cannot
    be fetched or read; and where weights trained with QuickGELU meet an architecture without it (or the reverse): the
    result would look like a bad model, not like an error.
    """
    device = _device(device)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    arch, tag = _architecture(name)
    # A released model without its weights is an error; only the tag "random" asks for none.
    create = open_clip.create_model_and_transforms if tag == "random" else open_clip.create_model_from_pretrained
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings("error", message=".*QuickGELU.*")
            torch.default_generator.manual_seed(0)  # models are made on the CPU; a GPU's generators are left alone
            model, *_, preprocess = create(
                arch, pretrained=None if tag == "random" else tag, precision=precision, device=device
            )
        tokenizer = _tokenizer(arch, model)
        model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # in which convolutions are faster
        with torch.no_grad():
            dim = model.encode_text(tokenizer(["a"]).to(device)).shape[1]
    except UserWarning as warning:
        raise ValueError(f"backbone {name!r}: {warning}") from warning
    except Exception as error:  # what damage raises is up to the format: safetensors, zip, pickle, gzip, json
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "" if arch.startswith("local-dir:") else " (no network?)"
        raise ValueError(f"backbone {name!r} could not be fetched or read{hint}: {reason}") from error
    size = model.visual.image_size
    return Backbone(
        name=name,
        model=model,
        preprocess=preprocess,
        tokenizer=tokenizer,
        device=device,
        image_size=size[0] if isinstance(size, (tuple, list)) else size,
        dim=dim,
        scale=float(model.logit_scale.float().exp()),
    )


def _device(asked: str | torch.device | None) -> torch.device:
    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {str(device)!r} asked for, but torch sees no GPU; use device='cpu'")
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"device must be one that torch can use here, such as 'cpu', got {asked!r}") from error
    return device


def _architecture(name: str) -> tuple[str, str | None]:
    """What open_clip calls a model, and its tag; raises ValueError for what is known to fail, before any download."""
    if not isinstance(name, str):
        raise ValueError(f"name must be a str, got {name!r}")
    if name in shipped():
        return f"local-dir:{ASSETS / name}", None
    if name.startswith("local-dir:"):
        folder = Path(name[10:])
        if not (folder / "open_clip_config.json").is_file():
            raise ValueError(f"backbone {name!r}: no open_clip_config.json in that folder")
        if not any(path.suffix in (".safetensors", ".bin", ".pth") for path in folder.iterdir()):
            raise ValueError(f"backbone {name!r}: no weights (.safetensors, .bin, .pth) in the folder {folder}")
    if name.startswith(("local-dir:", "hf-hub:")):
        return name, None
    arch, _, tag = name.rpartition("/")
    known = arch in open_clip.list_models()
    if not known or tag not in open_clip.list_pretrained_tags_by_model(arch) + ["random"]:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) if known else ""
        raise ValueError(
            f"backbone {name!r} is unknown; expected one of {', '.join(shipped())}, 'ARCH/TAG' from "
            f"open_clip.list_pretrained(), 'local-dir:PATH' or 'hf-hub:ORG/REPO'"
            + (f"; tags of {arch}: {tags}, random" if tags else "")
        )
    config = open_clip.get_model_config(arch)
    if (open_clip.get_pretrained_cfg(arch, tag) or {}).get("quick_gelu", False) and not config.get("quick_gelu", False):
        # open_clip only warns, and only after the download
        raise ValueError(
            f"backbone {name!r}: QuickGELU mismatch, the weights were trained with it and {arch} is without; "
            f"use the '-quickgelu' architecture"
        )
    if config["text_cfg"].keys() & {"hf_tokenizer_name", "hf_model_name"} and not importlib.util.find_spec(
        "transformers"
    ):
        raise ValueError(f"backbone {name!r} needs the package 'transformers' for its texts: pip install transformers")
    return arch, tag


def _tokenizer(arch: str, model: nn.Module) -> Callable:
    """open_clip's tokenizer, with the folder's own vocabulary where it has one."""
    vocabulary = Path(arch[10:]) / VOCABULARY if arch.startswith("local-dir:") else None
    words = {"bpe_path": str(vocabulary)} if vocabulary and vocabulary.is_file() else {}
    tokenizer = open_clip.get_tokenizer(arch, **words)
    table = getattr(getattr(model, "text", model), "token_embedding", None)
    if isinstance(tokenizer, SimpleTokenizer) and isinstance(table, nn.Embedding):
        ours, theirs = tokenizer.vocab_size, table.num_embeddings
        if ours > theirs:
            raise ValueError(
                f"a vocabulary of {ours} and weights for {theirs} words; is there a {VOCABULARY} in the folder?"
            )
    return tokenizer
