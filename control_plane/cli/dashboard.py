"""Command that serves the web page of a cluster, or of a recording: `dashboard`."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.control_plane.cli.options import COMMAND_LINE, Name, State, console, errors, run, source, state_dir
from rayplane.control_plane.cli.recordings import read_recording
from rayplane.control_plane.cluster.errors import UsageError

if TYPE_CHECKING:
    from rayplane.control_plane.dashboard import Door


def register(app: typer.Typer) -> None:
    app.command(name="dashboard")(dashboard)


def dashboard(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Of 127.0.0.1; 0 is any free one.")] = 0,
    open_: Annotated[
        Path | None,
        typer.Option(
            "--open", metavar="FILE", help="Show what `chaos run` or `simulate` recorded, without any cluster."
        ),
    ] = None,
    name: Name = "default",
    state: State = None,
) -> None:
    """Serve a web page of the cluster on this machine until Ctrl-C, and print where.

    Whoever has the address it prints acts as the cluster's administrator; a token of the cluster opens it too.
    """
    if open_ is not None:
        if COMMAND_LINE in (source(context, "name"), source(context, "state")):
            raise UsageError("--open shows a recording without any cluster: leave --name and --state-dir out")
        recording = read_recording(open_)
        from rayplane.control_plane.dashboard import Player

        run(_serve(lambda: Player(recording), port, str(open_)))
        return
    directory = state_dir(name, state)
    directory.read_reachable()
    from rayplane.control_plane.dashboard import Gateway

    run(_serve(lambda: Gateway(directory), port, repr(name)))


async def _serve(make: "Callable[[], Door]", port: int, of: str) -> None:
    door = make()
    await door.start(port)
    try:
        console.print(f"The dashboard of {of} is at {door.url}", markup=False, soft_wrap=True)
        if lacking := door.lacking():
            errors.print(f"rayplane: {lacking}", markup=False)
        await asyncio.Event().wait()
    finally:
        await door.close()
