"""Chapters as experiments: record metrics, run a chapter with other parameters, sweep, keep a ledger.

    python -m clipbook.runs foundations/03_zero_shot -p seed=0..4 -p backbone=glyph,ViT-B-32/random
    python -m clipbook.runs runs/costs.yaml

The ledger is a folder with one JSON file per finished run. Run from the command line on a chapter of the
repository, it is `runs/ledger` there, and a copy of it all goes into the package (`assets/ledger.json`), so that a
chapter alone in Colab has its line on time and memory (`cost_line`) and its recorded results (`results`) too.
`execute` called from Python writes to `out_dir/ledger` unless told otherwise.
"""

import argparse
import ast
import datetime
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_RECORD = "assets/ledger.json"


class RunError(RuntimeError):
    """A chapter failed; the message carries the failing cell's traceback."""


def record(metrics: Mapping[str, float | int | str], out_dir: str | os.PathLike) -> None:
    """Write a chapter's results to `out_dir/metrics.json`; a chapter calls it once, at its end.

    Args:
        metrics: plain names to finite floats, ints or strings; NumPy and torch scalars count as such.
        out_dir: folder, made when missing. Empty, as by default: the metrics are checked, nothing is written.

    Raises TypeError for other values or names, ValueError for NaN or infinity.
    """
    plain = {}
    for name, value in metrics.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"metrics must have non-empty strings as names, got {name!r}")
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, float | int | str):
            raise TypeError(f"metrics[{name!r}] must be a float, an int or a string, got {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"metrics[{name!r}] must be finite, got {value}")
        plain[name] = value
    if out_dir:
        _write_json(Path(out_dir) / "metrics.json", plain)


def execute(
    chapter: str | os.PathLike,
    parameters: Mapping[str, object],
    out_dir: str | os.PathLike,
    *,
    ledger: str | os.PathLike | None = None,
) -> dict[str, float | int | str]:
    """Run one chapter in a kernel of its own and return the metrics that it recorded.

    Args:
        chapter: "foundations/01_world", "01_world", or the path of any .py (py:percent) or .ipynb; of a pair
            the .py is run.
        parameters: values for names in the chapter's `parameters` cell, of the type that the default has.
        out_dir: where the chapter writes. Its files arrive there when the whole chapter has succeeded.
        ledger: folder that gets one JSON for this run; default `out_dir/ledger`.

    Returns: what the chapter gave to `record`; empty if nothing.

    Raises FileNotFoundError or ValueError for a chapter that is missing or ambiguous, ValueError for an
    unknown parameter and TypeError for one of the wrong type (both before anything runs), RunError when a
    cell fails; then neither `out_dir` nor the ledger changes.
    """
    return _execute(chapter, parameters, out_dir, ledger)["metrics"]


def cost_line(chapter: str) -> str:
    """One line on a chapter's time and memory, for instance "About 35 s and 0.9 GB on 2 CPU cores (...)".

    Args:
        chapter: its name in the book, "foundations/01_world".

    Returns: the line shipped with the package, or one that says that no run is on record.
    """
    return _costs(_shipped(chapter)).get(chapter, f"Time and memory: no run of {chapter} on record yet.")


def results(chapter: str) -> list[dict]:
    """What runs of a chapter recorded, from the ledger that ships with the package.

    Args: chapter: its name in the book, "foundations/01_world".

    Returns: one entry per combination of parameters, its newest: "parameters", "metrics", "seconds", "device",
    "date" and more; [] if there is none.
    """
    newest = {
        json.dumps(e["parameters"], sort_keys=True): e for e in sorted(_shipped(chapter), key=lambda e: e["date"])
    }
    return list(newest.values())


def _shipped(chapter: str) -> list[dict]:
    path = _PACKAGE / _RECORD
    entries = json.loads(path.read_text()) if path.is_file() else []
    return [entry for entry in entries if entry["chapter"] == chapter]


# ---- one run


def _execute(chapter, parameters, out_dir, ledger) -> dict:
    import papermill
    from jupyter_client.kernelspec import NATIVE_KERNEL_NAME
    from nbclient.exceptions import DeadKernelError
    from nbformat.v4 import new_code_cell
    from papermill.exceptions import PapermillExecutionError

    if not str(out_dir):
        raise ValueError("out_dir must name a folder, got an empty string")
    path = _find(chapter)
    name, notebook = _name(path), _read(path)
    defaults = _defaults(notebook, name)
    values = _check(parameters, defaults, name)
    out_dir = Path(out_dir).resolve()
    ledger = Path(ledger).resolve() if ledger is not None else out_dir / "ledger"
    source = _source_hash(notebook)
    commit = _commit(path.parent, ledger)  # before the run: what was about to be executed
    with _staged(out_dir) as folder:
        measured = folder / ".measured.json"
        # Peak memory, versions and weights are the kernel's to tell, once everything has run.
        notebook.cells.append(new_code_cell(f"__import__('clipbook.runs').runs._measure(globals(), {str(measured)!r})"))
        started = time.perf_counter()
        try:
            papermill.execute_notebook(
                notebook,
                None,
                {**values, "out_dir": str(folder)},
                kernel_name=NATIVE_KERNEL_NAME,
                language="python",
                progress_bar=False,
                cwd=path.parent,
                start_timeout=120,
            )
        except PapermillExecutionError as error:
            cell = next((line for line in error.source.splitlines() if line.strip()), "")
            trace = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(error.traceback))
            text = f"{name} failed in the cell that begins `{cell}`: {error.ename}: {error.evalue}\n{trace}"
            raise RunError(text) from None
        except DeadKernelError:
            raise RunError(f"{name} failed: its kernel died, most often for lack of memory") from None
        seconds = time.perf_counter() - started
        facts = json.loads(measured.read_text())
        measured.unlink()
        recorded = folder / "metrics.json"
        metrics = json.loads(recorded.read_text()) if recorded.is_file() else {}
    entry = {
        "chapter": name,
        "parameters": {key: values.get(key, default) for key, default in defaults.items() if key != "out_dir"},
        "changed": sorted(key for key in values if values[key] != defaults[key]),
        "metrics": metrics,
        "seconds": round(seconds, 2),
        **facts,
        "source": source,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if commit:
        entry["commit"] = commit
    stamp = entry["date"][:19].replace(":", "").replace("-", "")
    _write_json(ledger / f"{name.replace('/', '-')}-{stamp}-{uuid.uuid4().hex[:6]}.json", entry)
    return entry


def _measure(namespace: dict, path: str) -> None:
    """Called in the kernel as the last cell of a run: what the run used."""
    torch = sys.modules.get("torch")  # a chapter that never imported it need not pay for it now
    facts = {"device": "cpu", "device_name": _cores(), "peak_memory_mib": _peak_memory_mib()}
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        facts |= {
            "device": "cuda",
            "device_name": torch.cuda.get_device_name(),
            "peak_gpu_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20, 1),
        }
    facts["versions"] = {"python": platform.python_version()}
    for package in ("torch", "open_clip_torch"):
        with suppress(importlib.metadata.PackageNotFoundError):
            facts["versions"][package] = importlib.metadata.version(package)
    # Every backbone that the chapter still holds, by name: {"glyph": "1f3a..."}.
    held = [value for value in namespace.values() if isinstance(getattr(value, "weights_id", None), str)]
    facts["weights_id"] = {backbone.name: backbone.weights_id for backbone in held}
    facts["package"] = _package_hash()
    _write_json(Path(path), facts)


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    cores = min(usable, int(threads)) if threads.isdigit() and int(threads) else usable
    return "1 CPU core" if cores == 1 else f"{cores} CPU cores"


def _peak_memory_mib() -> float:
    # Not getrusage on Linux: there a child starts from the peak of the process that forked it.
    status = Path("/proc/self/status")
    if status.is_file():
        return round(int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024, 1)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)  # bytes on macOS


