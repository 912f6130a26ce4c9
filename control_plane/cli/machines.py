"""Commands on the machines of a cluster: drain, undrain."""

from enum import StrEnum
from typing import Annotated

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.options import Name, Output, State, progress, run, state_dir, tell, wants_json

PATIENCE_S = 120.0


class Kind(StrEnum):
    """The kinds of things that `drain` takes; nodes are drained by kubectl."""

    MACHINE = "machine"


Machine = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Its address, as `rayplane status` shows it.", autocompletion=completion.machines
    ),
]


def register(app: typer.Typer) -> None:
    for command in (drain, undrain):
        app.command()(command)


def drain(
    kind: Kind,
    machine: Machine,
    name: Name = "default",
    force: Annotated[bool, typer.Option("--force", help="Also pods that nothing would make again.")] = False,
    patience: Annotated[
        float, typer.Option(help="Seconds without progress until it is given up; more on a busy machine.")
    ] = PATIENCE_S,
    output: Output = "",
    state: State = None,
) -> None:
    """Empty a machine: evict its pods, as disruption budgets let them, and move actors elsewhere.

    Its nodes stay, cordoned, with the volumes that lie there. Nothing comes to the machine until `undrain`.
    """
    from rayplane.control_plane.cluster import draining

    as_json = wants_json(output)
    with progress(quiet=as_json) as say:
        say(f"draining {machine}")
        left = run(draining.drain(state_dir(name, state), machine, say, force=force, patience_s=patience))
    lines = [*(f"left: {line}" for line in left), f"{machine} is {'NOT empty' if left else 'drained'}"]
    tell({"machine": machine, "drained": not left, "left": left}, "\n".join(lines), as_json=as_json)
    if left:
        raise typer.Exit(1)


def undrain(kind: Kind, machine: Machine, name: Name = "default", output: Output = "", state: State = None) -> None:
    """Let a machine that was drained be used again, and pods come to its nodes."""
    from rayplane.control_plane.cluster import draining

    as_json = wants_json(output)
    run(draining.undrain(state_dir(name, state), machine))
    tell({"machine": machine, "drained": False}, f"{machine} is used again", as_json=as_json)
