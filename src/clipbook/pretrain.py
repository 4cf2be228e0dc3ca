"""Train the shipped CLIP on the world, as a web-trained CLIP is trained on the web.

    python -m clipbook.pretrain --name glyph              # reproduces the shipped weights
    python -m clipbook.pretrain --name glyph-fair         # the control: content and style independent
    python -m clipbook.pretrain --name glyph-negatives    # glyph, trained on with false captions beside the true ones

Killed, it resumes from its last checkpoint; a step's data follow from (seed, step) alone. Scenes have
one object or, now and then, two; captions are web-like; objects tend to come in a favourite colour and
medium. Defined in {ref}`contrastive-pretraining`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from . import backbones, evaluate, geometry, negatives, prompts, world
from .backbones import ASSETS, VOCABULARY, Backbone
from .losses import alignment, negclip_loss, uniformity

VOCABULARY_SIZE = 4096
MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 24, "patch_size": None},
    "text_cfg": {"context_length": 32, "vocab_size": VOCABULARY_SIZE, "width": 128, "heads": 4, "layers": 3},
}
PREPROCESS = {
    "mean": [0.64, 0.63, 0.62], "std": [0.17, 0.17, 0.17], "interpolation": "bicubic", "resize_mode": "shortest",
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, but for rounding: data, optimiser, length."""

    correlation: float
    steps: int
    pairs: float = 0.3  # share of scenes with two objects
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup: int = 100
    seed: int = 0
    start: str = ""  # the shipped model to train on; "": from nothing
    # The rest concerns scenes of two objects, trained on.
    pair_correlation: float = 0.0
    negatives: tuple[str, ...] = ()  # each scene has a false caption of one of these `negatives.KINDS`, in turn
    twins: tuple[str, ...] = ()  # some scenes are counterfactuals of others, of these kinds in turn
    twinned: float = 0.5  # how many: a half is as many as there can be


# The first two ship with the package. The next two differ in their correlation alone: `make sweep` trains them, to
# measure what a web of that bias does to a model. The last four train glyph on: a third of a batch is as before, two
# thirds are scenes of two objects with full captions. One has false captions beside the true ones, one sees scenes
# together with counterfactuals of them, and one has both.
_ON = Recipe(0.75, 1600, pairs=2 / 3, batch_size=192, learning_rate=5e-4, start="glyph")
_SWAPS = ("swap_color", "swap_object", "reverse_relation")
RECIPES = {
    "glyph": Recipe(correlation=0.75, steps=1500),
    "glyph-fair": Recipe(correlation=0.0, steps=1500),
    "glyph-50": Recipe(correlation=0.5, steps=1500),
    "glyph-90": Recipe(correlation=0.9, steps=1500),
    "glyph-plain": _ON,
    "glyph-negatives": replace(_ON, negatives=_SWAPS),
    "glyph-twins": replace(_ON, twins=_SWAPS, steps=800),
    "glyph-both": replace(_ON, negatives=_SWAPS, twins=_SWAPS, steps=800),
}


def write_vocabulary(path: Path) -> None:
    """CLIP's byte-pair merges, cut to VOCABULARY_SIZE entries, so that small models stay small.

    Kept are the merges that the book's own words need, so these get CLIP's tokens, then the most frequent
    ones; any other English still tokenises, into shorter pieces.
    """
    full = open_clip.tokenizer.SimpleTokenizer()
    scenes = [world.sample(4000, seed=7, objects=k, novel=new) for k in (1, 2) for new in (False, True)]
    texts = [text for s in scenes for t in ("full", "content", "web") for text in world.caption(s, t)]
    words = sorted({word for text in texts for word in full.pat.findall(text.lower())})
    words += ["photo", "bad", "good", "cropped", "blurry", "drawing", "rendering", "close", "up", "type", "style"]
    needed, by_pair = set(), {"".join(pair): pair for pair in full.bpe_ranks}
    queue = [piece for word in words for piece in full.bpe(word).split()]
    while queue:  # a merged piece needs the merges of its parts
        pair = by_pair.get(queue.pop())
        if pair and pair not in needed:
            needed.add(pair)
            queue.extend(pair)
    ranked = sorted(full.bpe_ranks, key=full.bpe_ranks.get)
    rest = [pair for pair in ranked if pair not in needed][: VOCABULARY_SIZE - 514 - len(needed)]
    merges = sorted(needed | set(rest), key=full.bpe_ranks.get)
    lines = ["#version: cut from CLIP's bpe_simple_vocab_16e6 (MIT)"] + [" ".join(pair) for pair in merges]
    path.with_suffix(".tmp").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    os.replace(path.with_suffix(".tmp"), path)


