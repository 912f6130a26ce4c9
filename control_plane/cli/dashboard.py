"""Command that serves the web page of a cluster: `dashboard`."""

import asyncio
from typing import Annotated

import typer

from rayplane.control_plane.cli.options import Name, State, console, run, state_dir


def register(app: typer.Typer) -> None:
    app.command(name="dashboard")(dashboard)


def dashboard(
    port: Annotated[int, typer.Option(help="Of 127.0.0.1; 0 is any free one.")] = 0,
    name: Name = "default",
    state: State = None,
) -> None:
    """Serve a web page of the cluster on this machine until Ctrl-C, and print where.

    Whoever has the address it prints acts as the cluster's administrator; a token of the cluster opens it too.
    """
    directory = state_dir(name, state)
    directory.read_running()

    async def serve() -> None:
        from rayplane.control_plane.dashboard import Gateway

        gateway = Gateway(directory)
        await gateway.start(port)
        try:
            console.print(f"The dashboard of {name!r} is at {gateway.url}", markup=False)
            await asyncio.Event().wait()
        finally:
            await gateway.close()

    run(serve())
