"""Guides as a reader follows them: files in a folder, and all commands as one script."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.e2e.harness import ROOT, stock_kubectl
from tests.house.documents import blocks


def lines(guide: str) -> list[str]:
    """The commands that a reader types."""
    return [line for block in blocks(ROOT / guide) if block.language == "sh" for line in block.text.splitlines()]


def environment(home: Path) -> dict[str, str]:
    """A home of its own, and `rayplane` and `kubectl` on the way."""
    programs = home / "bin"
    programs.mkdir()
    (programs / "rayplane").write_text(f'#!/bin/sh\nexec {sys.executable} -m rayplane.control_plane.cli.main "$@"\n')
    (programs / "rayplane").chmod(0o755)
    (programs / "kubectl").symlink_to(stock_kubectl())
    return os.environ | {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}


def prepare(place: Path, guides: Iterable[str], commands: Iterable[str]) -> list[str]:
    """Write the files of guides and the script `guides.sh`; the command that runs it there."""
    for guide in guides:
        for block in blocks(ROOT / guide):
            if block.file and block.language != "sh":
                (place / block.file).write_text(block.text)
    (place / "guides.sh").write_text("\n".join(["set -eux", *commands]))
    return ["bash", "guides.sh"]


def run(command: Sequence[str], place: Path, variables: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
