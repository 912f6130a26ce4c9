"""Command on the logs of components: `logs-of`, which prints them and changes their level."""

import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from rayplane.control_plane.cli.options import Name, State, console, run, state_dir
from rayplane.control_plane.cluster.access import Access, access, current_topology
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.topology import Instance, Role
from rayplane.control_plane.component_base.debugging import VERBOSITY
from rayplane.control_plane.component_base.log_settings import level_of
from rayplane.control_plane.component_base.logs import FILES_KEPT
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Credentials

FOLLOW_S = 0.2
TIMEOUT_S = 10.0
#: Ports on which components answer over HTTP.
_PORTS = {Role.MEMBER: "client", Role.APISERVER: "https", Role.NODE_HOST: "grpc", Role.SUPERVISOR: "grpc"}


def register(app: typer.Typer) -> None:
    app.command(name="logs-of")(logs_of)


def logs_of(
    component: Annotated[str, typer.Argument(help="An actor of `rayplane status`, such as apiserver-0.")],
    tail: Annotated[int, typer.Option(help="Only so many lines from the end; -1 is all.")] = -1,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
    level: Annotated[
        str, typer.Option(help="Log from this level on: debug, info, warning or error. Prints nothing.")
    ] = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Print the log of a component of the cluster, or change its level while it runs."""
    directory = state_dir(name, state)
    if level:
        try:
            level_of(level)
        except ValueError as e:
            raise UsageError(f"--level: {e}") from e

    async def find() -> Instance:
        async with access(directory) as admin:
            instance = (await current_topology(admin)).get(component)
            if level:
                console.print(f"{component}: {await change_level(admin, instance, level)}")
            return instance

    instance = run(find())
    if level:
        return
    path = directory.logs / f"{component}.log"
    if not path.exists():
        raise ClusterError(f"the log of {component} is not on this machine: see {path} on {instance.machine.address}")
    if tail:
        _print_lines(path, tail)
    if follow:
        _follow(path)


async def change_level(admin: Access, instance: Instance, level: str) -> str:
    """What the component answered. ClusterError when it did not take it."""
    import aiohttp

    label = _PORTS.get(instance.role, "metrics")
    if label not in instance.ports:
        raise ClusterError(f"{instance.name} has no port to be asked on; it was set up by an earlier version")
    *_, context = Credentials.read(admin.directory.admin).contexts()
    context.set_alpn_protocols(["http/1.1"])
    url = f"https://{instance.endpoint(label)}{VERBOSITY}"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.put(url, data=level, ssl=context, server_hostname=INTERNAL_SERVER_NAME) as response,
        ):
            text = (await response.text()).strip()
    except (aiohttp.ClientError, TimeoutError) as e:
        raise ClusterError(f"{instance.name} does not answer: {e or type(e).__name__}") from e
    if response.status != 200:
        raise ClusterError(f"{instance.name}: {text}")
    return text


def _print_lines(path: Path, tail: int) -> None:
    """The files that are kept, the oldest first; all of them together are bounded."""
    files = [path.with_name(f"{path.name}.{n}") for n in range(FILES_KEPT, 0, -1)] + [path]
    lines: deque[bytes] = deque(maxlen=tail if tail >= 0 else None)
    for file in files:
        if file.exists():
            with file.open("rb") as opened:
                lines.extend(opened)
    sys.stdout.buffer.writelines(lines)
    sys.stdout.buffer.flush()


def _follow(path: Path) -> None:
    """Print what is written from now on; a file that takes the place of a full one is read from its beginning."""
    file = path.open("rb")
    file.seek(0, 2)
    try:
        while True:
            if data := file.read():
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            elif path.exists() and not path.samefile(f"/proc/self/fd/{file.fileno()}"):
                file.close()
                file = path.open("rb")
            else:
                time.sleep(FOLLOW_S)
    finally:
        file.close()
