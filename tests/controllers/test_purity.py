"""Reconcile functions stay pure: no I/O, no clock, no randomness, no event loop."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rayplane.control_plane.controllers

ROOT = Path(rayplane.control_plane.controllers.__file__).parent
SHELL = {"caches", "executor", "manager", "namespace_purger", "provisioner", "runner", "catalog"}
BANNED = (
    "asyncio",
    "time",
    "random",
    "uuid",
    "os",
    "threading",
    "rayplane.control_plane.client",
    "rayplane.control_plane.rpc",
    "grpc",
)


@pytest.mark.parametrize("path", sorted(p for p in ROOT.glob("*.py") if p.stem not in SHELL), ids=lambda p: p.stem)
def test_core_modules_import_nothing_of_the_outside(path: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    assert not [m for m in found if any(m == b or m.startswith(b + ".") for b in BANNED)]
