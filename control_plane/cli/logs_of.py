"""Command on the logs of components: `logs-of`, which prints them and changes their level."""

import contextlib
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.options import Name, State, run, state_dir
from rayplane.control_plane.cluster.access import Access, access, current_topology
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.topology import Instance
from rayplane.control_plane.component_base.log_pages import FOLLOW_S, LOG, VERBOSITY, LogQuery
from rayplane.control_plane.component_base.log_reading import LogReader
from rayplane.control_plane.component_base.log_settings import level_of


def register(app: typer.Typer) -> None:
    app.command(name="logs-of")(logs_of)


def logs_of(
    component: Annotated[
        str,
        typer.Argument(help="An actor of `rayplane status`, such as apiserver-0.", autocompletion=completion.actors),
    ],
    tail: Annotated[int, typer.Option(help="Only so many lines from the end; -1 is all.")] = -1,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
    level: Annotated[
        str, typer.Option(help="Log from this level on: debug, info, warning or error. Prints nothing.")
    ] = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Print the log of a component of the cluster, or change its level while it runs."""
    from rayplane.control_plane.cli.options import console

    directory = state_dir(name, state)
    if level:
        try:
            level_of(level)
        except ValueError as e:
            raise UsageError(f"--level: {e}") from e
    path = directory.logs / f"{component}.log"
    query = LogQuery(component, max(tail, -1), follow)

    async def do() -> bool:
        """Whether all is done."""
        async with access(directory) as admin:
            topology = await current_topology(admin)
            instance = topology.get(component)
            if level:
                console.print(f"{component}: {await change_level(admin, instance, level)}")
            elif not (path.exists() and _is_here(instance.machine.address)):
                beside = [i for i in topology.instances if i.machine == instance.machine and i != instance]
                await print_remote(admin, instance, beside, query, sys.stdout.buffer)
            else:
                return False
        return True

    if not run(do()):
        _print_local(path, query)


async def change_level(admin: Access, instance: Instance, level: str) -> str:
    """What the component answered. ClusterError when it did not take it."""
    import aiohttp

    from rayplane.control_plane.cli.components import TIMEOUT_S, asked

    async with asked(admin, instance, "PUT", VERBOSITY, data=level, timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as answer:
        return (await answer.text()).strip()


async def print_remote(
    admin: Access, instance: Instance, beside: list[Instance], query: LogQuery, out: BinaryIO
) -> None:
    """Print a log of another machine, as the component tells it or else one `beside` it. ClusterError: none does."""
    import aiohttp

    from rayplane.control_plane.cli.components import TIMEOUT_S, NoAnswer, asked

    patience = aiohttp.ClientTimeout(sock_connect=TIMEOUT_S, sock_read=None if query.follow else TIMEOUT_S)
    why = ""
    for teller in (instance, *beside):
        try:
            async with asked(admin, teller, "GET", LOG, params=query.as_query(), timeout=patience) as answer:
                async for data in answer.content.iter_any():
                    out.write(data)
                    out.flush()
                return
        except NoAnswer as e:
            why = why or str(e)
    raise ClusterError(f"nobody on {instance.machine.address} tells the log of {instance.name}: {why}")


def _is_here(address: str) -> bool:
    """Whether it is an address of this machine."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _print_local(path: Path, query: LogQuery) -> None:
    reader, out = LogReader(path, query.tail), sys.stdout.buffer
    with contextlib.closing(reader):
        while True:
            if data := reader.read():
                out.write(data)
                out.flush()
            elif query.follow:
                time.sleep(FOLLOW_S)
            else:
                return