def build(folder: Path, seed: int = 0) -> tuple[nn.Module, object]:
    """An untrained model of open_clip's CLIP class and its tokenizer; writes the vocabulary to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / VOCABULARY).is_file():
        write_vocabulary(folder / VOCABULARY)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**MODEL)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(
        bpe_path=str(folder / VOCABULARY), context_length=MODEL["text_cfg"]["context_length"]
    )
    return model, tokenizer


def batch(recipe: Recipe, step: int, device: torch.device | str = "cpu") -> tuple[Tensor, list[str], list[str]]:
    """Images (batch_size, 3, 64, 64) in [0, 1], captions and false captions of a step: a function of (seed, step)."""
    two = round(recipe.pairs * recipe.batch_size)
    images, captions, false = [], [], []
    for objects, n in ((1, recipe.batch_size - two), (2, two)):
        seed, on = (recipe.seed + 1) * 1_000_003 + 2 * step + objects, bool(recipe.start) and objects == 2
        if on:
            scenes, wrong = _together(recipe, n, seed)
            false += [text for s in wrong for text in world.caption(s)]
        else:
            scenes = [world.sample(n, seed=seed, objects=objects, correlation=recipe.correlation)] if n else []
        for some in scenes:
            images.append(world.render(some.to(device)))
            captions += world.caption(some, "full" if on else "web")
    return torch.cat(images), captions, false


def withheld(scenes: world.Scenes) -> Tensor:
    """Which scenes show two objects that training on never shows together, one pair in five: bool (n,)."""
    return (scenes.object + scenes.object2) % 5 == 0


def _together(recipe: Recipe, n: int, seed: int) -> tuple[list[world.Scenes], list[world.Scenes]]:
    """n scenes of two objects in two colours, none withheld; and scenes whose captions are false of them."""
    scenes = world.sample(3 * n + 20, seed=seed, objects=2, correlation=recipe.pair_correlation)
    scenes = scenes[(scenes.color != scenes.color2) & ~withheld(scenes)]
    other = lambda some, kind: negatives.counterfactual(some, kind, seed=seed)
    in_turn = lambda some, kinds: [other(some[i :: len(kinds)], kind) for i, kind in enumerate(kinds)]
    if not recipe.twins:
        return [scenes[:n]], in_turn(scenes[:n], recipe.negatives)
    m = int(n * recipe.twinned)
    shown, false = [scenes[: n - m], *in_turn(scenes[:m], recipe.twins)], []
    if recipe.negatives:  # of the next kind: a false caption of a twin's own kind would be true of the other twin
        kinds = recipe.negatives[1:] + recipe.negatives[:1]
        false = in_turn(shown[0], kinds) + [other(some, kind) for some, kind in zip(shown[1:], kinds)]
    return shown, false


def normalise(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(PREPROCESS[key], device=images.device)[:, None, None] for key in ("mean", "std"))
    return (images - mean) / std


def _ahead(recipe: Recipe, start: int, device: torch.device) -> Iterator[tuple[int, Tensor, list[str], list[str]]]:
    """Batches drawn one step ahead by a second thread, so that drawing and training overlap."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(batch, recipe, start, device)
        for step in range(start, recipe.steps):
            now = future.result()
            if step + 1 < recipe.steps:
                future = pool.submit(batch, recipe, step + 1, device)
            yield step, *now


