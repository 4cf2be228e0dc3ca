"""What every chapter promises, checked without looking at what it teaches.

How a chapter is written (the tests below hold it to this):

- `NN_name.py` is the source, `NN_name.ipynb` the same cells without outputs; `make sync` brings them together.
- First cell, tags `colab` and `remove-cell`: installs the package where it is missing; `make sync` writes its text.
- One cell tagged `parameters`: plain values, the shared names first.
- A figure's cell names what is seen: `mystnb={"image": {"alt": "..."}}`.
- A `Check` heading with a cell tagged `check`: asserts with a stated tolerance, visible on the page.
- Exercises: `### Exercise 1: ...`, each followed by its solution, code cells tagged `solution` and `hide-cell` with
  `mystnb={"code_prompt_show": "Solution", ...}`. The page shows those as a closed dropdown; they are ordinary cells, so
  they run whenever the chapter runs, in nbmake and in the build.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pairs
import pytest
import yaml
from packaging.requirements import Requirement

import book

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = [pytest.param(path, id=path.stem) for path in pairs.chapters()]
PARAMETERS = ["backbone", "dataset", "seed", "device", "n_images", "steps", "out_dir"]
LONGEST_CELL = 20


def tagged(cells: list, tag: str) -> list[str]:
    return [source for _, source, metadata in cells if tag in metadata.get("tags", [])]


def assigned(source: str) -> dict[str, object]:
    """Names and values of a parameters cell. Raises ValueError for anything but `name = literal`."""
    values = {}
    for statement in ast.parse(source).body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            raise ValueError(f"not a plain assignment: {ast.unparse(statement)}")
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    return values


def code_lines(source: str) -> int:
    """Lines that a reader must hold in their head: not blank, no comment."""
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in source.splitlines())


# Pairs


@pytest.mark.parametrize("path", CHAPTERS)
def test_pair_agrees_cell_by_cell(path: Path):
    source = pairs.cells(pairs.read_source(path))
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    for number, (one, other) in enumerate(zip(source, pairs.cells(notebook))):
        assert one == other, f"cell {number} of {path.name} and its .ipynb differ: edit one half, then `make sync`"
    assert len(source) == len(notebook.cells)
    ran = [c.source for c in notebook.cells if c.cell_type == "code" and (c.outputs or c.execution_count is not None)]
    assert not ran, f"outputs or execution counts in {path.stem}.ipynb: `make sync` removes them"
    assert not set(notebook.metadata) - {"kernelspec", "language_info"}
    assert "jupytext_version" not in path.read_text(encoding="utf-8"), "it would change with every upgrade"
    assert pairs.read_source(path).metadata["kernelspec"]["name"] == "python3", "papermill needs it in the header"


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A chapter of two cells, in step, in a project of its own."""
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    path = tmp_path / "book" / "part" / "01_example.py"
    path.parent.mkdir(parents=True)
    cells = [("markdown", "# Title", {}), ("code", "x = 1", {"tags": ["parameters"]})]
    path.write_text(pairs.to_source(cells))
    assert pairs.sync(tmp_path) == ["book/part/01_example.ipynb written"]
    assert pairs.sync(tmp_path) == []
    return path


def edit(path: Path, age: int, old: str = "x = 1", new: str = "x = 2") -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    os.utime(path, (1_000_000_000 - age, 1_000_000_000 - age))  # an edit may look older than what it edits


@pytest.mark.parametrize("half", [".py", ".ipynb"])
@pytest.mark.parametrize("age", [0, 10**9])
def test_sync_keeps_the_edit_whatever_the_file_times_say(pair: Path, half: str, age: int):
    edit(pair.with_suffix(half), age)
    root = pair.parents[2]
    assert pairs.sync(root, check=True), "the gate must see the difference"
    pairs.sync(root)
    assert "x = 2" in pair.read_text()
    assert "x = 2" in pair.with_suffix(".ipynb").read_text()
    assert pairs.sync(root, check=True) == []


def test_sync_asks_when_both_halves_were_edited(pair: Path):
    edit(pair, 0, new="x = 2")
    edit(pair.with_suffix(".ipynb"), 0, new="x = 3")
    with pytest.raises(ValueError, match="both edited"):
        pairs.sync(pair.parents[2])
    pairs.sync(pair.parents[2], winner="ipynb")
    assert "x = 3" in pair.read_text()


def test_sync_drops_outputs_and_keeps_source(pair: Path):
    path = pair.with_suffix(".ipynb")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1]["outputs"] = [nbformat.v4.new_output("stream", text="ran")]
    notebook.cells[1]["execution_count"] = 3
    nbformat.write(notebook, path)
    before = pair.read_text()
    pairs.sync(pair.parents[2])
    assert "ran" not in path.read_text()
    assert pair.read_text() == before


# Chapters


