"""Image sets: what is in them, that bad ones are refused by name, and that a picture is the picture."""

import gzip
import os
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipbook import datasets, world
from clipbook.datasets import Unavailable, load


def write(path, colour=(200, 30, 30), size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two domains, two classes, 1 to 4 images each, and things that are no images."""
    root = tmp_path / "images"
    for d, domain in enumerate(("sketch", "art_painting")):
        for c, name in enumerate(("dog", "alarm_clock")):
            for i in range(1 + d + 2 * c):
                suffix = ("jpg", "PNG", "jpeg", "webp")[i]
                write(root / domain / name / f"{i}.{suffix}", (60 * i, 100 * d, 100 * c))
    (root / "sketch" / "dog" / "notes.txt").write_text("no image")
    (root / "sketch" / "dog" / "._0.jpg").write_text("no image either")
    (root / ".cache").mkdir()
    (root / "readme.md").write_text("")
    return root


def test_glyphs_are_balanced_decorrelated_and_fixed():
    data = load("glyphs")
    assert (data.classes, data.domains) == (world.OBJECTS, world.MEDIA)
    counts = torch.bincount(data.label * 8 + data.domain, minlength=256)
    assert counts.unique().tolist() == [8]
    assert len(data) == 2048
    for n in (20, 96, 300, 513):  # and any other number as evenly as it can be
        some = load("glyphs", n=n)
        both = some.label * 8 + some.domain
        for cell, kinds in ((some.label, 32), (some.domain, 8), (both, 256)):
            count = torch.bincount(cell, minlength=kinds)
            assert count.max() - count.min() <= 1, n
    joint = Counter(zip(data.label.tolist(), data.scenes.color.tolist(), strict=True))
    favourite, _ = world.favourite(torch.arange(32))
    share = sum(joint[i, int(favourite[i])] for i in range(32)) / 2048
    assert 0.07 < share < 0.13  # chance is one in ten
    again = load("glyphs")
    assert again.fingerprint == data.fingerprint
    assert again.scenes.seed.equal(data.scenes.seed)
    seeds = [set(load("glyphs", split).scenes.seed.tolist()) for split in ("train", "val", "test")]
    assert len(set.union(*seeds)) == 3 * 2048
    assert len({load("glyphs", s).fingerprint for s in ("train", "val", "test")}) == 3


def test_a_glyph_is_its_rendering():
    data = load("glyphs", n=3)
    image = data.image(1)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert torch.equal(pixels, world.render(data.scenes)[1])
    assert image.mode == "RGB"
    with pytest.raises(IndexError, match=r"index must be in 0\.\.2, got 3"):
        data.image(3)
    (_, batch, _), *_ = data.prepared(_first_pixel)
    assert torch.equal(batch[:, :, 0, 0], world.render(data.scenes)[:, :, 0, 0])


def test_glyph_pairs_have_captions():
    data = load("glyph-pairs", n=40)
    assert list(data.captions) == world.caption(data.scenes)
    assert bool((data.scenes.relation >= 0).all())
    assert data.label.equal(data.scenes.object)


def test_fingerprint_follows_the_drawing_code(monkeypatch, tmp_path):
    before = load("glyphs", n=10).fingerprint
    changed = tmp_path / "world.py"
    changed.write_text(Path(world.__file__).read_text() + "\n# changed\n")
    monkeypatch.setattr(world, "__file__", str(changed))
    assert load("glyphs", n=10).fingerprint != before


def test_folder_reads_domains_classes_and_only_images(folder):
    data = load(f"imagefolder:{folder}")
    assert data.classes == ("alarm clock", "dog")
    assert data.domains == ("art_painting", "sketch")
    cells = list(zip(data.domain.tolist(), data.label.tolist(), strict=True))
    assert Counter(cells) == {(0, 0): 4, (0, 1): 2, (1, 0): 3, (1, 1): 1}
    assert cells == sorted(cells)
    assert data.label.dtype == data.domain.dtype == torch.int64
    for i, (d, c) in enumerate(cells):  # the picture belongs to its label: colours were chosen so
        pixel = np.array(data.image(i)).reshape(-1, 3).mean(0)
        assert abs(pixel[1] - 100 * (1 - d)) < 12
        assert abs(pixel[2] - 100 * (1 - c)) < 12
    relative = os.path.relpath(folder)
    assert load(f"imagefolder:{relative}").fingerprint == data.fingerprint


def test_prepared_comes_in_order_with_and_without_workers(folder, monkeypatch):
    for i in range(600):  # enough for worker processes
        write(folder / "sketch" / "dog" / f"many{i:03}.png", (i % 251, i // 3, 7))
    data = load(f"imagefolder:{folder}")
    to_tensor = _first_pixel
    state = torch.get_rng_state()
    parallel = list(data.prepared(to_tensor))
    assert torch.get_rng_state().equal(state)  # a chapter's draws do not depend on the cache
    assert torch.cat([index for index, _, _ in parallel]).equal(torch.arange(len(data)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    serial = list(data.prepared(to_tensor, batch_size=50))
    a, b = (torch.cat([batch for _, batch, _ in run]) for run in (parallel, serial))
    assert torch.equal(a, b)
    assert len(a.unique(dim=0)) > 250


def _first_pixel(image):
    return torch.tensor(image.getpixel((0, 0)), dtype=torch.float32)[:, None, None] / 255


def test_n_takes_from_every_cell_alike(folder):
    data = load(f"imagefolder:{folder}", n=7)  # cells of 4, 2, 3, 1
    counts = Counter(zip(data.domain.tolist(), data.label.tolist(), strict=True))
    assert sorted(counts.values()) == [1, 2, 2, 2]
    assert len(data) == 7
    assert len(load(f"imagefolder:{folder}", n=1)) == 1
    assert len(load(f"imagefolder:{folder}", n=99)) == 10
    assert load(f"imagefolder:{folder}", n=7).fingerprint == data.fingerprint
    assert load(f"imagefolder:{folder}").fingerprint != data.fingerprint


def test_folder_fingerprint_follows_names_sizes_and_times(folder):
    seen = {load(f"imagefolder:{folder}").fingerprint}
    target = folder / "sketch" / "dog" / "0.jpg"
    os.utime(target, ns=(1, 1))
    seen.add(load(f"imagefolder:{folder}").fingerprint)
    write(target, (1, 2, 3), (33, 9))
    os.utime(target, ns=(1, 1))
    seen.add(load(f"imagefolder:{folder}").fingerprint)
    target.rename(target.with_name("zero.jpg"))
    seen.add(load(f"imagefolder:{folder}").fingerprint)
    assert len(seen) == 4
    moved = folder.rename(folder.with_name("moved"))
    assert load(f"imagefolder:{moved}").fingerprint in seen  # the same images elsewhere


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "missing"])
def test_unreadable_image_is_named_or_left_out(folder, damage):
    victim = folder / "art_painting" / "dog" / "1.PNG"
    data = load(f"imagefolder:{folder}")
    if damage == "missing":
        victim.unlink()
    else:
        content = {"text": b"hello", "empty": b"", "truncated": victim.read_bytes()[:-30]}[damage]
        victim.write_bytes(content)
    with pytest.raises(ValueError, match=r"unreadable image .*dog.1\.PNG .*; skip_unreadable=True") as error:
        list(data.prepared(_first_pixel))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"unreadable image .*1\.PNG"):
        data.image([data._names.index(str(victim))][0])
    if damage != "missing":
        data = load(f"imagefolder:{folder}", skip_unreadable=True)
        batches = list(data.prepared(_first_pixel, batch_size=3))
        assert sum(len(index) for index, _, _ in batches) == 9
        assert [name for _, _, failures in batches for name, _ in failures] == [str(victim)]


def test_bad_folders_and_names_are_refused(folder, tmp_path):
    (tmp_path / "none").mkdir()
    write(tmp_path / "flat" / "dog" / "0.jpg")
    write(tmp_path / "odd" / "a" / "dog" / "0.jpg")
    write(tmp_path / "odd" / "b" / "cat" / "0.jpg")
    write(tmp_path / "hollow" / "a" / "dog" / "0.jpg")
    (tmp_path / "hollow" / "a" / "cat").mkdir()
    write(tmp_path / "twins" / "a" / "b_c" / "0.jpg")
    write(tmp_path / "twins" / "a" / "b c" / "0.jpg")
    layout = "expected PATH/domain/class/"
    for call, message in [
        (
            lambda: load("flowers"),
            "unknown dataset 'flowers'; expected 'glyphs', 'glyph-pairs', 'imagefolder",
        ),
        (lambda: load(""), "name must be a non-empty str"),
        (lambda: load("glyphs", "dev"), "split of glyphs must be 'train' or 'val' or 'test', got 'dev'"),
        (lambda: load("glyphs", n=0), "n must be a positive int or None, got 0"),
        (lambda: load("glyphs", n=True), "n must be a positive int or None, got True"),
        (
            lambda: load(f"imagefolder:{folder}", "train"),
            "split of imagefolder:.* must be 'test', got 'train'",
        ),
        (lambda: load("imagefolder:"), "is not a folder"),
        (lambda: load(f"imagefolder:{folder}x"), f"imagesx is not a folder; {layout}"),
        (lambda: load("imagefolder:" + str(tmp_path / "none")), f"none has no domain folders; {layout}"),
        (lambda: load("imagefolder:" + str(tmp_path / "flat")), f"dog has no class folders; {layout}"),
        (lambda: load("imagefolder:" + str(tmp_path / "odd")), "domains 'a' and 'b' must .*'cat', 'dog'"),
        (lambda: load("imagefolder:" + str(tmp_path / "hollow")), "class folder .*cat has no images"),
        (lambda: load("imagefolder:" + str(tmp_path / "twins")), "two class folders .* the same name"),
        (lambda: load("FakeData"), "FakeData does not name its classes"),
        (lambda: load("CocoCaptions"), "CocoCaptions cannot be loaded"),
        (lambda: load("DTD", "nowhere"), "DTD cannot be loaded with split='nowhere'"),
        (lambda: load("CIFAR10", "val"), "split of CIFAR10 must be 'train' or 'test'"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def write_mnist(root, n):
    """MNIST's own files, n digits whose every pixel is 10 times their label."""
    label = (np.arange(n) * 7 % 10).astype(np.uint8)
    image = np.repeat(label * 10, 28 * 28)
    (root / "MNIST" / "raw").mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, shape, data in (("images-idx3", (n, 28, 28), image), ("labels-idx1", (n,), label)):
            header = struct.pack(f">I{len(shape)}I", 0x800 + len(shape), *shape)
            path = root / "MNIST" / "raw" / f"{part}-{kind}-ubyte"
            path.write_bytes(header + data.tobytes())
            with gzip.open(f"{path}.gz", "wb") as file:
                file.write(header + data.tobytes())


def test_torchvision_by_class_name(tmp_path, monkeypatch):
    write_mnist(tmp_path, 50)
    monkeypatch.setenv("CLIPBOOK_DATA", str(tmp_path))
    data = load("MNIST", n=20)
    assert len(data) == 20
    assert data.classes[3] == "3 - three"
    assert data.domains == ("MNIST",)
    assert data.label.bincount().tolist() == [2] * 10
    for i in range(20):
        assert data.image(i).getpixel((5, 5)) == (10 * int(data.label[i]),) * 3
    (index, batch, failures), *_ = data.prepared(_first_pixel)
    assert (batch[:, 0, 0, 0] * 25.5).round().long().equal(data.label[index])
    assert not failures
    assert load("MNIST", "train", n=20).fingerprint != data.fingerprint


def test_torchvision_without_network_is_one_line(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("CLIPBOOK_DATA", str(tmp_path))
    for name in ("CIFAR10", "MNIST", "DTD"):
        with pytest.raises(Unavailable, match=f"torchvision's {name} is not in .*could not be put there") as error:
            load(name)
        assert "\n" not in str(error.value)


def test_balanced_choice_is_random_and_even():
    cell = torch.tensor([0] * 50 + [1] * 50 + [2] * 3)
    chosen = datasets._balanced(cell, 43)
    assert cell[chosen].bincount().tolist() == [20, 20, 3]
    assert chosen.equal(chosen.unique())
    assert chosen[:20].max() > 30  # not simply the first of each


def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path):
    path = tmp_path / "images" / "ink" / "cat" / "0.png"
    path.parent.mkdir(parents=True)
    shades = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(shades).save(path)
    found = np.array(datasets.load(f"imagefolder:{tmp_path / 'images'}").image(0))
    assert found.shape == (64, 64, 3) and found.dtype == np.uint8
    assert np.abs(found[..., 0] - shades / 257).max() <= 1
