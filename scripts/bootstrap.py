"""A virtual environment beside the checkout, made and brought up to date with nothing but Python and pip.

`python_for(extra)` returns its interpreter. Nothing is done while what says what to install is as it was at the last
install: a stamp inside the environment keeps its hash. Read by the Python that the machine happens to have, so it must
run (and complain) on old ones too.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
# Rayplane is imported through links, which some ways to unpack a checkout turn into small files.
LINKED = ROOT / ".src" / "rayplane" / "control_plane"
INSTALLED_BY = ("pyproject.toml", "control_plane/dashboard/page/package-lock.json")
PACKAGES = ("control_plane", "node", "proto", "storage")
OLDEST = (3, 11)
CANDIDATES = ("python3.14", "python3.13", "python3.12", "python3.11")


def python_for(extra: str = "") -> Path:
    """The environment's interpreter, with rayplane and what `extra` names installed. Exits with a line on failure."""
    if not LINKED.is_dir():
        sys.exit(f"{LINKED} is no link to a folder: unpack with symbolic links, or clone with git (core.symlinks=true)")
    python = VENV / "bin" / "python"
    if not _works(python):
        _say(f"making a virtual environment in {VENV}")
        _run([_base_python(), "-m", "venv", "--clear", str(VENV)], "python3 -m venv failed; is python3-venv installed?")
    wanted = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in INSTALLED_BY)).hexdigest()
    # What the extra brings includes what is needed without it.
    stamps = [_stamp(name) for name in dict.fromkeys((extra, "test"))]
    if any(s.exists() and s.read_text() == wanted for s in stamps):
        return python
    target = f".[{extra}]" if extra else "."
    _say(f"installing {target} into {VENV}; this takes a minute or two the first time")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", target]
    _run(pip, "pip could not install what is needed; see above")
    # Whatever is started first, and where nothing can be written beside the code, need not compile it then.
    subprocess.run([str(python), "-m", "compileall", "-q", *PACKAGES], cwd=ROOT, check=False)
    _stamp(extra).write_text(wanted)
    return python


def _stamp(extra: str) -> Path:
    return VENV / f"installed-{extra or 'base'}.sha256"


def _works(python: Path) -> bool:
    """Whether there is an environment, not broken by a Python that moved away."""
    if not python.exists():
        return False
    code = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0


def _base_python() -> str:
    if sys.version_info >= OLDEST:
        return sys.executable
    for name in CANDIDATES:
        for directory in os.get_exec_path():
            if os.access(os.path.join(directory, name), os.X_OK):
                return os.path.join(directory, name)
    sys.exit("rayplane needs Python {}.{} or newer; this is {}.{}".format(*OLDEST, *sys.version_info[:2]))


def _run(command: list[str], otherwise: str) -> None:
    """Run it, and show what it says only when it fails: pip warns of much that nobody can change."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        _say(done.stdout)
        sys.exit(otherwise)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