def violations(path: Path) -> list[str]:
    cells = pairs.cells(pairs.read_source(path))
    prose = "\n\n".join(source for kind, source, _ in cells if kind == "markdown")
    code = [source for kind, source, _ in cells if kind == "code"]
    found = []

    def demand(holds: object, what: str) -> None:
        if not holds:
            found.append(what)

    demand(
        code[0] == pairs.install_cell() and cells[0][2].get("tags") == ["colab", "remove-cell"], "install cell first"
    )
    parameters = tagged(cells, "parameters")
    demand(len(parameters) == 1, f"one cell tagged parameters, not {len(parameters)}")
    for source in parameters:
        names = list(assigned(source))
        demand(names[: len(PARAMETERS)] == PARAMETERS, f"parameters begin with {PARAMETERS}, not {names}")
        demand(assigned(source)["out_dir"] == "", "out_dir is empty by default: a run leaves nothing behind")
        demand(assigned(source)["device"] is None, "device is None by default")

    first = next(source for kind, source, _ in cells if kind == "markdown")
    demand(re.match(r"\([\w-]+\)=\n# \S", first), "the first text is a label and a title")
    demand(len(re.findall(r"(?m)^# \S", prose)) == 1, "one title")
    objectives = re.search(r":::\{admonition\} Objectives\n(.*?)\n:::", prose, re.S)
    demand(objectives and 3 <= len(re.findall(r"(?m)^- ", objectives[1])) <= 5, "Objectives: an admonition of 3 to 5")
    demand(re.search(r"(?i)^\|.*symbol.*\|.*code.*\|", prose, re.M), "a table of symbol and code name")
    demand("$$" in prose or "{math}" in prose, "an equation")
    demand("{cite" in prose, "a citation")
    demand(re.search(r"(?m)^## Summary", prose), "a Summary")
    demand(re.search(r"(?m)^## Further reading", prose), "Further reading")
    demand(any("widgets.frames(" in source for source in code), "a slider (widgets.frames)")
    demand(any("runs.record(" in source for source in code), "runs.record(...)")

    checks = tagged(cells, "check")
    demand(re.search(r"(?m)^##+ Check", prose) and checks, "a Check heading and a cell tagged check")
    demand(all("assert" in source for source in checks), "every check asserts")
    demand(not any("raises-exception" in m.get("tags", []) for _, _, m in cells), "no cell that is expected to fail")

    exercises = re.findall(r"(?m)^### Exercise (\d+)", prose)
    demand(
        exercises == [str(n + 1) for n in range(len(exercises))] and len(exercises) >= 3,
        "3 or more exercises, numbered",
    )
    solved, number = set(), None
    for kind, source, metadata in cells:
        if kind == "markdown":
            headings = re.findall(r"(?m)^(#+) (?:Exercise (\d+))?", source)
            number = headings[-1][1] or None if headings else number
        if "solution" in metadata.get("tags", []):
            demand("hide-cell" in metadata["tags"], f"a solution of exercise {number} is tagged hide-cell")
            demand("code_prompt_show" in metadata.get("mystnb", {}), f"solution {number} names its dropdown")
            solved.add(number)
    demand(
        solved == set(exercises),
        f"every exercise has its solution after it: {exercises} against {sorted(map(str, solved))}",
    )

    for number, (kind, source, metadata) in enumerate(cells):
        if kind == "code":
            lines = code_lines(source)
            demand(
                lines <= LONGEST_CELL,
                f"cell {number} has {lines} lines of code, more than {LONGEST_CELL}: {source[:60]!r}",
            )
            demand("image" not in metadata.get("mystnb", {}) or good_alt(metadata), f"alt text of cell {number}")
    return found


def good_alt(metadata: dict) -> bool:
    alt = metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    return len(alt) >= 20 and not re.search(r"\.(png|svg|jpe?g)\b", alt)


@pytest.mark.parametrize("path", CHAPTERS)
def test_chapter_keeps_its_contract(path: Path):
    found = violations(path)
    assert not found, f"{path.relative_to(ROOT)} lacks:\n- " + "\n- ".join(found)


def test_a_chapter_that_breaks_the_contract_is_found(tmp_path: Path):
    """The gate itself: an empty chapter must miss nearly everything."""
    path = tmp_path / "01_empty.py"
    long = "\n".join(f"x{i} = {i}" for i in range(LONGEST_CELL + 1))
    path.write_text(pairs.to_source([("markdown", "# No label", {}), ("code", long, {"tags": ["solution"]})]))
    found = "\n".join(violations(path))
    for word in (
        "install cell",
        "tagged parameters",
        "Objectives",
        "citation",
        "slider",
        "Check",
        "hide-cell",
        "21 lines",
    ):
        assert word in found


