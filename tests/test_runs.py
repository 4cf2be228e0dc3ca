"""Chapters as experiments: what a run returns and records, what it refuses, what a sweep skips."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from clipbook import runs

CHAPTER = """# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---
# %% [markdown]
# # A chapter
# %% tags=["parameters"]
backbone = "glyph"
seed = 0
device = None
steps = 10
rate = 0.5
out_dir = ""
# %%
from types import SimpleNamespace

from clipbook import runs

model = SimpleNamespace(name=backbone, weights_id="0123456789abcdef")
ballast = bytearray(100 * 2**20)
assert steps != 13, "thirteen steps"
# %%
runs.record({"accuracy": 0.5 + 0.01 * seed + rate / 10, "steps": steps, "model": backbone}, out_dir)
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A checkout of its own, so that no test writes to this one."""
    root = tmp_path / "checkout"
    (root / "src" / "clipbook").mkdir(parents=True)
    for name in ("first/01_tiny", "second/01_other", "second/02_tiny"):
        path = root / "book" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CHAPTER)
    monkeypatch.chdir(root)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return root


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_run_returns_its_metrics_and_writes_one_ledger_entry(book, tmp_path):
    out = tmp_path / "deep" / "out"
    started = time.perf_counter()
    metrics = runs.execute("first/01_tiny", {"seed": np.int64(3), "rate": 1}, out)
    elapsed = time.perf_counter() - started
    assert metrics == {"accuracy": pytest.approx(0.63), "steps": 10, "model": "glyph"}
    assert json.loads((out / "metrics.json").read_text()) == metrics
    (file,) = (out / "ledger").glob("*.json")
    assert len(files(out)) == 3, "only metrics.json, ledger/ and its entry"
    entry = json.loads(file.read_text())
    assert entry["chapter"] == "first/01_tiny"
    assert entry["parameters"] == {"backbone": "glyph", "seed": 3, "device": None, "steps": 10, "rate": 1.0}
    assert entry["changed"] == ["rate", "seed"]
    assert entry["metrics"] == metrics
    assert 0.1 < entry["seconds"] <= elapsed
    assert 100 < entry["peak_memory_mib"] < 400, "the kernel's own peak: with its ballast, without this process"
    assert (entry["device"], entry["device_name"]) == ("cpu", "1 CPU core")
    assert entry["weights_id"] == {"glyph": "0123456789abcdef"}
    assert set(entry["versions"]) == {"python", "torch", "open_clip_torch"}
    assert "commit" not in entry, "this checkout is no git repository"


def test_a_failing_run_leaves_nothing_and_shows_the_cell(book, tmp_path):
    out = tmp_path / "deep" / "out"
    before = files(tmp_path)
    with pytest.raises(runs.RunError) as error:
        runs.execute("02_tiny", {"steps": 13}, out, ledger=tmp_path / "ledger")
    message = str(error.value)
    assert "second/02_tiny failed in the cell that begins `from types" in message
    assert "AssertionError: thirteen steps" in message
    assert "\x1b" not in message, "no colour codes"
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"sed": 1}, ValueError, "no parameter 'sed'; it has backbone, seed, device, steps, rate"),
        ({"steps": "many"}, TypeError, "steps must be int .*'many'"),
        ({"steps": 10.0}, TypeError, "steps must be int .*10.0"),
        ({"steps": True}, TypeError, "steps must be int .*True"),
        ({"rate": "0.5"}, TypeError, "rate must be float or int"),
        ({"rate": float("nan")}, ValueError, "rate must be finite"),
        ({"backbone": None}, TypeError, "backbone must be str"),
        ({"device": ["cpu"]}, TypeError, "device must be str or .*None"),
        ({"out_dir": "x"}, ValueError, "out_dir is an argument of its own"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(book, tmp_path, monkeypatch, parameters, error, message):
    monkeypatch.setattr("papermill.execute_notebook", lambda *a, **k: pytest.fail("it ran"))
    with pytest.raises(error, match=message):
        runs.execute("first/01_tiny", parameters, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_chapters_are_found_by_name_and_by_path(book, tmp_path):
    tiny = book / "book" / "second" / "02_tiny.py"
    pair = tiny.with_suffix(".ipynb")
    pair.write_text("never read: the .py is the source")
    for chapter in ("second/02_tiny", "02_tiny", "book/second/02_tiny.py", pair, str(tiny)):
        assert runs._find(chapter) == tiny
    shutil.copy(tiny, book / "book" / "first" / "02_tiny.py")
    with pytest.raises(ValueError, match="first/02_tiny or second/02_tiny"):
        runs._find("02_tiny")
    with pytest.raises(FileNotFoundError, match=r"one of .*second/01_other.*got '03_none'"):
        runs._find("03_none")
    with pytest.raises(FileNotFoundError, match=r"existing file, got gone\.py"):
        runs._find("gone.py")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ('# %% tags=["parameters"]\nseed = 0', "must have `out_dir`"),
        ("# %%\nseed = 0", "exactly one cell tagged `parameters`, got 0"),
        ('# %% tags=["parameters"]\nout_dir = ""\nseed = len("a")', "NAME = plain value.*got `seed = len"),
    ],
)
def test_a_chapter_without_a_proper_parameters_cell_is_refused(tmp_path, cell, message):
    path = tmp_path / "odd.py"
    path.write_text(cell + "\n")
    with pytest.raises(ValueError, match=f"odd.*{message}"):
        runs.execute(path, {}, tmp_path / "out")


def test_record_takes_plain_finite_values_only(tmp_path):
    torch = pytest.importorskip("torch")
    good = {"a": 1, "b": 0.5, "c": "x", "d": np.float32(0.25), "e": torch.tensor(2.0)}
    runs.record(good, "")
    runs.record(good, tmp_path / "new")
    assert files(tmp_path / "new") == ["metrics.json"]
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == good | {"d": 0.25, "e": 2.0}
    for value, error in (
        (float("nan"), ValueError),
        (np.inf, ValueError),
        (None, TypeError),
        (True, TypeError),
        ([1], TypeError),
        (torch.zeros(1), TypeError),
    ):
        with pytest.raises(error, match=r"metrics\['bad'\]"):
            runs.record({"bad": value}, tmp_path / "none")
        with pytest.raises(error):  # also when nothing is written: the default build finds it
            runs.record({"bad": value}, "")
    assert not (tmp_path / "none").exists()


def test_a_sweep_resumes_pools_seeds_and_renews_the_cost_line(book, capsys):
    assert runs.main(["first/01_tiny", "-p", "steps=13,10"]) == 1
    printed = capsys.readouterr()
    ledger = book / "runs" / "ledger"
    first = files(ledger)
    assert len(first) == 1, "the run with 13 steps failed, the other went on"
    assert "steps=13: first/01_tiny failed" in printed.err

    assert runs.main(["01_tiny", "-p", "seed=0..1"]) == 0
    assert re.search(r"accuracy +0\.555 ± 0\.0071 \(2\)", capsys.readouterr().out)
    assert len(files(ledger)) == 2, "only seed 1 was new"
    assert set(first) < set(files(ledger))
    record = json.loads((book / "src" / "clipbook" / "assets" / "ledger.json").read_text())
    assert [entry["parameters"]["seed"] for entry in sorted(record, key=lambda e: e["date"])] == [0, 1]
    line = runs._costs(record)["first/01_tiny"]
    assert re.fullmatch(r"About \d+ s and 0\.\d GB on 1 CPU core \(median of 2 runs, torch \S+\)\.", line)

    chapter = book / "book" / "first" / "01_tiny.py"
    chapter.write_text(CHAPTER.replace("# # A chapter", "# # Mended prose"))
    assert runs.main(["01_tiny"]) == 0
    assert len(files(ledger)) == 2, "prose is not part of an experiment"
    chapter.write_text(CHAPTER.replace("0.01 * seed", "0.02 * seed"))
    assert runs.main(["01_tiny"]) == 0
    assert len(files(ledger)) == 3, "code is"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("seed", "NAME=VALUES"),
        ("sed=1", "no parameter 'sed'; known: backbone"),
        ("seed=4..0", "'4..0' does not read as its default 0"),
        ("seed=1.5", "'1.5' does not read"),
        ("rate=0..1", "'0..1' does not read"),
        ("out_dir=x", "no parameter 'out_dir'"),
    ],
)
def test_the_command_line_says_what_it_cannot_read(book, capsys, option, message):
    assert runs.main(["01_tiny", "-p", option]) == 2
    assert message in capsys.readouterr().err
    assert not (book / "runs").exists()


def test_values_are_read_as_the_default_is():
    defaults = {"seed": 0, "rate": 0.1, "backbone": "glyph", "device": None, "flag": False}
    read = {
        option: runs._values(option, defaults)[1]
        for option in (
            "seed=0..2,7,1",
            "rate=1,0.5",
            "backbone=glyph,ViT-B-32/openai",
            "device=cpu,None",
            "flag=true,False",
        )
    }
    assert list(read.values()) == [
        [0, 1, 2, 7],
        [1.0, 0.5],
        ["glyph", "ViT-B-32/openai"],
        ["cpu", None],
        [True, False],
    ]


def test_the_commit_is_dirty_by_any_change_but_the_ledgers(book):
    def git(*arguments):
        identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        subprocess.run(["git", *arguments], check=True, capture_output=True, env=os.environ | identity)

    ledger = book / "runs" / "ledger"
    assert runs._commit(book / "book", ledger) is None
    git("init")
    assert runs._commit(book / "book", ledger) is None, "no commit yet"
    git("add", ".")
    git("commit", "-m", "one")
    clean = runs._commit(book / "book", ledger)
    assert re.fullmatch(r"[0-9a-f]{12}", clean)
    ledger.mkdir(parents=True)
    (ledger / "run.json").write_text("{}")
    assert runs._commit(book / "book", ledger) == clean
    (book / "src" / "clipbook" / "new.py").write_text("x = 1\n")
    assert runs._commit(book / "book", ledger) == f"{clean}-dirty"


def test_on_a_gpu_the_run_tells_its_memory_too(tmp_path, monkeypatch):
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_device_name=lambda: "a GPU",
        max_memory_allocated=lambda: 3 * 2**29,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    runs._measure({}, str(tmp_path / "facts.json"))
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert (facts["device"], facts["device_name"], facts["peak_gpu_memory_mib"]) == ("cuda", "a GPU", 1536)
    cuda.is_initialized = lambda: False  # there is one, and the chapter left it alone
    runs._measure({}, str(tmp_path / "facts.json"))
    assert json.loads((tmp_path / "facts.json").read_text())["device"] == "cpu"


def test_a_damaged_ledger_entry_is_named(tmp_path):
    (tmp_path / "half.json").write_text('{"chapter": ')
    with pytest.raises(ValueError, match=r"half\.json is damaged"):
        runs._entries(tmp_path)


def test_cost_lines_tell_devices_apart_and_leave_changed_runs_out():
    def entry(seconds, *, changed=(), device="cpu", source="new", date="2"):
        gpu = {"device": "cuda", "device_name": "a GPU", "peak_gpu_memory_mib": 2000.0}
        cpu = {"device": "cpu", "device_name": "2 CPU cores"}
        return {
            "chapter": "a/b",
            "changed": list(changed),
            "seconds": seconds,
            "peak_memory_mib": 900.0,
            "source": source,
            "date": date,
            "versions": {"python": "3.11", "torch": "2.6"},
            **(gpu if device == "cuda" else cpu),
        }

    entries = [
        entry(30),
        entry(40, changed=["seed"]),
        entry(50),
        entry(999, changed=["steps"]),
        entry(700, source="old", date="1"),
        entry(6000, device="cuda", changed=["device"]),
    ]
    assert runs._costs(entries) == {
        "a/b": "About 40 s and 0.9 GB on 2 CPU cores (median of 3 runs, torch 2.6); "
        "1.7 h, 0.9 GB and 2.1 GB of GPU memory on a GPU (1 run, torch 2.6)."
    }
    assert runs.cost_line("nowhere/00_none") == "Time and memory: no run of nowhere/00_none on record yet."


def test_the_package_ships_the_ledger():
    root = Path(runs.__file__).parents[2]
    shipped = Path(runs.__file__).parent / "assets" / "ledger.json"
    entries = json.loads(shipped.read_text()) if shipped.is_file() else []
    assert entries == runs._entries(root / "runs" / "ledger"), "run `python -m clipbook.runs CHAPTER` again"
    for chapter in {entry["chapter"] for entry in entries}:
        assert runs.results(chapter)
        assert (root / "book" / f"{chapter}.py").is_file(), f"{chapter} is no chapter: delete its runs"


def test_results_are_the_newest_of_each_combination(tmp_path, monkeypatch):
    def entry(seed, date, accuracy):
        return {"chapter": "a/b", "parameters": {"seed": seed}, "date": date, "metrics": {"accuracy": accuracy}}

    (tmp_path / "assets").mkdir()
    record = [entry(0, "2", 0.2), entry(0, "1", 0.1), entry(1, "1", 0.3), entry(0, "3", 0.9) | {"chapter": "c/d"}]
    (tmp_path / "assets" / "ledger.json").write_text(json.dumps(record))
    monkeypatch.setattr(runs, "_PACKAGE", tmp_path)
    assert sorted(e["metrics"]["accuracy"] for e in runs.results("a/b")) == [0.2, 0.3]
    assert runs.results("no/chapter") == []


def test_a_spec_runs_several_chapters(book, capsys):
    spec = book / "runs" / "some.yaml"
    spec.parent.mkdir()
    spec.write_text("first/01_tiny: {seed: 0..1, steps: 10}\n")
    assert runs.main([str(spec)]) == 0
    assert len(files(book / "runs" / "ledger")) == 2
    for text, message in (
        ("- 1", "must read"),
        ("first/01_tiny: {sed: 1}", "no parameter 'sed'"),
        ("a: {", "not YAML"),
    ):
        spec.write_text(text)
        assert runs.main([str(spec)]) == 2
        assert message in capsys.readouterr().err
