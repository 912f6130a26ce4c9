"""The checks of scripts/test catch what they are for, and pre-commit runs the same ones."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.checks import CHECKS

ROOT = Path(__file__).parents[2]
TOO_MANY_RETURNS = "".join(f"    if x == {n}:\n        return {n}\n" for n in range(10))
MANY_BRANCHES = "".join(f"    if x == {n}:\n        x += 1\n" for n in range(20))
PLANTED = {
    "C901": f"def f(x: int) -> int:\n{MANY_BRANCHES}    return x\n",
    "PLR0911": f"def f(x: int) -> int:\n{TOO_MANY_RETURNS}    return x\n",
    "PLR0912": f"def f(x: int) -> int:\n{MANY_BRANCHES}    return x\n",
    "PLR0913": "def f(" + ", ".join(f"a{n}: int" for n in range(12)) + ") -> None: ...\n",
    "PLR0915": "def f() -> None:\n" + "    print(1)\n" * 50,
    "RUF100": "x = 1  # noqa: E501\n",
}


def run(name: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *CHECKS[name]], cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.processes
@pytest.mark.parametrize("code", PLANTED)
def test_ruff_finds_what_is_too_much(code: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "planted.py").write_text(PLANTED[code])
    assert code in run("ruff check", tmp_path).stdout


@pytest.mark.processes
def test_dead_code_is_found(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for folder in ("control_plane", "node", "storage", "scripts", ".src/rayplane"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".src/rayplane/__init__.py").touch()
    (tmp_path / "node/planted.py").write_text("def alive() -> None: ...\n\n\ndef dead() -> None: ...\n\n\nalive()\n")
    found = run("dead code", tmp_path).stdout
    assert "'dead'" in found
    assert "'alive'" not in found


def test_pre_commit_runs_each_check() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == [f"scripts/test --check {name!r}".replace("'", '"') for name in CHECKS]
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in hooks)
