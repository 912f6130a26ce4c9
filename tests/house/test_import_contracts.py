"""The import contracts of pyproject.toml hold, and break where a forbidden import is planted."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PLANTED = {
    "rayplane.control_plane.api.machinery.budget": "asyncio",
    "rayplane.control_plane.api.podsecurity.host": "socket",
    "rayplane.control_plane.cluster.diagnosis": "time",
    "rayplane.control_plane.controllers.job.controller": "random",
    "rayplane.control_plane.etcd.server.state_machine.apply": "rayplane.control_plane.etcd.server.replication.driver",
    "rayplane.control_plane.etcd.server.services.kv": "rayplane.control_plane.etcd.server.member",
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


@pytest.mark.processes
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


def test_every_module_that_does_no_io_is_kept_from_it_by_a_contract() -> None:
    """What is pure today is listed as pure, so that it cannot become less by an import that nobody sees."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(c for c in settings["contracts"] if c["name"] == "pure modules do no I/O")
    graph = grimp.build_graph(
        "rayplane", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    ours = {m for m in graph.modules if m.startswith("rayplane.")}
    does_io = {m for m in ours if any(m == f or m.startswith(f"{f}.") for f in contract["forbidden_modules"])}
    for outside in contract["forbidden_modules"]:
        if outside in graph.modules:
            does_io |= graph.find_downstream_modules(outside, as_package=outside in ours)
    packages = {m for m in ours if graph.find_children(m)}
    pure = {m for m in ours - does_io - packages if "_pb2" not in m}
    listed = {m for m in pure if any(m == s or m.startswith(f"{s}.") for s in contract["source_modules"])}
    assert sorted(pure - listed) == []