@contextmanager
def _staged(out_dir: Path):
    """A folder beside `out_dir` whose files move into it on success and vanish on failure."""
    made = [parent for parent in out_dir.parents if not parent.exists()]
    folder = out_dir.parent / f".{out_dir.name}.{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    try:
        yield folder
        for file in sorted(folder.rglob("*"), key=lambda file: file.name == "metrics.json"):  # the metrics last
            if file.is_file():
                target = out_dir / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
        out_dir.mkdir(exist_ok=True)
    except BaseException:
        shutil.rmtree(folder)
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()
        raise
    shutil.rmtree(folder)


# ---- chapters


def _repository() -> Path | None:
    """The checkout around the working folder, or the one that this package lies in; None outside both."""
    for folder in (Path.cwd(), *Path.cwd().parents, _PACKAGE.parents[1]):
        if (folder / "book").is_dir() and (folder / "src" / "clipbook").is_dir():
            return folder.resolve()
    return None


def _find(chapter: str | os.PathLike) -> Path:
    path = Path(chapter)
    root = _repository()
    known = {} if root is None else {_name(file): file for file in sorted((root / "book").rglob("*.py"))}
    if path.suffix in (".py", ".ipynb"):
        if not path.is_file():
            raise FileNotFoundError(f"chapter must be an existing file, got {chapter}")
        source = path.with_suffix(".py")
        return (source if source.is_file() else path).resolve()
    found = [name for name in known if name == str(path) or name.endswith(f"/{path}")]
    if len(found) > 1:
        raise ValueError(f"chapter must name one chapter, got {str(path)!r}, which could be {' or '.join(found)}")
    if not found:
        raise FileNotFoundError(f"chapter must be a .py or .ipynb, or one of {list(known)}; got {str(path)!r}")
    return known[found[0]]


