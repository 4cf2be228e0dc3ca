"""Keep the two halves of a chapter the same: NN_name.py (reviewed source) and NN_name.ipynb (what Colab opens).

    python tools/pairs.py            write what is out of date, in the direction that loses nothing
    python tools/pairs.py --check    only say which pairs differ; exit 1 if any does
    python tools/pairs.py --from py  (or: --from ipynb) when both halves were edited, say which one wins

File times are not looked at: a checkout or a copy scrambles them. Instead the id of every cell that we write into an
.ipynb is a hash of the cell. A notebook whose ids still fit its cells is as we wrote it, so the .py is the newer half;
one whose ids do not fit was edited in Jupyter, and wins if the .py is still what those ids were made from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
KEPT_METADATA = ("tags", "mystnb")
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
CONFIG = {
    "notebook_metadata_filter": "kernelspec,-jupytext.text_representation.jupytext_version,-all",
    "cell_metadata_filter": ",".join(KEPT_METADATA) + ",-all",
}


def chapters(root: Path = ROOT) -> list[Path]:
    """The .py half of every chapter; a chapter of which only the .ipynb exists is listed as well."""
    found = {p.with_suffix(".py") for suffix in ("py", "ipynb") for p in root.glob(f"book/**/[0-9][0-9]_*.{suffix}")}
    return sorted(p for p in found if not any(part.startswith((".", "_")) for part in p.relative_to(root).parts))


def install_cell(root: Path = ROOT) -> str:
    """What the first cell of every chapter says. The repository's address is written in `_config.yml` only."""
    url = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    return f"""\
# On Colab: install the package. Anywhere else it is already installed.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("clipbook") is None:
    source = "git+{url}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", source]
    subprocess.run(command, check=True)"""


def cells(notebook: NotebookNode) -> list[tuple[str, str, dict]]:
    """What a pair must agree on: type, source and the metadata that matters, cell by cell."""
    return [
        (c.cell_type, c.source, {k: json.loads(json.dumps(c.metadata[k])) for k in KEPT_METADATA if k in c.metadata})
        for c in notebook.cells
    ]


def identifiers(content: list[tuple[str, str, dict]]) -> list[str]:
    """One id per cell: a hash of the cell, and of how often the same cell came before it."""
    ids: list[str] = []
    for cell in content:
        digest = hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:12]
        ids.append(f"{digest}-{sum(i.startswith(digest) for i in ids)}")
    return ids


def read_source(path: Path) -> NotebookNode:
    return jupytext.read(path, fmt="py:percent")


def to_notebook(content: list[tuple[str, str, dict]]) -> str:
    """The .ipynb's text: no outputs, no counts, nothing that depends on who wrote it or when."""
    made = []
    for (kind, source, metadata), name in zip(content, identifiers(content), strict=True):
        cell = {"cell_type": kind, "id": name, "metadata": metadata, "source": source}
        made.append(cell | {"execution_count": None, "outputs": []} if kind == "code" else cell)
    metadata = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    notebook = nbformat.from_dict({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def to_source(content: list[tuple[str, str, dict]]) -> str:
    notebook = nbformat.reads(to_notebook(content), as_version=4)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "jupytext": CONFIG})
    text = jupytext.writes(notebook, fmt="py:percent")
    # the filters live in pyproject.toml; a version in the header would change with every upgrade
    return re.sub(r"(?m)^#     (?:cell|notebook)_metadata_filter:.*\n|^#       jupytext_version:.*\n", "", text)


def write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def newer_half(source: list | None, notebook: NotebookNode | None) -> str | None:
    """Which half holds the edit: "py", "ipynb", or None when both do."""
    if notebook is None or source is None:
        return "py" if notebook is None else "ipynb"
    written = identifiers(cells(notebook))
    kept = [c.get("id", "") for c in notebook.cells]
    if kept == written:
        return "py"
    of_source = set(identifiers(source))
    ours = [i for i in kept if re.fullmatch(r"[0-9a-f]{12}-\d+", i)]
    return "ipynb" if ours and all(i in of_source for i in ours) else None


def sync(root: Path = ROOT, winner: str | None = None, check: bool = False) -> list[str]:
    """Bring every pair together; returns one line for each half written (or, with `check`, that would be).

    Raises ValueError, naming the pair, when both halves were edited and no `winner` was given.
    """
    lines = []
    for path in chapters(root):
        other = path.with_suffix(".ipynb")
        source = cells(read_source(path)) if path.exists() else None
        notebook = nbformat.read(other, as_version=4) if other.exists() else None
        half = winner or newer_half(source, notebook)
        if notebook is not None and source == cells(notebook):
            half = "py"  # the same cells: at most outputs or ids to tidy away
        if half is None:
            raise ValueError(
                f"{path.relative_to(root)} and its .ipynb were both edited: run `python tools/pairs.py --from py` "
                "(or `--from ipynb`) to say which one wins"
            )
        content = source if half == "py" else cells(notebook)
        if content is None:
            raise ValueError(f"{path.relative_to(root)}: the .{half} half does not exist")
        if content and "colab" in content[0][2].get("tags", []):
            content[0] = ("code", install_cell(root), content[0][2])
        wanted = {other: to_notebook(content)}
        if content != source:
            wanted[path] = to_source(content)
        for file, text in wanted.items():
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                lines.append(f"{file.relative_to(root)} {'differs from its pair' if check else 'written'}")
                if not check:
                    write(file, text)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a pair differs")
    parser.add_argument("--from", dest="winner", choices=("py", "ipynb"), help="the half that wins")
    arguments = parser.parse_args()
    try:
        lines = sync(winner=arguments.winner, check=arguments.check)
    except ValueError as error:
        print(f"pairs: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"pairs: {line}" for line in lines) or f"pairs: all {len(chapters())} agree")
    return int(arguments.check and bool(lines))


if __name__ == "__main__":
    sys.exit(main())
