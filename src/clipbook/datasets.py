"""Named image sets with classes, domains and splits. Pictures are drawn or decoded only when asked for.

    glyphs            single objects of the glyph world, every object in every medium equally often, colour,
                      size and finish independent of both; classes are OBJECTS, domains are MEDIA
    glyph-pairs       scenes of two objects with their full captions; the class is that of the first object
    imagefolder:PATH  PATH/domain/class/*.jpg (or jpeg, png, webp, bmp, gif, tif, tiff), every image of it
    CIFAR10, DTD, ..  any labelled set of torchvision, by class name; looked for in the folder CLIPBOOK_DATA
                      if that is set, otherwise downloaded into the cache

Reading order: `load` chooses, one short function per kind builds, `ImageDataset` holds and decodes.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor

from clipbook import world

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# Far from the seeds a chapter or a training run would count up from: these scenes are never trained on.
_SPLIT_SEEDS = {"train": 900_000_001, "val": 900_000_002, "test": 900_000_003}
_GLYPHS, _PAIRS = 2048, 1024  # default sizes: 8 scenes for each object in each medium; a second to embed


class Unavailable(RuntimeError):
    """Something that must be downloaded cannot be: no network, no answer. One line says what."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset:
    """n images with a class and a domain each; indices point into `classes` and `domains`.

    Class folders become words: "alarm_clock" is the class "alarm clock", ready for a prompt; domains keep
    their names. `fingerprint` changes whenever an image, a label, the order or the code that draws scenes
    may have changed.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    label: Tensor  # int64 (n,)
    domain: Tensor  # int64 (n,)
    fingerprint: str
    captions: tuple[str, ...] | None = None
    scenes: world.Scenes | None = None  # the causes of each image, where they are known
    skip_unreadable: bool = False
    _names: tuple[str, ...] = ()  # how each image is called in messages; for folders its path
    _source: torch.utils.data.Dataset | None = None  # where items (PIL image, label) come from; None: files

    def __len__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        kinds = f"{len(self.classes)} classes, {len(self.domains)} domains"
        return f"ImageDataset({self.name!r}, split={self.split!r}: {len(self)} images, {kinds})"

    def image(self, index: int) -> Image.Image:
        """One picture, RGB, at its own size. Raises ValueError naming an image that cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}, got {index}")
        try:
            return self._decode(index)
        except Exception as error:
            raise ValueError(_unreadable(self._names[index], _reason(error))) from None

    def prepared(
        self, preprocess: Callable[[Image.Image], Tensor], batch_size: int = 64
    ) -> Iterator[tuple[Tensor, Tensor, list[tuple[str, str]]]]:
        """All pictures in order, decoded and preprocessed in worker processes, a batch at a time.

        Args: preprocess: PIL image -> float (3, s, s), as `Backbone.preprocess`.

        Yields: index (b,) int64, batch (b, 3, s, s), and the (name, reason) of images that could not be
        read and are missing from this batch; with skip_unreadable=False the first raises ValueError.
        """
        # Few images: starting workers costs more than decoding. torch's own random state is left alone,
        # otherwise whatever follows would differ between a first run and one that finds its cache.
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        loader = torch.utils.data.DataLoader(
            _Decoder(self, preprocess),
            batch_size=batch_size,
            num_workers=0 if len(self) < 512 or usable < 2 else min(usable, 8),
            collate_fn=_collate,
            generator=torch.Generator().manual_seed(0),
        )
        for index, batch, failures in loader:
            if failures and not self.skip_unreadable:
                hint = "; skip_unreadable=True in datasets.load leaves such images out"
                raise ValueError(_unreadable(*failures[0]) + hint)
            yield torch.from_numpy(index), torch.from_numpy(batch), failures

    def _decode(self, index: int) -> Image.Image:
        if self.scenes is not None:
            pixels = world.render(self.scenes[int(index)])[0]
            return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
        if self._source is not None:
            return _rgb(self._source[index][0])
        with Image.open(self._names[index]) as image:
            return _rgb(image)