def _name(path: Path) -> str:
    """ "foundations/01_world" for a chapter of the book, the bare file name for any other file."""
    root = _repository()
    inside = root is not None and path.resolve().is_relative_to(root / "book")
    return path.resolve().relative_to(root / "book").with_suffix("").as_posix() if inside else path.stem


def _read(path: Path):
    import jupytext

    return jupytext.read(path)


def _source_hash(notebook) -> str:
    """Of the code alone: mended prose does not ask for a new run."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def _package_hash() -> str:
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*")):
        name = file.relative_to(_PACKAGE).as_posix()
        if file.is_file() and "__pycache__" not in name and name != _RECORD:
            digest.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _defaults(notebook, name: str) -> dict[str, object]:
    """Names and default values in the cell tagged `parameters`."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{name} must have exactly one cell tagged `parameters`, got {len(cells)}")
    defaults = {}
    for line in ast.parse(cells[0].source).body:
        try:
            (target,) = line.targets if isinstance(line, ast.Assign) else (line.target,)
            defaults[target.id] = ast.literal_eval(line.value)
        except (AttributeError, ValueError):
            raise ValueError(
                f"{name}: the `parameters` cell must hold NAME = plain value lines, got `{ast.unparse(line)}`"
            ) from None
    if "out_dir" not in defaults:
        raise ValueError(f"{name} must have `out_dir` in its `parameters` cell")
    return defaults


def _check(parameters: Mapping[str, object], defaults: Mapping[str, object], name: str) -> dict[str, object]:
    values = {}
    for key, value in parameters.items():
        if key == "out_dir":
            raise ValueError("out_dir is an argument of its own, not one of the parameters")
        if key not in defaults:
            known = ", ".join(k for k in defaults if k != "out_dir")
            raise ValueError(f"{name} has no parameter {key!r}; it has {known}")
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            value = value.item()  # a NumPy number
        default = defaults[key]
        if default is None:  # "not set": any plain value may stand for it
            expected = (str, bool, int, float, type(None))
        else:
            expected = (float, int) if isinstance(default, float) else (type(default),)
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in expected)
            raise TypeError(f"{name}: parameter {key} must be {wanted} (as its default {default!r}), got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: parameter {key} must be finite, got {value}")
        values[key] = float(value) if isinstance(default, float) else value
    return values


