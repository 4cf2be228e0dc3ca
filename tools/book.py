"""Build the book: run the chapters that changed, write the HTML, never show the output of code that is no longer there.

    python tools/book.py             what `make book` runs

Two caches make a build fast, and either can lie. jupyter-cache keeps outputs by the text of a chapter's code cells: it
cannot see a change in src/, in the installed packages or in the device. Sphinx keeps parsed pages by file time, and
forgets the warnings of pages that it does not parse again. So `_build/.state.json` records what the outputs were made
from, and whatever no longer fits it is thrown away before the build.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from filelock import FileLock
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import pairs  # noqa: E402  a neighbour, found from wherever python was started

BUILD = ROOT / "_build"
HTML = BUILD / "html"
EXECUTED = BUILD / ".jupyter_cache"
PARSED = BUILD / ".doctrees"
STATE = BUILD / ".state.json"
IGNORED = {"__pycache__", ".ipynb_checkpoints", ".DS_Store"}


def say(line: str) -> None:
    print(f"book: {line}", flush=True)


def digest(*paths: Path) -> str:
    """sha256 over names and bytes of files, and of all files below folders; a missing one counts as empty."""
    total = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if not IGNORED.intersection(file.parts) and not any(p.endswith(".egg-info") for p in file.parts):
                total.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
                total.update(hashlib.sha256(file.read_bytes() if file.exists() else b"").digest())
    return total.hexdigest()


def device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def packages() -> dict[str, str]:
    """Versions of the packages that requirements.txt names, as installed."""
    names = re.findall(r"(?m)^([A-Za-z0-9_.-]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"))
    installed = {}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "missing"
    return installed


def released() -> str:
    """The real features that others released and that are at hand (`clipbook.features.published`)."""
    folder = Path(os.environ.get("CLIPBOOK_CACHE") or "~/.cache/clipbook").expanduser() / "published"
    names = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    return ", ".join([*names, os.environ.get("CLIPBOOK_DATA", "")])


def fetch() -> None:
    """Download what chapters show of released features, before they run: an output made without them would stay.

    No network is no error: the chapters then say what they leave out, and the next build tries again.
    """
    if not (ROOT / "src/clipbook/features.py").exists():
        return
    wanted = f"{digest(ROOT / 'src/clipbook/features.py')} {released()}"
    if read_state().get("fetched") == wanted:
        return
    code = """
from clipbook import features
missing = 0
for name in features.PUBLISHED:
    try:
        features.published(name)
    except features.Unavailable as reason:
        missing += 1
        print(f"book: {reason}")
raise SystemExit(missing)
"""
    if subprocess.call([sys.executable, "-c", code], cwd=ROOT) == 0:
        write_state(**read_state() | {"fetched": f"{digest(ROOT / 'src/clipbook/features.py')} {released()}"})


def inputs() -> dict[str, str]:
    """What a chapter's output depends on besides its own cells."""
    return {
        "src": digest(ROOT / "src"),
        "requirements.txt": digest(ROOT / "requirements.txt"),
        "constraints.txt": digest(ROOT / "constraints.txt"),
        "python": platform.python_version(),
        "device": device(),
        "released features": released(),
        **{f"package {name}": version for name, version in packages().items()},
    }


def pages() -> dict[str, str]:
    found = [p for p in (ROOT / "book").rglob("*") if p.suffix in {".md", ".ipynb"}]
    return {
        p.relative_to(ROOT).as_posix(): digest(p)
        for p in sorted(found)
        if not any(part.startswith((".", "_")) for part in p.relative_to(ROOT).parts)
    }


def layout() -> str:
    """What every page depends on: a change here means parsing all of them, but running none."""
    shared = digest(ROOT / "_config.yml", ROOT / "_toc.yml", ROOT / "book/_static", ROOT / "book/references.bib")
    versions = [importlib.metadata.version(name) for name in ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme")]
    return hashlib.sha256(repr([shared, versions, sorted(pages())]).encode()).hexdigest()


def lock() -> FileLock:
    """Held by whoever works in _build: a build, or a test that adds an executed chapter."""
    BUILD.mkdir(exist_ok=True)
    return FileLock(BUILD / ".lock")


def read_state() -> dict:
    try:
        return json.loads(STATE.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def write_state(**state: object) -> None:
    pairs.write(STATE, json.dumps(state, indent=1, sort_keys=True))


def remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def prepare() -> dict:
    """Throw away executed chapters that were made from something else; returns the state. Call with the lock held."""
    state, now = read_state(), inputs()
    before = state.get("inputs", {})
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        if before:
            say(f"{', '.join(changed)} changed: every chapter runs again")
        remove(EXECUTED, PARSED)
        state = {"inputs": now, "fetched": state.get("fetched")}
        write_state(**state)
    return state


def keep(path: Path, notebook: NotebookNode, seconds: float) -> None:
    """Add a chapter that was executed elsewhere (by the tests) to the executed ones."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of cells: they would hide that it is the same chapter
    bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
    with lock():
        prepare()
        get_cache(EXECUTED).cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def executed(path: Path) -> NotebookNode:
    """A chapter with the outputs that the built page shows. Raises KeyError when it has not run."""
    record = get_cache(EXECUTED).match_cache_notebook(nbformat.read(path, as_version=4))
    return get_cache(EXECUTED).get_cache_bundle(record.pk).nb


def environment() -> dict[str, str]:
    """For the kernels, the tests' too: as many threads as cores, up to four (more only fight); no progress bars."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(min(cores, 4)),
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's python3 kernel, not the user's
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "TQDM_DISABLE": "1",  # a page would keep the bar
        **os.environ,
    }


def show(command: list[str]) -> int:
    """Run and print what it prints, less two lines that help nobody: a kernel talks on loopback only."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout:
            if "Kernel is running over TCP without encryption" not in line and "MdParserConfig(" not in line:
                print(line, end="", flush=True)
    return process.returncode


def build() -> int:
    """Returns the exit status: 0, or not 0 when a cell failed or Sphinx had anything to warn about."""
    for line in pairs.sync(ROOT):
        say(line)
    with lock():
        fetch()
        state, now = prepare(), {"layout": layout(), "pages": pages()}
        if state.get("layout") != now["layout"]:
            remove(PARSED, HTML)
        if not state.get("complete"):
            remove(PARSED)  # the last build was stopped or had warnings, which Sphinx would not repeat
        for page, content in now["pages"].items():
            if state.get("pages", {}).get(page) != content:
                (PARSED / page).with_suffix(".doctree").unlink(missing_ok=True)
        write_state(**state | now | {"complete": False})

        command = ["from jupyter_book.cli.main import main; main()", "build", ".", "-n", "-W", "--keep-going"]
        status = show([sys.executable, "-u", "-c", *command])
        if status:
            say("the book was NOT built, see the warnings above")
            return status
        if inputs() != state["inputs"] or pages() != now["pages"]:
            say("something changed while the book was being built: run `make book` again")
            return 1
        write_state(**state | now | {"complete": True})
    say(f"open {HTML.relative_to(ROOT)}/index.html in a browser, or run `make serve`")
    return 0


def main() -> int:
    try:
        return build()
    except ValueError as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
