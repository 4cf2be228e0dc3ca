"""A reader's path: one chapter's .ipynb alone, the package installed as on Colab, nothing of this checkout in reach."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pairs
import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the package, and only what the package itself asks for.

    The checkout is copied first, so that building leaves nothing in it. uv links what it has already downloaded, which
    makes this a matter of seconds; pip, where there is no uv, of minutes.
    """
    folder = tmp_path_factory.mktemp("reader")
    checkout, python = folder / "checkout", folder / "env" / "bin" / "python"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", checkout / "src", ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder, environment=environment)
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    # the versions that are tested everywhere else, torch's too: this is about what is asked for, not about what is new
    torch = [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "torchvision")]
    run(*install, checkout, *torch, "-c", ROOT / "constraints.txt", cwd=folder, environment=environment)
    shutil.rmtree(checkout)
    return python


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in pairs.chapters()[:1]])
def test_a_chapter_alone_in_an_empty_folder(path: Path, fresh_python: Path, tmp_path: Path):
    here, home, result = tmp_path / "here", tmp_path / "home", tmp_path / "result.ipynb"
    here.mkdir()
    home.mkdir()
    notebook = here / path.with_suffix(".ipynb").name
    shutil.copy(path.with_suffix(".ipynb"), notebook)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "OMP_NUM_THREADS": "1",
    }
    code = "import clipbook; from clipbook import backbones; backbones.load(device='cpu'); print(clipbook.__file__)"
    where = run(fresh_python, "-c", code, cwd=here, environment=environment)
    assert "site-packages" in where, "package and model must come from the environment, not from the checkout"
    run(fresh_python, "-m", "papermill", "--no-progress-bar", notebook, result, cwd=here, environment=environment)
    cells = [cell for cell in nbformat.read(result, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs), "it draws figures"
    assert list(here.iterdir()) == [notebook], "a run leaves nothing behind"