def _commit(folder: Path, ledger: Path) -> str | None:
    """Commit of the checkout around `folder`; "-dirty" when more than the ledger changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", top, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        top = str(folder)
        top = git("rev-parse", "--show-toplevel")
        commit = git("rev-parse", "--short=12", "HEAD")
        own = [f":(exclude)src/clipbook/{_RECORD}"]
        if ledger.is_relative_to(top):
            own.append(f":(exclude){ledger.relative_to(top).as_posix()}")
        return commit + ("-dirty" if git("status", "--porcelain", "--", ".", *own) else "")
    except (OSError, subprocess.CalledProcessError):  # no git, no checkout, no commit yet
        return None


def _write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# ---- the ledger


def _entries(ledger: Path) -> list[dict]:
    entries = []
    for file in sorted(ledger.glob("*.json")):
        try:
            entries.append(json.loads(file.read_text()))
        except ValueError:
            raise ValueError(f"ledger must hold one JSON per run; {file} is damaged, delete it") from None
    return entries


def _costs(entries: Sequence[dict]) -> dict[str, str]:
    """The line of each chapter: default parameters, any seed; on CPU and on GPU, runs like the newest one."""
    lines = {}
    for name in sorted({entry["chapter"] for entry in entries}):
        mine = [e for e in entries if e["chapter"] == name and set(e["changed"]) <= {"seed", "device"}]
        parts = []
        for device in sorted({e["device"] for e in mine}):
            newest = max((e for e in mine if e["device"] == device), key=lambda e: e["date"])
            alike = ("device", "device_name", "source")
            same = [e for e in mine if all(e[key] == newest[key] for key in alike)]
            seconds, memory = (statistics.median(e[key] for e in same) for key in ("seconds", "peak_memory_mib"))
            needs = [_duration(seconds), _gigabytes(memory)]
            if device == "cuda":
                memory = statistics.median(e["peak_gpu_memory_mib"] for e in same)
                needs.append(f"{_gigabytes(memory)} of GPU memory")
            of = f"median of {len(same)} runs" if len(same) > 1 else "1 run"
            torch = f", torch {newest['versions']['torch']}" if "torch" in newest["versions"] else ""
            parts.append(f"{', '.join(needs[:-1])} and {needs[-1]} on {newest['device_name']} ({of}{torch})")
        if parts:
            lines[name] = f"About {'; '.join(parts)}."
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _gigabytes(mib: float) -> str:
    return f"{mib * 2**20 / 1e9:.1f} GB"


# ---- the command line


def sweep(
    chapter: str | os.PathLike,
    grid: Mapping[str, Sequence[object]],
    ledger: str | os.PathLike,
    out_dir: str | os.PathLike | None = None,
) -> tuple[list[dict], list[tuple[str, str]]]:
    """Run a chapter for every combination of parameter values that the ledger does not hold yet.

    A combination is held when a run with the same code in the chapter, the same package and the same values
    of all parameters is on record. A failing run does not stop the others.

    Args:
        chapter: as in `execute`.
        grid: parameter name to its values.
        ledger: folder that is read and added to.
        out_dir: a folder per run is made in it; default: a temporary one (the ledger has the metrics).

    Returns: the entries of all combinations in order, and (combination, error) for those that failed.
    """
    from tqdm import tqdm

    path, ledger = _find(chapter), Path(ledger)
    name, notebook = _name(path), _read(path)
    defaults = _defaults(notebook, name)
    # All combinations are checked before the first one runs: a typo must not surface after an hour.
    combinations = [
        _check(dict(zip(grid, values, strict=True)), defaults, name) for values in itertools.product(*grid.values())
    ]

    def key(source, package, parameters):
        return json.dumps([name, source, package, parameters], sort_keys=True)

    held = {key(e["source"], e["package"], e["parameters"]): e for e in _entries(ledger) if e["chapter"] == name}
    source, package = _source_hash(notebook), _package_hash()
    base = {k: v for k, v in defaults.items() if k != "out_dir"}
    found = [held.get(key(source, package, base | values)) for values in combinations]
    failed = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=len(found), unit="run", initial=len(found) - found.count(None)) as bar,
    ):
        for i, values in enumerate(combinations):
            if found[i] is not None:
                continue
            label = " ".join(f"{k}={v}" for k, v in values.items()) or "defaults"
            bar.set_description(label)
            # The hash keeps apart what the cleaned label would merge (a/b and a-b).
            folder = f"{re.sub(r'[^A-Za-z0-9=._-]+', '_', label)}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"
            try:
                found[i] = _execute(path, values, Path(out_dir or scratch) / name / folder, ledger)
            except RunError as error:
                failed.append((label, str(error)))
            bar.update()
    return [entry for entry in found if entry is not None], failed


def table(entries: Sequence[dict], names: Sequence[str]) -> str:
    """Metrics as rows, a column per combination of the parameters `names`; mean ± spread over seeds."""
    names = [name for name in names if name != "seed"]
    columns: dict[str, list[dict]] = {}
    for entry in entries:
        label = " ".join(f"{name}={entry['parameters'][name]}" for name in names) or entry["chapter"]
        columns.setdefault(label, []).append(entry["metrics"] | {"seconds": entry["seconds"]})
    rows = [["", *columns]]
    for metric in dict.fromkeys(key for runs in columns.values() for run in runs for key in run):
        row = [metric]
        for runs in columns.values():
            values = [run[metric] for run in runs if metric in run]
            if not values or any(isinstance(value, str) for value in values):
                row.append(" ".join(dict.fromkeys(map(str, values))) or "-")
            elif len(values) == 1:
                row.append(f"{values[0]:.4g}")
            else:
                row.append(f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g} ({len(values)})")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _values(option: str, defaults: Mapping[str, object]) -> tuple[str, list]:
    """ "seed=0..2,7" -> ("seed", [0, 1, 2, 7]), read as the type of the default."""
    name, equals, text = option.partition("=")
    if not equals or not text:
        raise ValueError(f"-p must be NAME=VALUES, for instance seed=0..4, got {option!r}")
    if name not in defaults or name == "out_dir":
        raise ValueError(f"-p: no parameter {name!r}; known: {', '.join(k for k in defaults if k != 'out_dir')}")
    default, values = defaults[name], []
    for part in text.split(","):
        span = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", part)
        try:
            if span and not isinstance(default, str | float | bool):
                first, last = map(int, span.groups())
                if first > last:
                    raise ValueError
                values.extend(range(first, last + 1))
            elif isinstance(default, str):
                values.append(part)
            elif isinstance(default, bool):
                values.append({"true": True, "false": False}[part.lower()])
            elif isinstance(default, int | float):
                values.append(type(default)(part))
            elif default is None:
                try:
                    values.append(ast.literal_eval(part))
                except (ValueError, SyntaxError):
                    values.append(part)
            else:
                raise ValueError
        except (ValueError, KeyError):
            raise ValueError(
                f"-p {name}: {part!r} does not read as its default {default!r} does (ranges: 0..4)"
            ) from None
    return name, list(dict.fromkeys(values))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 when a run failed, 2 for a bad request."""
    parser = argparse.ArgumentParser(prog="python -m clipbook.runs", description=sweep.__doc__.splitlines()[0])
    parser.add_argument("chapter", help="foundations/01_world, 01_world, or a path; or a .yaml with several")
    parser.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="values to run: seed=0..4 (both ends), backbone=glyph,ViT-B-32/random; repeat for more names",
    )
    parser.add_argument("--out", help="keep what the runs write, a folder each; default: only the ledger is kept")
    parser.add_argument("--ledger", help="default: runs/ledger in the repository of the chapter, else in this folder")
    options = parser.parse_args(arguments)
    try:
        requests = _requests(options.chapter, options.parameters)
        # All are read before the first one runs: a typo must not surface after an hour.
        checked = [(path, _grid(path, options)) for path, options in requests]
    except (OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    root, status = _repository(), 0
    for path, grid in checked:
        inside = root is not None and path.is_relative_to(root)
        own = (root if inside else Path.cwd()) / "runs" / "ledger"
        ledger = Path(options.ledger) if options.ledger else own
        try:
            entries, failed = sweep(path, grid, ledger, options.out)
        except (OSError, TypeError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(table(entries, list(grid)))
        if inside and ledger.resolve() == own.resolve():
            _write_json(root / "src" / "clipbook" / _RECORD, _entries(ledger))
        for label, error in failed:
            print(f"\n{label}: {error}", file=sys.stderr)
            status = 1
    return status


def _requests(chapter: str, parameters: Sequence[str]) -> list[tuple[Path, list[str]]]:
    """The chapter with its -p options; or, from a .yaml, several: {chapter: {parameter: values}}."""
    if Path(chapter).suffix not in (".yaml", ".yml"):
        return [(_find(chapter), list(parameters))]
    import yaml

    if parameters:
        raise ValueError(f"-p cannot be added to {chapter}: it says which values to run")
    try:
        spec = yaml.safe_load(Path(chapter).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{chapter} is not YAML: {error}") from None
    if not isinstance(spec, dict) or not all(isinstance(grid, dict) for grid in spec.values()):
        raise ValueError(f"{chapter} must read {{chapter: {{parameter: values}}}}")
    return [(_find(name), [f"{key}={text}" for key, text in grid.items()]) for name, grid in spec.items()]


def _grid(path: Path, options: Sequence[str]) -> dict[str, list]:
    defaults = _defaults(_read(path), _name(path))
    grid = dict(_values(option, defaults) for option in options)
    if len(grid) < len(options):
        raise ValueError("-p must name each parameter once: join its values with commas")
    return grid


if __name__ == "__main__":
    sys.exit(main())