@pytest.mark.built
@pytest.mark.parametrize("path", CHAPTERS)
def test_what_the_executed_chapter_shows(path: Path, built_book: Path):
    """Pictures have alt text, and nothing that the page drops (stderr) was a warning."""
    for number, cell in enumerate(book.executed(path.with_suffix(".ipynb")).cells):
        for output in cell.get("outputs", []):
            where = f"cell {number} of {path.stem}: {cell.source[:80]!r}"
            if "remove-cell" not in cell.metadata.get("tags", []):
                pictured = any(kind.startswith("image/") for kind in output.get("data", {}))
                assert not pictured or good_alt(cell.metadata), (
                    f'a picture without mystnb={{"image": {{"alt": ...}}}}, {where}'
                )
            assert not (output.get("name") == "stderr" and "Warning" in output["text"]), (
                f"{output['text']} from {where}"
            )


@pytest.mark.built
def test_numbers_in_the_prose_are_rounded(built_book: Path):
    found = {}
    for page in built_book.rglob("*.html"):
        numbers = re.findall(r'class="pasted-text">([^<]*)<', page.read_text(encoding="utf-8"))
        if raw := [number for number in numbers if re.search(r"\.\d{5}", number)]:
            found[page.name] = raw
    assert not found, f"glue:text without a format: {found}"


# Pages


def test_contents_and_pages_are_the_same():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    on_disk = [str(Path(page).with_suffix("")) for page in book.pages()]
    assert sorted(listed) == sorted(on_disk)


def test_only_notebooks_and_markdown_are_sources():
    """A registered .py would give each chapter two sources, and Colab's button the wrong one."""
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert ".py" not in yaml.safe_load(config)["sphinx"]["config"].get("source_suffix", {})
    assert "nb_custom_formats" not in config


@pytest.mark.parametrize("address", ["192.0.2.1", "example.org"])
def test_the_network_is_shut_for_chapters(address: str, tmp_path: Path):
    log = tmp_path / "log"
    code = f"import urllib.request; urllib.request.urlopen('http://{address}/', timeout=5)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "offline"), "CLIPBOOK_NETWORK_LOG": str(log)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no network in the tests" in done.stderr
    assert log.read_text() == f"chapter {address}\n"


# The repository


def repository_files() -> list[Path]:
    """Every file that git has or would take; all files where there is no git."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(asked, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        left_out = {".git", ".venv", "_build", "shared"}
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if not left_out.intersection(p.parts)]
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_nothing_ties_the_repository_to_a_machine():
    homes = "|".join(["root", r"home/\w+", r"Users/\w+", "work", "opt/pypi", "tmp"])
    hosts = "|".join(["pypi[.]org", "pythonhosted[.]org", "npmjs[.](?:org|com)", "deb[.]debian[.]org"])
    tied = re.compile(rf"(?:(?<![\w.)}}*/])/(?:{homes})/)|(?:{hosts})")
    found = []
    for path in repository_files():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("book/_static/") or path.suffix in {".safetensors", ".png", ".gz", ".npy", ".woff"}:
            continue  # scripts of other projects, and binary files
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            found += [f"{name}:{number}: {line.strip()[:100]}"] if tied.search(line) else []
    assert not found, "\n".join(found)
    for line in ("see /ho" + "me/ann/x", 'open("/ro' + 'ot/.cache")', "https://files.pythonhos" + "ted.org/x"):
        assert tied.search(line), f"the search itself misses {line}"


def test_no_half_written_or_generated_file_is_in_the_repository():
    unwanted = re.compile(r"(^|/)(_build|\.venv|__pycache__|\.ipynb_checkpoints)/|\.partial$|\.egg-info/")
    assert not [p for p in repository_files() if unwanted.search(p.relative_to(ROOT).as_posix())]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {requirement.name.lower().replace("_", "-"): requirement for requirement in parsed}


def test_requirements_say_one_thing():
    """The package asks for a part of requirements.txt, in the same words, and for nothing that Colab would replace."""
    listed = requirements((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    block = re.search(r"(?s)\ndependencies = (\[.*?\n\])", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    asked = requirements(json.loads(re.sub(r",\s*\]", "]", block)))
    assert asked
    for name, requirement in asked.items():
        assert requirement == listed[name], f"{name} differs between pyproject.toml and requirements.txt"
    brought = {"torch": "2.6.0", "torchvision": "0.21.0", "numpy": "2.0.2", "pandas": "2.2.2", "ipykernel": "6.17.1"}
    for name, version in brought.items():
        assert asked[name].specifier.contains(version), f"{name} {version} would be replaced on Colab"
    assert not listed["jupyter-book"].specifier.contains("2.0.0")
    pinned = requirements((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    assert not {"torch", "torchvision"} & set(pinned), "a machine keeps its own torch"
    unpinned = set(listed) - set(pinned) - {"torch", "torchvision"}
    assert not unpinned, f"constraints.txt does not say what was tested of {unpinned}: python tools/freeze.py"
