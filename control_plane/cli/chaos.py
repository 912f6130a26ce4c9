"""Commands that break things on purpose."""

import asyncio
import random
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rayplane.control_plane.cli.options import Name, State, console, run, state_dir
from rayplane.control_plane.cluster import chaos as chaos_actions
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.errors import UsageError


class Target(StrEnum):
    """What can be killed."""

    LEADER = "leader"
    MEMBER = "member"
    APISERVER = "apiserver"
    SCHEDULER = "scheduler"
    CONTROLLERS = "controllers"
    NODE = "node"


class Signal(StrEnum):
    """What is sent."""

    KILL = "KILL"
    STOP = "STOP"
    CONT = "CONT"


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Break things on purpose.", rich_markup_mode=None)
    group.command()(kill)
    group.command(name="run")(run_scenario)
    app.add_typer(group, name="chaos")


def kill(
    target: Target,
    actor: Annotated[str, typer.Argument(metavar="[NAME]", help="Which one; the one in charge by default.")] = "",
    signal: Annotated[Signal, typer.Option("--signal", help="What to send.")] = Signal.KILL,
    name: Name = "default",
    state: State = None,
) -> None:
    """Send a signal to an actor's process; the supervisor brings back what should come back."""
    directory = state_dir(name, state)

    async def call() -> tuple[str, int]:
        async with access(directory) as admin:
            return await chaos_actions.kill(admin, target.value, actor, signal.value)

    victim, pid = run(call())
    console.print(f"{victim} (process {pid}) got SIG{signal.value}")


def run_scenario(
    file: Annotated[Path, typer.Argument(metavar="SCENARIO.yaml", help="The steps to take.")],
    seed: Annotated[int | None, typer.Option(help="Every random choice comes from it.  [default: the file's]")] = None,
    name: Name = "default",
    state: State = None,
) -> None:
    """Take the steps of a file on the running cluster, and tell of each."""
    from rayplane.control_plane.cluster import scenario

    try:
        found = scenario.parse(file.read_bytes(), str(file))
    except OSError as e:
        raise UsageError(f"cannot read {file}: {e.strerror}") from e
    directory = state_dir(name, state)
    chosen = found.seed if seed is None else seed

    async def call() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()

        def say(text: str) -> None:
            console.print(f"{loop.time() - start:7.1f} s  {text}")

        async with access(directory) as admin:
            say(f"seed {chosen}")
            runner = scenario.Runner(scenario.ClusterActions(admin), random.Random(chosen), say)
            await runner.run(found.steps)
            say("done")

    run(call())
