"""The commands of the README: what they rebuild, what they leave alone, and what they say when they cannot work."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pairs
import pytest

import book

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of one page and one chapter of two cells, with the real tools and settings."""
    root = tmp_path_factory.mktemp("project")
    for name in ("_config.yml", "requirements.txt", "constraints.txt", "tools", "book/_static"):
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n- file: book/part/01_example\n")
    (root / "book/references.bib").write_text("")
    (root / "book/intro.md").write_text("# A small book\n")
    (root / "src").mkdir()
    (root / "src/shown.py").write_text("VALUE = 'first'\n")
    chapter = root / "book/part/01_example.py"
    chapter.parent.mkdir()
    counting = "import os\nopen(os.environ['COUNT'], 'a').write('ran ')"
    cells = [("markdown", "# An example", {}), ("code", counting, {}), ("code", "import shown\nshown.VALUE", {})]
    chapter.write_text(pairs.to_source(cells))
    return root


class Builder:
    def __init__(self, root: Path):
        self.root, self.count = root, root / "count"
        self.count.touch()

    def __call__(self) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONPATH": str(self.root / "src"), "COUNT": str(self.count)}
        done = subprocess.run(
            [sys.executable, "tools/book.py"], cwd=self.root, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    def runs(self) -> int:
        return self.count.read_text().count("ran")

    def page(self) -> str:
        return (self.root / "_build/html/book/part/01_example.html").read_text()


def test_a_stale_book_is_never_shown(project: Path):
    build, source = Builder(project), project / "book/part/01_example.py"
    status, said = build()
    assert status == 0, said
    assert "_build/html/index.html" in said, "it says how to open the book"
    assert build.runs() == 1
    assert "'first'" in build.page()

    before = (project / "_build/html/book/part/01_example.html").stat().st_mtime_ns
    assert build()[0] == 0
    assert build.runs() == 1, "nothing changed, so nothing runs"
    assert (project / "_build/html/book/part/01_example.html").stat().st_mtime_ns == before

    (project / "src/shown.py").write_text("VALUE = 'second'\n")
    status, said = build()
    assert status == 0, said
    assert "src changed" in said
    assert build.runs() == 2
    assert "'second'" in build.page()

    # A cell that fails, in a file that claims to be old: no book, the traceback, and again the next time.
    text = source.read_text()
    source.write_text(text.replace("shown.VALUE", "shown.VALUE / 0"))
    os.utime(source, (1e9, 1e9))
    for _ in range(2):
        status, said = build()
        assert status != 0
        assert "TypeError" in said
        assert "shown.VALUE / 0" in said
        assert "NOT built" in said

    source.write_text(text)
    os.utime(source, (1e9, 1e9))
    status, said = build()
    assert status == 0, said
    assert "'second'" in build.page()
    assert "TypeError" not in build.page()


@pytest.fixture
def tool(project: Path):
    """tools/book.py of the small project, with something in its cache."""
    spec = importlib.util.spec_from_file_location("small_book", project / "tools/book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BUILD.mkdir(exist_ok=True)
    module.prepare()
    module.EXECUTED.mkdir(exist_ok=True)
    (module.EXECUTED / "outputs").touch()
    return module


def test_what_empties_the_cache(tool, project: Path, monkeypatch: pytest.MonkeyPatch):
    def kept() -> bool:
        tool.prepare()
        there = (tool.EXECUTED / "outputs").exists()
        tool.EXECUTED.mkdir(exist_ok=True)
        (tool.EXECUTED / "outputs").touch()
        return there

    assert kept()
    for name in ("src/new.py", "requirements.txt", "constraints.txt"):
        with (project / name).open("a") as file:
            file.write("# changed\n")
        assert not kept(), name
        assert kept()
    changes = {"device": "an accelerator", "packages": {"torch": "0.0"}, "released": "a file"}
    for function, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(tool, function, lambda value=value: value)
            assert not kept(), function
            assert kept()
        assert not kept(), f"{function} as before"
    (project / "src/__pycache__").mkdir()
    (project / "src/__pycache__/new.pyc").touch()
    assert kept(), "what python itself writes is no change"


@pytest.mark.built
def test_warm_build_is_quick_and_runs_nothing(built_book: Path):
    started = time.monotonic()
    done = subprocess.run(["make", "book"], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "Executing notebook" not in done.stdout
    assert "index.html" in done.stdout
    assert seconds < 60, f"a warm `make book` took {seconds:.0f} s"


def test_an_interrupted_build_is_finished_by_the_next(tool):
    """`complete` is what tells a book from the remains of one."""
    with tool.lock():
        state = tool.prepare()
    tool.write_state(**state | {"complete": False, "layout": tool.layout(), "pages": tool.pages()})
    tool.PARSED.mkdir(parents=True, exist_ok=True)
    (tool.PARSED / "stale.doctree").touch()
    called = []
    tool.show = lambda command: called.append(command) or 1
    assert tool.build() == 1
    assert called
    assert not (tool.PARSED / "stale.doctree").exists()


# A machine that cannot run the book is told so in one line.


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/setup.py", tmp_path / "tools")
    return tmp_path


def pretending(folder: Path, first: str) -> Path:
    """A python that runs a line of its own before the script it is given."""
    python = folder / "pretending-python"
    code = f"import sys; {first}; sys.argv = sys.argv[1:]; exec(compile(open(sys.argv[0]).read(), sys.argv[0], 'exec'))"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    python.chmod(0o755)
    return python


def refused(folder: Path, python: str | Path) -> str:
    done = subprocess.run(["make", f"PYTHON={python}", "book"], cwd=folder, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not (folder / ".venv").exists(), "nothing half-made stays behind"
    return "\n".join(line for line in done.stderr.splitlines() if line.startswith("setup:"))


def test_no_python(bare: Path):
    assert refused(bare, "no-such-python") == "setup: no-such-python was not found; python 3.10 or newer is needed"


def test_an_old_python(bare: Path):
    said = refused(bare, pretending(bare, "sys.version_info = (3, 8, 10)"))
    assert "python 3.10 or newer is needed" in said
    assert "3.8" in said
    assert said.count("\n") == 0


def test_a_python_without_venv(bare: Path):
    said = refused(bare, pretending(bare, "sys.modules['ensurepip'] = None"))
    assert "python3-venv" in said
    assert said.count("\n") == 0


def test_help_names_every_command():
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True).stdout
    for command in ("book", "serve", "test", "sync", "lint"):
        assert f"make {command} " in said


def test_serving_without_a_book_says_what_to_do(bare: Path):
    done = subprocess.run(["make", "serve"], cwd=bare, capture_output=True, text=True)
    assert done.returncode != 0
    assert "run make book first" in done.stderr


def test_every_chapter_is_collected_by_nbmake():
    """`make test` would be green with no chapter at all."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "--collect-only", "-q", "-p", "no:cacheprovider", "book"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    for page in book.pages():
        assert not page.endswith(".ipynb") or page in done.stdout
