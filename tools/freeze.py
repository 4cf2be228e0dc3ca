"""Write constraints.txt: the versions installed in this environment, once `make test` has passed with them.

Left out: torch and what it brings (a machine with its own torch keeps it), and the installers. A package that no
longer supports every python from 3.10 on is pinned only where it can be installed; older pythons get its newest
release that fits.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

TARGET = Path(__file__).resolve().parent.parent / "constraints.txt"
LEFT_OUT = re.compile(r"clipbook|pip|setuptools|wheel|uv|torch|torchvision|triton|nvidia-.*|cuda-.*")


def main() -> None:
    torch, torchvision = (importlib.metadata.version(name) for name in ("torch", "torchvision"))
    lines = [
        "# The versions that were tested together; `python tools/freeze.py` writes this file.",
        f"# With torch {torch} and torchvision {torchvision}, not pinned: a machine keeps the build that suits it.",
    ]
    found = {canonicalize_name(d.name): d for d in importlib.metadata.distributions()}
    for name, distribution in sorted(found.items()):
        if LEFT_OUT.fullmatch(name):
            continue
        pythons = SpecifierSet(distribution.metadata.get("Requires-Python") or "")
        oldest = next((s.version for s in pythons if s.operator == ">=" and "3.10" not in pythons), None)
        lines.append(f"{name}=={distribution.version}" + (f' ; python_full_version >= "{oldest}"' if oldest else ""))
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"freeze: {len(lines) - 2} versions written to {TARGET.name}")


if __name__ == "__main__":
    main()
