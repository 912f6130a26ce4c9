"""Commands of the guides: run one after the other as a reader would, on one cluster for all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, stock_kubectl
from tests.house.documents import blocks

GUIDES = (
    "control_plane/cli/first_hour.md",
    "control_plane/cluster/securing.md",
    "control_plane/scheduler/capacity.md",
    "control_plane/faults/chaos.md",
    "storage/backup.md",
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and `rayplane` and `kubectl` on the way."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "rayplane").write_text(f'#!/bin/sh\nexec {sys.executable} -m rayplane.control_plane.cli.main "$@"\n')
    (programs / "rayplane").chmod(0o755)
    (programs / "kubectl").symlink_to(stock_kubectl())
    return os.environ | {"HOME": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}


@pytest.mark.turn(1, of=2)
def test_every_command_of_the_guides_works(tmp_path: Path, environment: dict[str, str]) -> None:
    script = ["set -eux"]
    for guide in GUIDES:
        for block in blocks(ROOT / guide):
            if block.language == "sh":
                script.append(block.text)
            elif block.file:
                (tmp_path / block.file).write_text(block.text)
    assert len(script) > 10
    (tmp_path / "guides.sh").write_text("\n".join(script))
    try:
        run(["bash", "guides.sh"], tmp_path, environment)
    finally:
        for state in (tmp_path / ".rayplane").glob("*/cluster.json"):
            run(["rayplane", "down", "--purge", "--name", state.parent.name], tmp_path, environment)


def run(command: list[str], place: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