def train(recipe: Recipe, folder: Path, *, device: str | None = None, checkpoint_every: int = 100) -> dict:
    """Train to the end of the recipe, resuming from `folder`/checkpoint.pt, and save the model there.

    Returns: what the model card tells: recipe, seconds, device, and the history, a list of `monitor`'s
    dicts with "step", "loss" and "scale", one every `checkpoint_every` steps.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model, tokenizer = build(folder, recipe.seed)
    if recipe.start:
        model.load_state_dict(backbones.load(recipe.start, "cpu").model.state_dict())
    model = model.to(device, memory_format=torch.channels_last)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]  # gains, biases and the scale do not decay
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6,
    )  # fmt: skip
    start, seconds, history, path = 0, 0.0, [], folder / "checkpoint.pt"
    if path.is_file():
        state = torch.load(path, map_location=device, weights_only=True)
        if state["recipe"] != asdict(recipe):
            raise ValueError(f"{path} was written by another recipe, {state['recipe']}; remove it to start afresh")
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start, seconds, history = state["step"], state["seconds"], state["history"]
    bar = tqdm(_ahead(recipe, start, device), initial=start, total=recipe.steps, desc="training", mininterval=1)
    clock = time.perf_counter() - seconds
    for step, images, captions, false in bar:
        warm = min(1.0, (step + 1) / recipe.warmup)
        rate = recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        model.train()
        tokens = tokenizer(captions + false).to(device)
        images = normalise(images.to(device)).contiguous(memory_format=torch.channels_last)
        # on CPUs the fused attention is the slow one for sequences as short as ours
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            image, text = model.encode_image(images), model.encode_text(tokens)
        true, wrong = text.float().split([len(captions), len(false)])
        loss = negclip_loss(image.float(), true, wrong if false else None, model.logit_scale.exp())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        model.logit_scale.data.clamp_(0, math.log(100))
        if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.steps:
            row = {"step": step + 1, "loss": loss.item(), "scale": model.logit_scale.exp().item()}
            history.append(row | monitor(model, tokenizer, recipe))
            bar.set_postfix({key: f"{history[-1][key]:.2f}" for key in ("loss", "accuracy", "accuracy_correlated")})
            seconds = time.perf_counter() - clock
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            state |= {"seconds": seconds, "history": history, "recipe": asdict(recipe)}
            torch.save(state, path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)
    save(model, folder)
    return {"recipe": asdict(recipe), "seconds": round(seconds), "device": device.type, "history": history}


@torch.no_grad()
def monitor(model: nn.Module, tokenizer, recipe: Recipe, n: int = 512) -> dict[str, float]:
    """Alignment, uniformity and gap on n pairs like the training's, zero-shot accuracy and binding, on scenes held out.

    `accuracy` is on scenes whose content and style are independent, `accuracy_correlated` on such as were
    trained on; "swap_color" and the like are shares of scenes of two objects whose own caption scores higher than that
    of their counterfactual. Returns: floats by name.
    """
    model.eval()
    device = model.logit_scale.device
    embed = lambda images: model.encode_image(normalise(images.to(device))).float().cpu()
    read = lambda texts: model.encode_text(tokenizer(texts).to(device)).float().cpu()
    classes = read(prompts.fill("a picture of a {}", world.OBJECTS))
    seen = world.sample(n, seed=1, correlation=recipe.correlation)
    fresh = world.sample(n, seed=2)
    image, text = embed(world.render(seen)), read(world.caption(seen, "web"))
    pairs = world.sample(8 * n if recipe.start else n, seed=3, objects=2)
    pairs = pairs[(pairs.color != pairs.color2) & (withheld(pairs) if recipe.start else True)][:n]
    drawn, true = embed(world.render(pairs)), read(world.caption(pairs))
    false = {kind: read(world.caption(negatives.counterfactual(pairs, kind))) for kind in negatives.KINDS[:3]}
    return {
        "alignment": float(alignment(image, text)),
        "image_uniformity": float(uniformity(image)),
        "text_uniformity": float(uniformity(text)),
        "gap": geometry.modality_gap(image, text),
        "accuracy": evaluate.zero_shot(embed(world.render(fresh)), classes, fresh.object),
        "accuracy_correlated": evaluate.zero_shot(image, classes, seen.object),
        **{kind: evaluate.binding(drawn, true, wrong) for kind, wrong in false.items()},
    }


def score(backbone: Backbone, correlation: float, seeds: tuple[int, ...] = (11, 12, 13), n: int = 2400) -> dict:
    """The figures of the model card, means over seeds that training never used, in [0, 1].

    Zero-shot accuracy with the prompt "a picture of a(n) X" on fresh scenes, correlated as in training and
    decorrelated (mean over media, worst medium); the same, decorrelated, with the prompt sets C, CP, PC and
    NC; colour binding on pairs of different colours; modality gap on decorrelated scenes and full captions.
    """
    classes = list(world.OBJECTS)
    sets = {"picture": backbone.embed_texts(prompts.fill("a picture of a {}", classes))}
    sets |= {name: backbone.embed_texts(prompts.fill(t, classes)) for name, t in prompts.PROMPT_SETS.items()}
    rows = []
    for seed in seeds:
        noise = torch.Generator().manual_seed(seed)
        sets["NC"] = backbone.embed_noised_texts(classes, generator=noise)
        fresh, seen = world.sample(n, seed=seed), world.sample(n, seed=seed + 100, correlation=correlation)
        image = backbone.embed_images(world.render(fresh))
        hit = {name: evaluate.predict(image, text) == fresh.object for name, text in sets.items()}
        medium = {
            name: [float(h[fresh.medium == m].float().mean()) for m in range(len(world.MEDIA))]
            for name, h in hit.items()
        }
        pairs = world.sample(n // 2, seed=seed + 200, objects=2)
        pairs = pairs[pairs.color != pairs.color2]
        swapped = negatives.counterfactual(pairs, "swap_color")
        row = {name: sum(values) / len(values) for name, values in medium.items() if name != "picture"}
        row["decorrelated"] = sum(medium["picture"]) / len(world.MEDIA)
        row |= {f"decorrelated {name}": v for name, v in zip(world.MEDIA, medium["picture"])}
        row["correlated"] = evaluate.zero_shot(backbone.embed_images(world.render(seen)), sets["picture"], seen.object)
        row["binding_color"] = evaluate.binding(
            backbone.embed_images(world.render(pairs)),
            backbone.embed_texts(world.caption(pairs)),
            backbone.embed_texts(world.caption(swapped)),
        )
        row["gap"] = geometry.modality_gap(image, backbone.embed_texts(world.caption(fresh)))
        rows.append(row)
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    mean["worst_medium"] = min(mean[f"decorrelated {name}"] for name in world.MEDIA)
    return mean


def write_card(name: str, facts: dict, folder: Path) -> None:
    """Write card.json (for chapters) and README.md (for people) beside the weights in `folder`."""
    scores = score(backbones.load(f"local-dir:{folder}"), facts["recipe"]["correlation"] or 0.75)
    _write(folder / "card.json", json.dumps({"name": name, **facts, "scores": scores}, indent=1) + "\n")
    recipe = facts["recipe"]
    on = ""
    if recipe["start"]:
        on = f" Those with two objects have full captions, correlation {recipe['pair_correlation']}"
        on += ", a false caption beside each" if recipe["negatives"] else ""
        on += f", {recipe['twinned']:.0%} of them counterfactuals of others" if recipe["twins"] else ""
        on += f".\n- Starts from the weights of {recipe['start']}."
    pick = ("correlated", "decorrelated", "worst_medium", "C", "CP", "PC", "NC", "binding_color")
    table = "\n".join(f"| {key} | {100 * scores[key]:.1f}% |" for key in pick)
    _write(
        folder / "README.md",
        f"""# {name}