class _Decoder(torch.utils.data.Dataset):
    """What runs in a worker. A failure is data: an exception would come back as a worker's traceback."""

    def __init__(self, dataset: ImageDataset, preprocess: Callable):
        self.dataset, self.preprocess = dataset, preprocess

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray | None, tuple[str, str]]:
        try:
            image = self.dataset._decode(index)
        except Exception as error:  # decoders raise nearly anything on damaged files
            return index, None, (self.dataset._names[index], _reason(error))
        return index, self.preprocess(image).numpy(), ("", "")


def _collate(rows: list) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """Arrays rather than tensors: they travel by pipe, and small /dev/shm (containers) cannot fill up."""
    good = [(index, array) for index, array, _ in rows if array is not None]
    batch = np.stack([array for _, array in good]) if good else np.zeros((0, 3, 1, 1), np.float32)
    return np.array([i for i, _ in good], np.int64), batch, [f for _, array, f in rows if array is None]


def _rgb(image: Image.Image) -> Image.Image:
    """In RGB; PIL would clip grey of 16 bits at 255, and old versions call a PNG of it "I"."""
    if image.mode.startswith("I;16") or (image.format, image.mode) == ("PNG", "I"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def may_pass(reason: str) -> bool:
    """Whether an image could not be read for a reason of the system's, such as too many open files, not its own."""
    return ": [Errno " in reason  # as Python prints an OSError that has an errno; decoders raise it without


def _unreadable(name: str, reason: str) -> str:
    return f"unreadable image {name} ({reason})"


def load(name: str, split: str = "test", n: int | None = None, skip_unreadable: bool = False) -> ImageDataset:
    """An image set by name (see the top of this file).

    Args:
        name: "glyphs", "glyph-pairs", "imagefolder:PATH", or a torchvision class name.
        split: "train", "val" or "test"; glyphs of different splits share no scene. A folder has only "test",
            which means every image in it; torchvision's sets have their own.
        n: how many images, the classes of every domain as equal in number as they can be. None: 2048 glyphs,
            1024 pairs, all of a folder or of a torchvision set, which is also what a larger n gives.
            The choice is random and always the same.
        skip_unreadable: leave out images that cannot be decoded, with a warning that names them, instead of
            stopping at the first.

    Raises ValueError for an unknown name or split, a folder that is missing, empty or differently laid out,
    a bad n; Unavailable when a torchvision set cannot be downloaded.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a non-empty str, got {name!r}")
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise ValueError(f"n must be a positive int or None, got {n!r}")
    if name in ("glyphs", "glyph-pairs"):
        _check_split(name, split, tuple(_SPLIT_SEEDS))
        return (_glyphs if name == "glyphs" else _glyph_pairs)(split, n)
    if name.startswith("imagefolder:"):
        _check_split(name, split, ("test",))
        return _folder(name, Path(name.partition(":")[2]).expanduser(), n, skip_unreadable)
    if name in torchvision.datasets.__all__:
        return _torchvision(name, split, n, skip_unreadable)
    raise ValueError(
        f"unknown dataset {name!r}; expected 'glyphs', 'glyph-pairs', 'imagefolder:PATH' "
        "or the name of a torchvision dataset such as 'CIFAR10'"
    )


def _check_split(name: str, split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        raise ValueError(f"split of {name} must be {' or '.join(map(repr, splits))}, got {split!r}")


def _fingerprint(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.contiguous().numpy().tobytes() if isinstance(part, Tensor) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _of_scenes(name: str, split: str, scenes: world.Scenes, captions: tuple[str, ...] | None) -> ImageDataset:
    # Pixels follow from the scenes, the code that draws them, and the font (matplotlib's) it draws with.
    drawing = hashlib.sha256(Path(world.__file__).read_bytes()).hexdigest()
    fingerprint = _fingerprint(name, drawing, matplotlib.__version__, captions, *vars(scenes).values())
    return ImageDataset(
        name, split, world.OBJECTS, world.MEDIA, scenes.object, scenes.medium, fingerprint, captions, scenes
    )


def _glyphs(split: str, n: int | None) -> ImageDataset:
    n, objects, media = n or _GLYPHS, len(world.OBJECTS), len(world.MEDIA)
    generator = torch.Generator().manual_seed(_SPLIT_SEEDS[split])
    # A round shows every object once, group after group with each medium once in a group, and the next round
    # moves every object on to its next medium: whatever n is, counts of objects, of media and of both
    # together differ by at most one. Who is in which group, and all order, is random.
    rounds, place = torch.arange(-(-n // objects)), torch.arange(objects)
    member = torch.rand(len(rounds) // media + 1, objects, generator=generator).argsort(1)[rounds // media]
    group = torch.rand(len(rounds), objects, generator=generator).argsort(1)[:, place // media]
    order = (group + torch.rand(len(rounds), objects, generator=generator)).argsort(1)
    obj, medium = member.gather(1, order).flatten()[:n], ((order + rounds[:, None]) % media).flatten()[:n]
    scenes = world.sample(n, seed=_SPLIT_SEEDS[split], object=obj, medium=medium)
    return _of_scenes("glyphs", split, scenes, None)


def _glyph_pairs(split: str, n: int | None) -> ImageDataset:
    scenes = world.sample(n or _PAIRS, seed=_SPLIT_SEEDS[split], objects=2)
    return _of_scenes("glyph-pairs", split, scenes, tuple(world.caption(scenes)))


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _folder(name: str, root: Path, n: int | None, skip_unreadable: bool) -> ImageDataset:
    layout = "expected PATH/domain/class/*.jpg"
    if name == "imagefolder:" or not root.is_dir():
        raise ValueError(f"{name}: {root} is not a folder; {layout}")
    domains = _folders(root)
    if not domains:
        raise ValueError(f"{name}: {root} has no domain folders; {layout}")
    names, label, domain, stats, classes = [], [], [], [], None
    for d, domain_path in enumerate(domains):
        class_paths = _folders(domain_path)
        found = [path.name for path in class_paths]
        if not found:
            raise ValueError(f"{name}: domain {domain_path} has no class folders; {layout}")
        if classes is not None and found != classes:
            odd = sorted(set(found) ^ set(classes))
            raise ValueError(
                f"{name}: domains {domains[0].name!r} and {domain_path.name!r} must have the same classes, "
                f"but only one of them has {', '.join(map(repr, odd[:5]))}{' ...' if len(odd) > 5 else ''}"
            )
        classes = found
        for c, class_path in enumerate(class_paths):
            with os.scandir(class_path) as entries:
                files = sorted(
                    (e.name, e.stat().st_size, e.stat().st_mtime_ns)
                    for e in entries
                    if e.name.lower().endswith(SUFFIXES) and not e.name.startswith(".") and e.is_file()
                )
            if not files:
                raise ValueError(f"{name}: class folder {class_path} has no images ({', '.join(SUFFIXES)})")
            names += [str(class_path / file) for file, _, _ in files]
            stats += files
            label += [c] * len(files)
            domain += [d] * len(files)
    label, domain = torch.tensor(label), torch.tensor(domain)
    keep = _balanced(label + len(classes) * domain, n)
    words, domain_names = tuple(c.replace("_", " ") for c in classes), tuple(path.name for path in domains)
    if len(set(words)) < len(words):
        raise ValueError(f"{name}: two class folders in {domains[0]} have the same name (_ reads as a space)")
    # Names, sizes and times of change stand for content: reading every byte would cost as much as decoding.
    # Paths are left out, so a folder that moved keeps its features.
    chosen = [stats[i] for i in keep.tolist()]
    fingerprint = _fingerprint("imagefolder", classes, domain_names, chosen, label[keep], domain[keep])
    names = tuple(names[i] for i in keep.tolist())
    return ImageDataset(
        name, "test", words, domain_names, label[keep], domain[keep], fingerprint,
        skip_unreadable=skip_unreadable, _names=names,
    )  # fmt: skip


def _balanced(cell: Tensor, n: int | None) -> Tensor:
    """Indices of n rows, in order, spread over cells as evenly as the cells allow; None: all rows."""
    total = len(cell)
    if n is None or n >= total:
        return torch.arange(total)
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    order = shuffled[cell[shuffled].argsort(stable=True)]  # random within a cell, cells one after another
    count = cell[order].bincount()
    turn = torch.arange(total) - (count.cumsum(0) - count)[cell[order]]  # the k-th of its cell
    # all first ones come before all second ones; who among the last round is left out is random too
    tie = torch.rand(total, generator=torch.Generator().manual_seed(1))
    return order[(turn + tie).argsort()[:n]].sort().values


def _torchvision(name: str, split: str, n: int | None, skip_unreadable: bool) -> ImageDataset:
    kind = getattr(torchvision.datasets, name)
    known = inspect.signature(kind.__init__).parameters
    root = Path(os.environ.get("CLIPBOOK_DATA") or cache_folder() / "torchvision").expanduser()
    options: dict[str, Any] = {"root": str(root)} if "root" in known else {}
    if "train" in known:
        _check_split(name, split, ("train", "test"))
        options["train"] = split == "train"
    elif "split" in known:
        options["split"] = split
    else:
        _check_split(name, split, ("test",))  # no splits of its own: like a folder, "test" is everything
    if "download" in known:
        options["download"] = True  # looks whether it is there first
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # torchvision waits for ever otherwise
    try:
        source = kind(**options)
    except (OSError, RuntimeError) as error:  # no connection, nowhere to write, or not to be had by download
        where = f"is not in {root} and could not be put there"
        raise Unavailable(f"torchvision's {name} {where} ({_reason(error)})") from None
    except (TypeError, ValueError) as error:  # it needs more than a name, or has no such split
        reason = _reason(error)
        raise ValueError(f"torchvision's {name} cannot be loaded with split={split!r} ({reason})") from None
    finally:
        socket.setdefaulttimeout(patience)
    classes = getattr(source, "classes", None) or getattr(source, "categories", None)
    if not classes:
        raise ValueError(f"torchvision's {name} does not name its classes, so there is nothing to prompt with")
    # ImageNet's classes are tuples of synonyms: the first is the name
    words = tuple((c if isinstance(c, str) else c[0]).replace("_", " ") for c in classes)
    label = _labels(source)
    keep = _balanced(label, n)
    fingerprint = _fingerprint(name, split, str(root), torchvision.__version__, words, keep, label)
    names = tuple(f"{name}[{i}]" for i in keep.tolist())
    return ImageDataset(
        name, split, words, (name,), label[keep], torch.zeros(len(keep), dtype=torch.int64), fingerprint,
        skip_unreadable=skip_unreadable, _names=names, _source=torch.utils.data.Subset(source, keep.tolist()),
    )  # fmt: skip


def _labels(source: Any) -> Tensor:
    """Labels without decoding: torchvision keeps them under one of these names, but for a few small sets."""
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(source, attribute, None)
        if values is not None and len(values) == len(source):
            return torch.as_tensor(np.asarray(values)).to(torch.int64)
    for attribute in ("_samples", "samples"):
        values = getattr(source, attribute, None)
        if values is not None and len(values) == len(source):
            return torch.tensor([int(label) for _, label in values])
    return torch.tensor([int(source[i][1]) for i in range(len(source))])


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where downloads and features are kept: cache_dir, else CLIPBOOK_CACHE, else ~/.cache/clipbook."""
    return Path(cache_dir or os.environ.get("CLIPBOOK_CACHE") or "~/.cache/clipbook").expanduser()
