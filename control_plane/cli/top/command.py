"""Command that shows the cluster on a terminal: `top`."""

import os
import sys
from typing import Annotated

import typer

from rayplane.control_plane.cli.completion import kinds, namespaces
from rayplane.control_plane.cli.options import Name, State, run, state_dir
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.state import StateDir


def register(app: typer.Typer) -> None:
    app.command(name="top")(top)


def top(
    kind: Annotated[
        str, typer.Argument(metavar="[KIND]", help="What to show first, or `control-plane`.", autocompletion=kinds)
    ] = "pods",
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Namespace; all by default.", autocompletion=namespaces)
    ] = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Show the cluster as it changes, on a terminal, with the keys of k9s; `?` tells them."""
    directory = state_dir(name, state)
    directory.read_reachable()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("top needs a terminal; elsewhere use `rayplane get KIND -w`")
    run(_show(directory, kind, namespace))


async def _show(directory: StateDir, kind: str, namespace: str) -> None:
    from rayplane.control_plane.cli.session import of_access
    from rayplane.control_plane.cli.top.app import Top
    from rayplane.control_plane.cli.top.outside import Programs
    from rayplane.control_plane.cli.top.source import ClusterSource
    from rayplane.control_plane.cli.top.views import first_view
    from rayplane.control_plane.cluster.access import access

    async with access(directory) as admin:
        source = ClusterSource(admin, of_access(admin))
        try:
            await Top(source, await first_view(source, kind, namespace), Programs(directory, os.environ)).run_async()
        finally:
            await source.forwards.close_all()
