"""Commands that break things on purpose."""

from enum import StrEnum
from typing import Annotated

import typer

from control_plane.cli.options import Name, State, console, run, state_dir
from control_plane.cluster import chaos as chaos_actions
from control_plane.cluster.access import access

SIGNALS = ("KILL", "STOP", "CONT")


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
    group = typer.Typer(help="Break things on purpose.", no_args_is_help=True, rich_markup_mode=None)
    group.command()(kill)
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
