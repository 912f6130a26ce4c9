"""rayplane is imported by its own name alone."""

import subprocess
import sys

import pytest

from tests.e2e.harness import ROOT

pytestmark = pytest.mark.processes

PARTS = ("control_plane", "node", "proto", "storage")
# Prints what was imported twice: modules of one file, and the parts by their bare names.
PROGRAM = f"""
import importlib, os, pkgutil, sys
from collections import Counter
import rayplane
for found in pkgutil.walk_packages(rayplane.__path__, "rayplane."):
    if not found.name.endswith((".__main__", ".preload.sitecustomize")):
        importlib.import_module(found.name)
files = Counter(os.path.realpath(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None))
ours = {{f for f, n in files.items() if n > 1 and f.startswith({str(ROOT)!r}) and ".venv" not in f}}
assert len(sys.modules) > 400
print(*ours, *sys.modules.keys() & set({PARTS!r}))
"""


def test_no_module_is_imported_twice() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("statement", ["import {}", "from {}.etcd import rpc_pb2"])
def test_the_linter_refuses_a_part_by_its_bare_name(part: str, statement: str) -> None:
    check = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "control_plane/planted.py", "-"]
    text = statement.format(part) + "\n"
    done = subprocess.run(check, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
    assert "TID251" in done.stdout
    assert f"import rayplane.{part}" in done.stdout
