"""Make .venv and install the book into it. Run by the Makefile with whatever `python3` is; needs nothing installed.

Old pythons must be able to read this file: they get one clear line instead of a syntax error.
"""

import os
import subprocess
import sys

OLDEST = (3, 10)


def fail(message):
    sys.stderr.write("setup: " + message + "\n")
    sys.exit(1)


def installer(python, venv):
    """uv where it can be had: it links packages from its cache, pip copies them (about 6 GB)."""
    from shutil import which

    own = os.path.join(venv, "bin", "uv")
    if which("uv"):
        return [which("uv"), "pip", "install", "--python", python]
    if not os.path.exists(own):
        subprocess.call([python, "-m", "pip", "install", "--quiet", "uv"])
    if os.path.exists(own) and subprocess.call([own, "--version"]) == 0:
        return [own, "pip", "install", "--python", python]
    print("setup: uv could not be installed; pip does it, more slowly")
    return [python, "-m", "pip", "install"]


def main(venv, constraints):
    if sys.version_info < OLDEST:
        fail(
            "python %d.%d or newer is needed, but %s is %d.%d; name another: make PYTHON=python3.12 book"
            % (OLDEST + (sys.executable,) + tuple(sys.version_info[:2]))
        )
    python = os.path.join(venv, "bin", "python")
    if not os.path.exists(python):
        try:
            import ensurepip  # noqa: F401  Debian ships python without it
            import venv as _  # noqa: F401
        except ImportError:
            fail("this python3 cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv")
        print("setup: making %s with python %d.%d" % ((venv,) + tuple(sys.version_info[:2])))
        if subprocess.call([sys.executable, "-m", "venv", venv]):
            fail("python3 -m venv %s failed, see above" % venv)
    print("setup: installing requirements.txt within %s (the first time this takes minutes)" % constraints)
    command = installer(python, venv) + ["-r", "requirements.txt", "-c", constraints, "-e", "."]
    if subprocess.call(command):
        fail("installing failed, see above; `make book` tries again")


if __name__ == "__main__":
    main(*sys.argv[1:])
