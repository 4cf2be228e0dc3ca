"""Embedding once: the same rows as by hand, found again by content, whole or not there; released features."""

import hashlib
import http.server
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import open_clip
import PIL
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from clipbook import backbones, datasets, features, world
from clipbook.features import PUBLISHED, Unavailable, embed, published


class Toy:
    """A backbone whose feature of an image is its mean colour; counts what it is asked for."""

    name, dim, device, weights_id = "toy", 3, torch.device("cpu"), "0123456789abcdef"

    def __init__(self):
        self.model, self.images, self.texts = nn.Linear(1, 1), 0, 0

    def preprocess(self, image):
        return torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1) / 255

    def __repr__(self):  # shows in the repr of the bound method above, as a transform's settings do
        return "Toy()"

    def embed_prepared(self, batch):
        self.images += len(batch)
        return batch.mean((2, 3)) * 10

    embed_images = embed_prepared

    def embed_texts(self, texts):
        self.texts += len(texts)
        return torch.tensor([[float(len(t)), t.count("e"), t.count("a")] for t in texts])


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for i in range(6):
        path = root / ("ink", "oil")[i % 2] / ("cat", "dog")[i // 2 % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (40 * i, 10, 200)).save(path)
    return root


def same(a, b):
    tensors = all(getattr(a, k).equal(getattr(b, k)) for k in ("image", "label", "domain"))
    return tensors and (a.classes, a.domains) == (b.classes, b.domains) and (a.text is None) == (b.text is None)


def entries(cache):
    return sorted(p for p in Path(cache).rglob("*") if p.is_file())


def test_embeds_once_and_finds_it_again(tmp_path):
    data, toy = datasets.load("glyphs", n=600), Toy()
    first = embed(toy, data, tmp_path)
    assert first.image.equal(world.render(data.scenes).mean((2, 3)) * 10)
    assert first.label.equal(data.label)
    assert first.domain.equal(data.domain)
    assert first.text is None
    assert len(entries(tmp_path)) == 1
    again = embed(toy, datasets.load("glyphs", n=600), tmp_path)
    assert same(first, again)
    assert toy.images == 600


def test_captions_become_text(tmp_path):
    data, toy = datasets.load("glyph-pairs", n=300), Toy()
    first, again = embed(toy, data, tmp_path), embed(toy, data, tmp_path)
    assert first.text.equal(again.text)
    assert first.text[:, 0].tolist() == [len(c) for c in data.captions]
    assert toy.texts == 300


def test_whatever_features_depend_on_makes_another_entry(tmp_path, monkeypatch):
    data = datasets.load("glyphs", n=4)
    changed = [Toy() for _ in range(6)]
    changed[1].name = "toy-2"
    changed[2].weights_id = "f" * 16
    changed[3].model = nn.Linear(1, 1, dtype=torch.float16)
    changed[4].device = torch.device("meta")
    changed[5].preprocess = "another"
    keys = {features._key(toy, data) for toy in changed}
    keys.add(features._key(changed[0], datasets.load("glyphs", n=5)))
    keys.add(features._key(changed[0], datasets.load("glyphs", "val", n=4)))
    keys.add(features._key(changed[0], replace(data, skip_unreadable=True)))
    for module in (open_clip, torchvision, PIL):
        with monkeypatch.context() as patch:
            patch.setattr(module, "__version__", "0.0")
            keys.add(features._key(changed[0], data))
    for module in (backbones, datasets, world):  # the code in between
        with monkeypatch.context() as patch:
            copy = tmp_path / "copy.py"
            copy.write_text(Path(module.__file__).read_text() + "#")
            patch.setattr(module, "__file__", str(copy))
            keys.add(features._key(changed[0], data))
    assert len(keys) == 6 + 3 + 3 + 3


def test_key_is_the_same_in_another_process():
    """Addresses in memory, hash seeds and the like must not get into the name."""
    script = (
        "from clipbook import backbones, datasets, features;"
        "print(features._key(backbones.load('glyph', device='cpu'), datasets.load('glyphs', n=3)))"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    here = features._key(backbones.load("glyph", device="cpu"), datasets.load("glyphs", n=3))
    assert other.stdout.split() == [here]
    assert re.fullmatch("[0-9a-f]{32}", here)


def test_rows_are_those_of_the_backbone_through_scenes_and_through_files(tmp_path):
    backbone = backbones.load("glyph", device="cpu")
    data = datasets.load("glyph-pairs", n=300)
    by_hand = backbone.embed_images(world.render(data.scenes))
    found = embed(backbone, data, tmp_path)
    torch.testing.assert_close(found.image, by_hand, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.text, backbone.embed_texts(list(data.captions)), rtol=1e-4, atol=1e-4)
    for i in range(20):
        path = tmp_path / "files" / "world" / data.classes[int(data.label[i])] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        data.image(i).save(path)
    files = datasets.load(f"imagefolder:{tmp_path / 'files'}")
    order = [int(Path(name).stem) for name in files._names]
    cosine = torch.cosine_similarity(embed(backbone, files, tmp_path).image, by_hand[order])
    assert float(cosine.min()) > 0.999


def test_any_damage_is_noticed_and_repaired(tmp_path):
    data, toy = datasets.load("glyph-pairs", n=5), Toy()
    good = embed(toy, data, tmp_path)
    (path,) = entries(tmp_path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    cases = [content[: len(content) // 2], b"", content[:-1], b"not a zip" * 50]
    for position in rng.choice(len(content), 150, replace=False):
        cases.append(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
    rebuilt = 0
    for case in cases:
        path.write_bytes(case)
        before = toy.images
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = embed(toy, data, tmp_path)
        assert same(found, good)  # never wrong numbers ...
        assert found.text.equal(good.text)
        rebuilt += toy.images > before
        said = ["is damaged" in str(w.message) and "it is made again" in str(w.message) for w in caught]
        assert said == [True] * (toy.images > before)
    assert rebuilt > 100  # ... and not because nothing was read
    assert entries(tmp_path) == [path]
    assert embed(toy, data, tmp_path).image.equal(good.image)


def test_an_entry_that_holds_something_else_is_made_again(tmp_path):
    data, toy = datasets.load("glyph-pairs", n=5), Toy()
    good = embed(toy, data, tmp_path)
    (path,) = entries(tmp_path)
    for other in (
        replace(good, image=good.image.double()),
        replace(good, image=good.image[:, :2]),
        replace(good, text=None),
        replace(good, label=good.label.int()),
        replace(good, **{name: getattr(good, name)[:4] for name in ("image", "label", "domain", "text")}),
        replace(good, classes=good.classes[::-1]),
        replace(good, domains=("elsewhere",)),
    ):
        with path.open("wb") as file:
            features._write(file, other, [])
        with pytest.warns(UserWarning, match="is damaged .* it is made again"):
            assert same(embed(toy, data, tmp_path), good)


@pytest.mark.parametrize("moment", ["embedding", "writing"])
def test_killed_midway_leaves_nothing_that_counts(tmp_path, moment):
    data, (ready, busy) = datasets.load("glyphs", n=1024), os.pipe()

    def hang():
        os.write(busy, b"!")
        time.sleep(60)

    class Slow(Toy):
        def embed_images(self, batch):
            if self.images >= 512 and moment == "embedding":
                hang()
            return self.embed_prepared(batch)

    def half(file, **arrays):  # a file of which only some has reached the disk
        file.write(b"PK half of an entry")
        file.flush()
        hang()

    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # as in torch's own workers: the parent's pool did not come along
            np.savez = half
            embed(Slow(), data, tmp_path)
        finally:
            os._exit(1)
    arrived = select.select([ready], [], [], 120)[0]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(busy)
    assert arrived
    assert len(list(tmp_path.rglob("*.part"))) == (moment == "writing")
    assert not list(tmp_path.rglob("*.npz"))
    for part in tmp_path.rglob("*.part"):
        os.utime(part, (0, 0))  # as if the machine had come back some minutes later
    assert embed(Toy(), data, tmp_path).image.equal(world.render(data.scenes).mean((2, 3)) * 10)
    assert [p.suffix for p in entries(tmp_path)] == [".npz"]


def test_interrupted_write_cleans_up(tmp_path, monkeypatch):
    def interrupted(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(Toy(), datasets.load("glyphs", n=3), tmp_path)
    assert not entries(tmp_path)


def test_two_writers_at_once_both_succeed(tmp_path):
    data, results = datasets.load("glyphs", n=64), []
    work = lambda: results.append(embed(Toy(), data, tmp_path))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(same(r, results[0]) for r in results)
    assert len(entries(tmp_path)) == 1


def test_cache_that_cannot_be_written_is_only_a_warning(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way of a folder")
    with pytest.warns(UserWarning, match="features of glyphs are not kept"):
        assert len(embed(Toy(), datasets.load("glyphs", n=3), blocked)) == 3


def test_default_folder_is_the_environments(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPBOOK_CACHE", str(tmp_path / "there"))
    embed(Toy(), datasets.load("glyphs", n=3))
    assert len(entries(tmp_path / "there")) == 1


def test_unreadable_images_are_named_each_time(folder, tmp_path):
    victim = folder / "oil" / "dog" / "3.png"
    victim.write_bytes(victim.read_bytes()[:40])
    cache, name = tmp_path / "cache", f"imagefolder:{folder}"
    with pytest.raises(ValueError, match=r"unreadable image .*3\.png"):
        embed(Toy(), datasets.load(name), cache)
    assert not entries(cache)
    data, toy = datasets.load(name, skip_unreadable=True), Toy()
    for _ in range(2):  # computed, then from the cache
        with pytest.warns(UserWarning, match=r"left out 1 unreadable images: .*oil.dog.3\.png"):
            found = embed(toy, data, cache)
        assert len(found) == len(found.label) == len(found.domain) == 5
        assert toy.images == 5
    red = [int(Path(n).stem) * 40 / 25.5 for n in data._names if Path(n) != victim]
    torch.testing.assert_close(found.image[:, 0], torch.tensor(red), rtol=0, atol=1e-4)
    kept = [i for i, n in enumerate(data._names) if Path(n) != victim]
    assert found.label.equal(data.label[kept])
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="has no image that can be read"):
        embed(Toy(), datasets.load(name, skip_unreadable=True), cache)


def test_a_failure_that_may_pass_is_not_kept(folder, tmp_path, monkeypatch):
    name, toy = f"imagefolder:{folder}", Toy()
    opened = Image.open

    def busy(path, *arguments):
        if str(path).endswith("3.png"):
            raise OSError(24, "Too many open files", str(path))
        return opened(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", busy)
        with pytest.warns(UserWarning, match=r"3\.png \(OSError: \[Errno 24\] Too many open files"):
            assert len(embed(toy, datasets.load(name, skip_unreadable=True), tmp_path / "cache")) == 5
    assert len(embed(toy, datasets.load(name, skip_unreadable=True), tmp_path / "cache")) == 6


def test_a_changed_folder_is_embedded_again(folder, tmp_path):
    toy, name = Toy(), f"imagefolder:{folder}"
    embed(toy, datasets.load(name), tmp_path / "cache")
    Image.new("RGB", (9, 7), (1, 2, 3)).save(folder / "ink" / "cat" / "0.png")
    os.utime(folder / "ink" / "cat" / "0.png", ns=(5, 5))
    found = embed(toy, datasets.load(name), tmp_path / "cache")
    assert toy.images == 12
    assert bool((found.image * 25.5).round().eq(torch.tensor([1.0, 2.0, 3.0])).all(1).any())


def test_features_that_are_not_finite_are_refused_and_not_kept(tmp_path):
    class Broken(Toy):
        def embed_images(self, batch):
            return self.embed_prepared(batch).index_fill(0, torch.tensor([1]), float("nan"))

    with pytest.raises(ValueError, match=r"'toy' gave NaN .* image features for 2 of 300 rows of glyphs"):
        embed(Broken(), datasets.load("glyphs", n=300), tmp_path)
    with pytest.raises(ValueError, match=r"dataset must come from datasets.load, got 'glyphs'"):
        embed(Toy(), "glyphs", tmp_path)
    assert not entries(tmp_path)


# ------------------------------------------------------------------------------------ published features


class Handler(http.server.SimpleHTTPRequestHandler):
    hits: ClassVar[list[str]] = []

    def log_message(self, *args):
        self.hits.append(self.path)


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A released file on a server of our own, under the name of the first entry."""
    monkeypatch.delenv("CLIPBOOK_DATA", raising=False)
    pairs = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
    served = tmp_path / "served"
    served.mkdir()
    np.save(served / "pairs.npy", pairs)
    monkeypatch.setattr(Handler, "hits", hits := [])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256((served / "pairs.npy").read_bytes()).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/pairs.npy"
    monkeypatch.setitem(PUBLISHED, "mind-the-gap", features._Release(url, digest, "modality_gap"))
    yield served / "pairs.npy", pairs, hits
    server.shutdown()
    server.server_close()


def test_published_is_downloaded_once(release, tmp_path):
    _, pairs, hits = release
    for _ in range(2):
        found = published("mind-the-gap", tmp_path / "cache")
        assert found.image.dtype == torch.float32
        assert np.array_equal(found.image, pairs[0])
        assert np.array_equal(found.text, pairs[1])
        assert (found.classes, found.domains, found.label.tolist()) == ((), (), [-1] * 6)
    assert len(hits) == 1
    (path,) = entries(tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is not the published file.*downloaded again"):
        assert np.array_equal(published("mind-the-gap", tmp_path / "cache").text, pairs[1])
    assert len(hits) == 2


def test_published_from_a_local_folder_asks_no_network(release, tmp_path, monkeypatch):
    file, pairs, hits = release
    for place in ("", "modality_gap"):
        local = tmp_path / f"local{place}"
        (local / place).mkdir(parents=True)
        (local / place / "pairs.npy").write_bytes(file.read_bytes())
        monkeypatch.setenv("CLIPBOOK_DATA", str(local))
        assert np.array_equal(published("mind-the-gap", tmp_path / "cache").image, pairs[0])
    assert not hits
    assert not entries(tmp_path / "cache")
    (local / place / "pairs.npy").write_bytes(b"something else")
    digest = hashlib.sha256(b"something else").hexdigest()
    message = rf"pairs\.npy is not .*: sha256 expected {PUBLISHED['mind-the-gap'].sha256}, found {digest}"
    with pytest.raises(ValueError, match=message):
        published("mind-the-gap", tmp_path / "cache")
    monkeypatch.setenv("CLIPBOOK_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"CLIPBOOK_DATA must name a folder, got .*nowhere"):
        published("mind-the-gap", tmp_path / "cache")


def test_published_refuses_a_changed_download(release, tmp_path):
    file, _, _ = release
    file.write_bytes(b"an error page")
    with pytest.raises(ValueError, match=r"http.*pairs.npy is not the published file: sha256 expected .*, found"):
        published("mind-the-gap", tmp_path / "cache")
    assert not entries(tmp_path / "cache")
    with pytest.raises(ValueError, match="unknown published features 'laion'; expected one of mind-the-gap, "):
        published("laion")


@pytest.mark.parametrize("trouble", ["gone", "refused", "silent", "cut off", "nameless"])
def test_no_network_is_one_line_and_soon(release, request, tmp_path, monkeypatch, trouble):
    file, _, _ = release
    entry = PUBLISHED["mind-the-gap"]
    monkeypatch.setattr(features, "_PATIENCE", 0.5)
    if trouble == "gone":
        file.unlink()
    elif trouble == "refused":
        entry = replace(entry, url="http://127.0.0.1:9/pairs.npy")
    elif trouble == "silent":  # takes the call and never says a word
        listener = socket.create_server(("127.0.0.1", 0))
        request.addfinalizer(listener.close)
        entry = replace(entry, url=f"http://127.0.0.1:{listener.getsockname()[1]}/pairs.npy")
    elif trouble == "cut off":
        monkeypatch.setattr(Handler, "copyfile", lambda self, source, out: out.write(source.read(50)))
    else:
        entry = replace(entry, url="http://nowhere.invalid/pairs.npy")
    monkeypatch.setitem(PUBLISHED, "mind-the-gap", entry)
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"mind-the-gap cannot be downloaded from http.*CLIPBOOK_DATA") as error:
        published("mind-the-gap", tmp_path / "cache")
    assert time.monotonic() - start < 5
    assert "\n" not in str(error.value)
    assert isinstance(error.value, RuntimeError)
    assert not entries(tmp_path / "cache")


def test_what_is_published_is_pinned():
    for name, entry in PUBLISHED.items():
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256), name
        assert re.search("/[0-9a-f]{40}/", entry.url), name  # a commit, not a branch that moves
    shared = Path(__file__).resolve().parents[2] / "shared/data"
    for root in filter(None, (os.environ.get("CLIPBOOK_DATA"), shared)):
        for entry in PUBLISHED.values():
            path = Path(root) / entry.folder / entry.file
            if path.is_file():  # the real thing is here: it is what the digest says
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("CLIPBOOK_DATA", str(root))
                    found = [published(name) for name in PUBLISHED]
                assert all(f.image.shape == f.text.shape == (500, 512) for f in found)
