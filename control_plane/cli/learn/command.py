"""Command that teaches: `learn`."""

import contextlib
import io
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from rayplane.control_plane.cli.app import run as run_command
from rayplane.control_plane.cli.interrupts import EXIT_INTERRUPTED
from rayplane.control_plane.cli.options import console, progress
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.guardian import DOWN, guard

NAME = "learn"
LOOK_S, HEAL_S = 0.5, 180.0
Run = Callable[[list[str]], int]
Command = Callable[[str], int]
_WIDTH_MAX = 100
_RUN, _SKIP, _END = ("", "y", "yes"), ("s", "skip"), ("q", "quit", "exit")


@dataclass(frozen=True, slots=True)
class Step:
    """A step: what is said and done, and what must be seen before the next: a command, and a pattern in its output."""

    title: str
    text: str
    command: str
    check: str = ""
    shows: str = ""
    needed: bool = False
    """Those that follow fail without it: it cannot be left out."""


def register(app: typer.Typer, run: Run = run_command) -> None:
    """`run` runs a command of ours in this process; its exit code."""

    @app.command()
    def learn(yes: Annotated[bool, typer.Option("--yes", help="Go on without being asked.")] = False) -> None:
        """Take a tour: a cluster of its own in one process, broken and healed step by step, and deleted in the end."""
        if not (yes or sys.stdin.isatty()):
            raise UsageError("learn asks before each step, on a terminal; elsewhere use `rayplane learn --yes`")
        _tour(run, ask=not yes)


def _tour(run: Run, *, ask: bool) -> None:
    import yaml

    tour = yaml.safe_load((files("rayplane.control_plane.cli.learn") / "tour.yaml").read_text())
    steps = [Step(**one) for one in tour["steps"]]
    # Nobody else's, whatever the environment says: what is purged in the end is what the tour itself brought up.
    place = Path(tempfile.mkdtemp(prefix="rayplane-learn-"))
    state = place / "state"
    cluster = ["--name", NAME, "--state-dir", str(state)]

    def command(text: str) -> int:
        if (code := run([*shlex.split(text)[1:], *cluster])) == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        return code

    try:
        with _ended_with_the_tour(state, command, cluster), contextlib.chdir(place):
            for name, text in tour["files"].items():
                Path(name).write_text(text)
            for number, step in enumerate(steps, 1):
                if not _take(step, f"{number} of {len(steps)}", command, ask=ask):
                    break
    finally:
        if not state.exists():
            shutil.rmtree(place)
    console.print("What to do next: `rayplane`.", markup=False)


@contextlib.contextmanager
def _ended_with_the_tour(state: Path, run: Command, cluster: list[str]) -> Iterator[None]:
    """The cluster is deleted in the end, by a process of its own where this one is killed, or its terminal is gone."""
    guardian = guard(state, purge=True)
    down = False
    try:
        yield
    finally:
        end = "rayplane down --purge"
        try:
            down = not state.exists() or run(end) == 0
        finally:
            guardian.communicate(DOWN if down else b"")
        if not down and guardian.returncode:
            raise ClusterError(f"the tour's cluster could not be ended: try `{shlex.join([*end.split(), *cluster])}`")


def _take(step: Step, where: str, run: Command, *, ask: bool) -> bool:
    """Whether the tour goes on after it. Raises ClusterError where what it does fails."""
    console.print(f"\n[bold]{where}: {step.title}[/bold]\n")
    width = min(console.width, _WIDTH_MAX) - 4
    console.print(textwrap.indent(textwrap.fill(step.text, width), "  "), markup=False)
    console.print(f"\n  $ {step.command}\n", markup=False, style="cyan")
    answer = _answer(step) if ask else ""
    if answer in _END:
        return False
    if answer not in _SKIP:
        if run(step.command):
            raise ClusterError(f"`{step.command}` failed; the tour ends here")
        _await(step, run)
    return True


def _answer(step: Step) -> str:
    """One that has a meaning: what has none is asked for again, and runs nothing."""
    known = (*_RUN, *_END, *(() if step.needed else _SKIP))
    question = f"  Enter runs it,{'' if step.needed else ' s leaves it out,'} q ends the tour: "
    while True:
        try:
            answer = console.input(question, markup=False).strip().lower()
        except EOFError:  # Ctrl-D
            console.print()
            return _END[0]
        if answer in known:
            return answer


def _await(step: Step, run: Command) -> None:
    """Until what must be seen is seen. Raises ClusterError where that takes too long."""
    if not step.check:
        return
    deadline = time.monotonic() + HEAL_S
    with progress(quiet=True) as say:
        say(f"until `{step.check}` shows {step.shows}")
        while not re.search(step.shows, (seen := _output(step.check, run))):
            if time.monotonic() > deadline:
                raise ClusterError(f"`{step.check}` does not show {step.shows!r} after {HEAL_S:.0f} s: {seen}")
            time.sleep(LOOK_S)
    console.print(textwrap.indent(seen.strip(), "  "), markup=False)


def _output(command: str, run: Command) -> str:
    """What a command prints; its errors are left out, for it is given again until all is well."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        run(command)
    return out.buffer.getvalue().decode()  # type: ignore[attr-defined,no-any-return]
