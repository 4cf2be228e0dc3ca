"""Features of a data set, embedded once; and real CLIP features that others released.

A cache entry is found by content: what went in (weights, preprocessing, images, the code in between)
makes its name, so it never has to be declared stale. It appears complete or not at all, is verified
when read, and is made again when damaged. Deleting the cache folder is always safe.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import tempfile
import time
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import open_clip
import PIL
import torch
import torchvision
from torch import Tensor
from tqdm import tqdm

from clipbook import backbones, datasets, world
from clipbook.backbones import Backbone
from clipbook.datasets import ImageDataset, Unavailable, cache_folder

__all__ = ["PUBLISHED", "Features", "Unavailable", "embed", "published"]

_FORMAT = 1  # of an entry; raise it when the layout of the file changes
_BLOCK = 256  # scenes drawn, or captions embedded, at a time
_DELAY = 2  # seconds before a progress bar shows
_PATIENCE = 5  # seconds without an answer before a download is given up


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """What a backbone makes of a data set. Rows of image, label, domain (and text) belong together.

    image: float32 (n, d), un-normalised. label: int64 (n,), index into classes. domain: int64 (n,), index
    into domains. text: float32 (n, d), features of the captions of a set that has them. Where there are
    no classes or domains (released pairs), the indices are -1.
    """

    image: Tensor
    label: Tensor
    domain: Tensor
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    text: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def __repr__(self) -> str:
        kinds = f"{len(self.classes)} classes, {len(self.domains)} domains"
        return f"Features({len(self)} x {self.image.shape[1]}, {kinds}{', with text' * (self.text is not None)})"


# ------------------------------------------------------------------------------------------ embedding


def embed(backbone: Backbone, dataset: ImageDataset, cache_dir: str | Path | None = None) -> Features:
    """Features of every image of a data set, and of its captions where it has them; computed once.

    Args:
        backbone: from `backbones.load`.
        dataset: from `datasets.load`.
        cache_dir: where features are kept; None: the folder CLIPBOOK_CACHE, else ~/.cache/clipbook.

    Returns: Features on the CPU. Images are drawn or decoded a batch at a time, so memory holds the
    features and one batch. Unreadable images are missing from the rows if the set was loaded with
    skip_unreadable=True (a warning names them, from the cache too), and a ValueError otherwise; where the
    system failed and not the image, nothing is cached, so that the next call tries again. Raises
    ValueError for features that are not finite; nothing is cached then. A cache that cannot be written
    to is a warning.
    """
    if not isinstance(dataset, ImageDataset):
        raise ValueError(f"dataset must come from datasets.load, got {dataset!r:.60}")
    folder = cache_folder(cache_dir) / "features"
    path = folder / f"{_key(backbone, dataset)}.npz"
    found = _read(path, backbone, dataset)
    if found is None:
        found = _compute(backbone, dataset)
        try:
            if not any(datasets.may_pass(reason) for _, reason in found[1]):
                with _whole(path) as file:
                    _write(file, *found)
        except OSError as error:
            warnings.warn(f"features of {dataset.name} are not kept: {error}", stacklevel=2)
    features, skipped = found
    if skipped:
        names = "; ".join(f"{name} ({reason})" for name, reason in skipped[:20])
        more = f" and {len(skipped) - 20} more" if len(skipped) > 20 else ""
        warnings.warn(f"left out {len(skipped)} unreadable images: {names}{more}", stacklevel=2)
    return features


def _key(backbone: Backbone, dataset: ImageDataset) -> str:
    """The name of an entry: a digest of everything that features depend on."""
    # Transforms print their settings; functions among them print where they live in memory as well.
    preprocess = re.sub(r" at 0x[0-9a-f]+", "", repr(backbone.preprocess))
    dtype = next(backbone.model.parameters()).dtype  # precision, and kind of device, move the last digits
    parts = {
        "format": _FORMAT,
        "backbone": [backbone.name, backbone.weights_id, str(dtype), backbone.device.type],
        "preprocess": preprocess,
        "dataset": [dataset.fingerprint, dataset.skip_unreadable],
        "code": [hashlib.sha256(Path(m.__file__).read_bytes()).hexdigest() for m in (backbones, datasets, world)],
        "versions": [m.__version__ for m in (open_clip, torchvision, PIL)],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _compute(backbone: Backbone, dataset: ImageDataset) -> tuple[Features, list[tuple[str, str]]]:
    kept, image, skipped = [], [], []
    with _bar(f"embedding {dataset.name}", len(dataset), "image") as bar:
        if dataset.scenes is not None:
            for index in torch.arange(len(dataset)).split(_BLOCK):
                scenes = dataset.scenes[index].to(backbone.device)  # drawn where they are looked at
                image.append(backbone.embed_images(world.render(scenes)))
                kept.append(index)
                bar.update(len(index))
        else:
            for index, batch, failures in dataset.prepared(backbone.preprocess):
                if len(index):
                    image.append(backbone.embed_prepared(batch))
                kept.append(index)
                skipped += failures
                bar.update(len(index) + len(failures))
    if not image:
        raise ValueError(f"dataset {dataset.name} has no image that can be read; the first: {skipped[0][0]}")
    rows, image, text = torch.cat(kept), torch.cat(image), None
    if dataset.captions is not None:
        captions = [dataset.captions[i] for i in rows.tolist()]
        with _bar(f"embedding captions of {dataset.name}", len(captions), "text") as bar:
            text = []
            for start in range(0, len(captions), _BLOCK):
                text.append(backbone.embed_texts(captions[start : start + _BLOCK]))
                bar.update(len(text[-1]))
        text = torch.cat(text)
    for name, x in (("image", image), ("text", text)):
        if x is not None and not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).any(1).sum())
            raise ValueError(
                f"backbone {backbone.name!r} gave NaN or infinite {name} features for {bad} of {len(x)} rows "
                f"of {dataset.name}"
            )
    label, domain = dataset.label[rows], dataset.domain[rows]
    return Features(image, label, domain, dataset.classes, dataset.domains, text), skipped


def _bar(what: str, total: int | None, unit: str) -> tqdm:
    """A progress bar that shows only when there is something to wait for, and goes when it is over."""
    return tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", delay=_DELAY, leave=False)


# ------------------------------------------------------------------------------------- files, whole or not


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when complete: written beside it, flushed, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob("*.part"):  # left by a process that was killed while writing
        try:
            if time.time() - part.stat().st_mtime > 600:
                part.unlink()
        except OSError:  # another process was faster
            continue
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.stem + ".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _write(file: IO[bytes], features: Features, skipped: list[tuple[str, str]]) -> None:
    """One .npz without pickles; zip keeps a checksum of each member."""
    words = {"classes": features.classes, "domains": features.domains, "skipped": skipped}
    arrays = {"image": features.image, "label": features.label, "domain": features.domain}
    if features.text is not None:
        arrays["text"] = features.text
    arrays = {name: x.numpy() for name, x in arrays.items()}
    np.savez(file, words=np.frombuffer(json.dumps(words).encode(), np.uint8), **arrays)


def _read(path: Path, backbone: Backbone, dataset: ImageDataset) -> tuple[Features, list[tuple[str, str]]] | None:
    """A verified entry; None when there is none, or when it is damaged (said in a warning)."""
    try:
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise ValueError(f"checksum of {bad} is wrong")
        with np.load(path, allow_pickle=False) as entry:
            arrays = dict(entry)
        words = json.loads(arrays.pop("words").tobytes())
        tensors = {name: torch.from_numpy(x) for name, x in arrays.items()}
        features = Features(classes=tuple(words["classes"]), domains=tuple(words["domains"]), **tensors)
        n, text = len(dataset) - len(words["skipped"]), dataset.captions is not None
        expected = {name: ((n, backbone.dim), torch.float32) for name in ["image"] + ["text"] * text}
        expected |= {name: ((n,), torch.int64) for name in ("label", "domain")}
        if {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()} != expected:
            raise ValueError("arrays of another kind, width or number of rows")
        if (features.classes, features.domains) != (dataset.classes, dataset.domains):
            raise ValueError("other classes or domains")
        return features, [tuple(pair) for pair in words["skipped"]]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damage can surface anywhere between the zip and the json
        warnings.warn(f"cache entry {path} is damaged ({error}); it is made again", stacklevel=3)
        return None


# ------------------------------------------------------------------------------------ published features


@dataclass(frozen=True)
class _Release:
    url: str
    sha256: str
    folder: str  # of a local copy inside CLIPBOOK_DATA

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


_MIND_THE_GAP = (
    "https://raw.githubusercontent.com/Weixin-Liang/Modality-Gap/"
    "8e20cb24efa4c5f89aad694f2f65eb43ffc46d10/Figure_1_Modality_Gap/"
)
# 500 image and caption pairs of MS COCO in CLIP ViT-B/32's space, trained and with random weights:
# Liang et al. 2022, "Mind the Gap" (arXiv 2203.02053), MIT licence. Unit to three digits: re-normalise.
PUBLISHED = {
    "mind-the-gap": _Release(
        _MIND_THE_GAP + "features_clip.npy",
        "7227280ace0f145d2c45afa8ab507a1cb280e9460aa271fe9052d08e35342adb",
        "modality_gap",
    ),
    "mind-the-gap-random": _Release(
        _MIND_THE_GAP + "features_clip_random.npy",
        "c6a5f9ca3fba36d635fd47d20b3cdd5b9ac78dc462070240fdc2ee2786110403",
        "modality_gap",
    ),
}


def published(name: str, cache_dir: str | Path | None = None) -> Features:
    """Features of real images and captions that the authors of a paper released.

    The file is looked for in the folder CLIPBOOK_DATA if that is set (at its top or in the folder that
    `PUBLISHED` names), then in the cache, then downloaded into it; its sha256 is checked each time.

    Args:
        name: "mind-the-gap" (500 COCO pairs, d = 512) or "mind-the-gap-random" (the same, untrained CLIP).
        cache_dir: as in `embed`.

    Returns: Features with image and text float32 (500, 512), no classes, no domains. Raises ValueError for
    an unknown name, a CLIPBOOK_DATA that is no folder, and a file that is not what was published; and
    `Unavailable`, whose message is one line, when there is no network or no answer within seconds.
    """
    if name not in PUBLISHED:
        raise ValueError(f"unknown published features {name!r}; expected one of {', '.join(PUBLISHED)}")
    release = PUBLISHED[name]
    image, text = torch.from_numpy(np.load(io.BytesIO(_fetch(name, release, cache_dir)), allow_pickle=False))
    nothing = torch.full((len(image),), -1)
    return Features(image.float(), nothing, nothing.clone(), (), (), text.float())


def _fetch(name: str, release: _Release, cache_dir: str | Path | None) -> bytes:
    """The verified bytes of a released file, from a local copy, the cache or its source."""
    if local := os.environ.get("CLIPBOOK_DATA"):
        folder = Path(local).expanduser()
        if not folder.is_dir():
            raise ValueError(f"CLIPBOOK_DATA must name a folder, got {local!r}")
        for path in (folder / release.file, folder / release.folder / release.file):
            if path.is_file():
                return _verified(path.read_bytes(), release, str(path))
    path = cache_folder(cache_dir) / "published" / f"{release.sha256[:12]}-{release.file}"
    try:
        return _verified(path.read_bytes(), release, str(path))
    except FileNotFoundError:
        pass
    except ValueError as error:
        warnings.warn(f"{error}; it is downloaded again", stacklevel=3)
    try:
        data = _download(release.url)
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", error)).partition("\n")[0]
        raise Unavailable(
            f"{name} cannot be downloaded from {release.url} ({reason}); "
            f"a folder with {release.file} can stand in: set CLIPBOOK_DATA"
        ) from None
    _verified(data, release, release.url)
    try:
        with _whole(path) as file:
            file.write(data)
    except OSError as error:
        warnings.warn(f"{name} is not kept: {error}", stacklevel=3)
    return data


def _verified(data: bytes, release: _Release, where: str) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != release.sha256:
        raise ValueError(f"{where} is not the published file: sha256 expected {release.sha256}, found {found}")
    return data


def _download(url: str) -> bytes:
    """All bytes of a URL; an OSError when it is out of reach or silent for `_PATIENCE` seconds."""
    with urllib.request.urlopen(url, timeout=_PATIENCE) as response:
        total, data = int(response.headers.get("Content-Length") or 0), bytearray()
        with _bar(f"downloading {url.rpartition('/')[2]}", total or None, "B") as bar:
            while chunk := response.read(1 << 16):
                data += chunk
                bar.update(len(chunk))
    if len(data) < total:
        raise OSError(f"the connection ended after {len(data)} of {total} bytes")
    return bytes(data)