A small CLIP (open_clip's `CLIP` class: a ModifiedResNet and a text transformer) that has only ever seen the
drawn world of `clipbook.world`. It is for teaching: it knows {len(world.OBJECTS)} icons and nothing of photographs.

- Data: fresh scenes at every step, {recipe["pairs"]:.0%} of them with two objects, web-like captions;
  content-style correlation {recipe["correlation"]}.{on}
- Training: {recipe["steps"]} steps of {recipe["batch_size"]}, AdamW {recipe["learning_rate"]}, weight decay
  {recipe["weight_decay"]}, cosine, seed {recipe["seed"]}; {facts["seconds"] / 60:.0f} minutes on one {facts["device"]}.
- Reproduce: `python -m clipbook.pretrain --name {name}` (equal up to rounding on another machine).
- Weights: half precision. Vocabulary: cut from CLIP's (MIT); pass `{VOCABULARY}` as `bpe_path` when you load
  the tokenizer with open_clip directly; `clipbook.backbones.load` does.

| measured on fresh scenes, three seeds | |
|---|---|
{table}
| modality gap | {scores["gap"]:.2f} |
""",
    )


def card(name: str) -> dict:
    """The card of a shipped model: "recipe", "seconds", "device", "history" (see `train`) and "scores".

    Raises ValueError for a model that does not ship with the package.
    """
    path = ASSETS / name / "card.json"
    if not path.is_file():
        raise ValueError(f"no card for {name!r}; shipped models are {', '.join(backbones.shipped())}")
    return json.loads(path.read_text())


def _write(path: Path, text: str) -> None:
    path.with_suffix(".tmp").write_text(text)
    os.replace(path.with_suffix(".tmp"), path)


def save(model: nn.Module, folder: Path) -> None:
    """Write a model in open_clip's own layout, half precision: it then loads as "local-dir:FOLDER"."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: (value.half() if value.is_floating_point() else value).cpu().contiguous().clone()
        for key, value in model.state_dict().items()
    }
    save_file(tensors, str(folder / "weights.tmp"), metadata={"format": "pt"})
    (folder / "weights.tmp").chmod(0o644)  # safetensors writes for the owner alone
    os.replace(folder / "weights.tmp", folder / "open_clip_model.safetensors")
    _write(
        folder / "open_clip_config.json",
        json.dumps({"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}, indent=2) + "\n",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="glyph", choices=RECIPES, help="whose recipe")
    parser.add_argument("--out", type=Path, help="folder; default build/NAME. Killed runs resume from it")
    parser.add_argument("--device", help="cpu, cuda; default the best there is")
    shape = ("correlation", "pair_correlation", "steps", "pairs", "twinned", "batch_size", "learning_rate", "seed")
    for field in shape:
        kind = type(getattr(RECIPES["glyph"], field))
        parser.add_argument(f"--{field}", type=kind, help=f"instead of the recipe's {field}")
    given = vars(parser.parse_args())
    name, out, device = (given.pop(key) for key in ("name", "out", "device"))
    recipe = replace(RECIPES[name], **{key: value for key, value in given.items() if value is not None})
    folder = out or Path("build") / name
    write_card(name, train(recipe, folder, device=device), folder)
    print((folder / "README.md").read_text())


if __name__ == "__main__":
    main()
