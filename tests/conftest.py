"""What the tests share: the chapters' runner, the built book, a server on loopback and a browser."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import pairs  # noqa: E402

import book  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_configure(config: pytest.Config) -> None:
    if config.option.nbmake:
        run_chapters_offline()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first: with two workers a chapter that starts last is a minute in which one of them waits."""
    items.sort(
        key=lambda item: item.path.suffix != ".ipynb" and item.path.stem not in {"test_commands", "test_readers"}
    )


def run_chapters_offline() -> None:
    """Make nbmake run each chapter with the network shut, and keep what passed for the book.

    An executed chapter goes to the cache that `make book` reads (same kernel, same folder, same code), so `make test`
    runs every chapter once, not twice.
    """
    from nbmake import pytest_items
    from nbmake.nb_result import NotebookError, NotebookResult
    from nbmake.nb_run import NotebookRun

    class OfflineRun(NotebookRun):
        def execute(self) -> NotebookResult:
            started, before = time.time(), book.inputs()
            log = book.BUILD / f".network-{os.getpid()}.log"
            book.BUILD.mkdir(exist_ok=True)
            log.write_text("")
            with pytest.MonkeyPatch.context() as patch:
                for name, value in book.environment().items():
                    patch.setenv(name, value)
                patch.setenv("CLIPBOOK_NETWORK_LOG", str(log))
                patch.setenv("PYTHONPATH", str(ROOT / "tests" / "offline"), prepend=os.pathsep)
                result = super().execute()
            asked = {line for line in log.read_text().splitlines() if not line.startswith("published ")}
            log.unlink()
            if result.error is None and asked:
                hosts = ", ".join(sorted(line.split()[-1] for line in asked))
                text = f"{Path(self.filename).name} asked the network for {hosts}; a chapter's default run must not"
                return NotebookResult(nb=result.nb, error=NotebookError(summary=text, trace=text, failing_cell_index=0))
            if result.error is None and before == book.inputs():
                book.keep(Path(self.filename), result.nb, time.time() - started)
            return result

    pytest_items.NotebookRun = OfflineRun


def chapter_files() -> list[Path]:
    return [path.with_suffix(".ipynb") for path in pairs.chapters()]


@pytest.fixture(scope="session")
def built_book() -> Path:
    """The folder of HTML pages, built now; the chapters that nbmake just ran come from the cache."""
    done = subprocess.run(
        [sys.executable, "tools/book.py"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:  # thousands of lines say what went well
        lines = [line for line in done.stdout.splitlines() if "copying images" not in line]
        told = [line for line in lines if "WARNING" in line or "ERROR" in line]
        pytest.fail("the book could not be built:\n" + "\n".join([*told, "...", *lines[-20:]]), pytrace=False)
    return book.HTML


@pytest.fixture(scope="session")
def site(built_book: Path):
    """The address of the built book on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(built_book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """Chromium or Chrome as installed on this machine."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no browser: install Chromium or Chrome (on Debian or Ubuntu: apt install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield opened
        opened.close()
