"""The tests with the oldest dependencies that pyproject.toml allows, all at once; run by `scripts/test --oldest`.

An environment of its own (`.venv/oldest`) gets every dependency at its lower bound, without the stock clients that ask
for more. Tests that are given, or those that tell most in a few minutes: the units, and clusters in one process.
"""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from scripts.bootstrap import ROOT, VENV
from scripts.checks import TOGETHER

OLDEST = VENV / "oldest"
UNITS = ("api", "apiserver", "client", "cli", "controllers", "raft", "rpc", "scheduler", "storage")
TESTS = (
    *(f"tests/{part}" for part in UNITS),
    "tests/packaging/test_descriptor_pool.py",
    "tests/e2e/test_python_api.py",
)


def pins(pyproject: Path) -> Iterator[str]:
    """`name==bound` for every dependency. ValueError for one without a lower bound."""
    for line in tomllib.loads(pyproject.read_text())["project"]["dependencies"]:
        wanted = Requirement(line)
        bounds = [s.version for s in wanted.specifier if s.operator in (">=", "==")]
        if len(bounds) != 1:
            raise ValueError(f"{line} has no lower bound in pyproject.toml; give it the oldest release that passes")
        yield f"{wanted.name}=={bounds[0]}"


def main() -> int:
    python = OLDEST / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(OLDEST)], check=True)
    constraints = OLDEST / "constraints.txt"
    constraints.write_text("\n".join(pins(ROOT / "pyproject.toml")) + "\n")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", str(constraints)]
    subprocess.run([python, *install, "--editable", ".[tools]"], cwd=ROOT, check=True)
    tests = [*TOGETHER, *(sys.argv[1:] or TESTS)]
    return subprocess.run([python, "-m", "pytest", *tests], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
