"""Command that teaches: `learn`."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from rayplane.control_plane.cli.options import console, progress
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import StateDir

NAME = "learn"
LOOK_S, HEAL_S = 0.5, 180.0
_WIDTH_MAX = 100
_ASK = "  Enter runs it, s leaves it out, q ends the tour: "


@dataclass(frozen=True, slots=True)
class Step:
    """A step: what is said and done, and what must be seen before the next: a command, and a pattern in its output."""

    title: str
    text: str
    command: str
    check: str = ""
    shows: str = ""


def register(app: typer.Typer) -> None:
    app.command()(learn)


def learn(yes: Annotated[bool, typer.Option("--yes", help="Go on without being asked.")] = False) -> None:
    """Take a tour: a cluster of its own in one process, broken and healed step by step, and deleted in the end."""
    if StateDir.of(NAME, None).read() is not None:
        raise ClusterError(
            f"a cluster {NAME!r} is here, of an earlier tour: `rayplane down --purge --name {NAME}` first"
        )
    tour = yaml.safe_load((files("rayplane.control_plane.cli.learn") / "tour.yaml").read_text())
    steps = [Step(**one) for one in tour["steps"]]
    with tempfile.TemporaryDirectory(prefix="rayplane-learn-") as place:
        for name, text in tour["files"].items():
            (Path(place) / name).write_text(text)
        try:
            for number, step in enumerate(steps, 1):
                if not _take(step, f"{number} of {len(steps)}", Path(place), ask=not yes):
                    break
        finally:
            _run("rayplane down --purge", Path(place))
    console.print("What to do next: `rayplane`. All guides: README.md.", markup=False)


def _take(step: Step, where: str, place: Path, *, ask: bool) -> bool:
    """Whether the tour goes on after it. Raises ClusterError where what it does fails."""
    console.print(f"\n[bold]{where}: {step.title}[/bold]\n")
    width = min(console.width, _WIDTH_MAX) - 4
    console.print(textwrap.indent(textwrap.fill(step.text, width), "  "), markup=False)
    console.print(f"\n  $ {step.command}\n", markup=False, style="cyan")
    answer = console.input(_ASK, markup=False).strip().lower() if ask else ""
    if answer == "q":
        return False
    if answer != "s":
        if _run(step.command, place).returncode:
            raise ClusterError(f"`{step.command}` failed; the tour ends here")
        _await(step, place)
    return True


def _await(step: Step, place: Path) -> None:
    """Until what must be seen is seen. Raises ClusterError where that takes too long."""
    if not step.check:
        return
    deadline = time.monotonic() + HEAL_S
    with progress(quiet=True) as say:
        say(f"until `{step.check}` shows {step.shows}")
        while not re.search(step.shows, (seen := _run(step.check, place, capture=True).stdout)):
            if time.monotonic() > deadline:
                raise ClusterError(f"`{step.check}` does not show {step.shows!r} after {HEAL_S:.0f} s: {seen}")
            time.sleep(LOOK_S)
    console.print(textwrap.indent(seen.strip(), "  "), markup=False)


def _run(command: str, place: Path, *, capture: bool = False) -> "subprocess.CompletedProcess[str]":
    """A command of ours on the tour's cluster."""
    environment = {name: value for name, value in os.environ.items() if name != "RAYPLANE_STATE_DIR"}
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL} if capture else {}
    return subprocess.run(
        _program(shlex.split(command)),
        cwd=place,
        env=environment | {"RAYPLANE_NAME": NAME},
        text=True,
        check=False,
        **output,
    )


def _program(words: Sequence[str]) -> list[str]:
    """`rayplane ...` by this very interpreter, wherever its scripts are."""
    return [sys.executable, "-m", "rayplane.control_plane.cli.main", *words[1:]]
