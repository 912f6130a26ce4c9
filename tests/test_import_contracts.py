"""The import contracts of pyproject.toml hold, and break where a forbidden import is planted."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLANTED = {
    "rayplane.control_plane.api.machinery.budget": "asyncio",
    "rayplane.control_plane.api.podsecurity.host": "socket",
    "rayplane.control_plane.cluster.diagnosis": "time",
    "rayplane.control_plane.controllers.job": "random",
    "rayplane.control_plane.rpc.gate": "grpc",
    "rayplane.control_plane.scheduler.cycle": "os",
    "rayplane.node.kubelet.pod_worker": "ray",
    "rayplane.storage.env.private": "rayplane.control_plane.rpc",
}


def contracts_of(root: Path) -> str:
    """What import-linter says of the packages there."""
    program = "from importlinter.cli import lint_imports_command as run; run(['--no-logo', '--no-cache'])"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env={"PYTHONPATH": str(root / ".src")},
        capture_output=True,
        text=True,
    )
    # Its lines are as wide as a terminal.
    return " ".join(found.stdout.split())


def test_a_forbidden_import_breaks_the_contract_that_is_for_it(tmp_path: Path) -> None:
    source = tmp_path / ".src"
    shutil.copytree(ROOT / ".src", source, ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert " 0 broken." in contracts_of(tmp_path)
    for module, imported in PLANTED.items():
        file = source / f"{module.replace('.', '/')}.py"
        file.write_text(f"{file.read_text()}\nimport {imported}\n")
    said = contracts_of(tmp_path)
    assert [f for f in PLANTED.items() if f"{f[0]} -> {f[1]} " not in said] == []
