"""Command that explains requests: `trace`, which shows what API servers did to answer them, step by step."""

import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer

from rayplane.control_plane.cli.options import Name, Output, State, run, state_dir, wants_json
from rayplane.control_plane.cluster.access import Access, access, current_topology
from rayplane.control_plane.cluster.errors import ClusterError, UsageError, refusal
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Instance, Role

RECENT = "/debug/requests"
# Seconds for which servers wait for what comes; the shorter while a program runs.
_WAIT_S, _STEP_S = 5, 1


@dataclass(slots=True)
class Filter:
    """The requests that are of interest."""

    user: str = ""
    path: str = ""
    seconds: float = 0.0
    face: str = ""
    """`REST` or `gRPC`, which only components speak."""
    as_json: bool = False
    """How they are shown."""

    def takes(self, entry: dict[str, Any]) -> bool:
        return (
            self.user in ("", entry.get("user"))
            and self.face in ("", entry.get("face"))
            and self.path in str(entry.get("path"))
            and float(entry.get("seconds") or 0.0) >= self.seconds
        )


def register(app: typer.Typer) -> None:
    app.command(name="trace")(trace)


def trace(
    command: Annotated[
        list[str] | None, typer.Argument(help="A program to run, after `--`: what it asks for is explained.")
    ] = None,
    id_: Annotated[str, typer.Option("--id", help="One request, by the id in its answer or in the list.")] = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Explain what comes.")] = False,
    user: Annotated[str, typer.Option(help="Only of this user.")] = "",
    path: Annotated[str, typer.Option(help="Only those with this text in their path.")] = "",
    slower_than: Annotated[float, typer.Option(help="Only those that took so many milliseconds.")] = 0.0,
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Explain requests: who asked, who allowed it, which admission steps, webhooks and etcd calls they met, how long
    each took. Without more, lists recent ones that were slow, failed or asked to be explained. -o json: a line each.
    """
    if sum((bool(command), bool(id_), follow)) > 1:
        raise UsageError("give a program, --id or --follow: one of them")
    wanted = Filter(user, path, slower_than / 1000, "REST" if command else "", as_json=wants_json(output))
    directory = state_dir(name, state)
    code = run(_trace(directory, command or [], id_, wanted, follow=follow))
    if code:
        raise typer.Exit(code)


async def _trace(directory: StateDir, command: Sequence[str], id_: str, wanted: Filter, *, follow: bool) -> int:
    async with access(directory) as admin:
        topology = await current_topology(admin)
        servers = Servers(admin, topology.of(Role.APISERVER))
        if command:
            return await _explained(directory, servers, command, wanted)
        if id_:
            _show(await servers.one(id_), wanted)
        elif follow:
            await servers.news(0)
            while True:
                _print(await servers.news(_WAIT_S), wanted)
        elif wanted.as_json:
            _print(await servers.all(), wanted)
        else:
            from rayplane.control_plane.cli.options import console
            from rayplane.control_plane.cli.waterfall import overview

            console.print(overview([entry for entry in await servers.all() if wanted.takes(entry)]))
    return 0


def _print(entries: Iterable[dict[str, Any]], wanted: Filter) -> None:
    for entry in entries:
        if wanted.takes(entry):
            _show(entry, wanted)


def _show(entry: dict[str, Any], wanted: Filter) -> None:
    if wanted.as_json:
        print(orjson.dumps(entry).decode(), flush=True)
    else:
        from rayplane.control_plane.cli.options import console
        from rayplane.control_plane.cli.waterfall import waterfall

        console.print(waterfall(entry))


async def _explained(directory: StateDir, servers: "Servers", command: Sequence[str], wanted: Filter) -> int:
    """Run a program, then print what its requests met; its exit code."""
    await servers.news(0)
    process = await _begun(directory, command, wanted)
    done = asyncio.ensure_future(process.wait())
    heard: list[dict[str, Any]] = []
    try:
        while not done.done():
            # For as long as they are asked they keep all that comes.
            heard += await servers.news(_STEP_S)
        heard += await servers.news(0)
    finally:
        if process.returncode is None:
            process.terminate()
        await done
    _print(heard, wanted)
    return done.result()


async def _begun(directory: StateDir, command: Sequence[str], wanted: Filter) -> asyncio.subprocess.Process:
    """The program. What it prints stands apart from what programs read of its requests."""
    environment = {**os.environ, "KUBECONFIG": str(directory.kubeconfig)}
    stdout = sys.stderr if wanted.as_json else None
    try:
        return await asyncio.create_subprocess_exec(*command, env=environment, stdout=stdout)
    except OSError as e:
        raise UsageError(f"{command[0]} cannot be run: {refusal(e)}") from e


@dataclass(slots=True)
class Servers:
    """The API servers, and up to which request each was heard."""

    admin: Access
    instances: Sequence[Instance]
    heard: dict[str, int] = field(default_factory=dict)

    async def one(self, id_: str) -> dict[str, Any]:
        """The request of an id. ClusterError: no server has it, any more."""
        server = id_.rpartition("-")[0]
        for instance in self.instances:
            if instance.name == server:
                return await self._ask(instance, f"{RECENT}/{quote(id_)}")
        raise ClusterError(f"there is no API server {server!r}; ids look like {self.instances[0].name}-17")

    async def all(self) -> list[dict[str, Any]]:
        """The requests that are kept, in the order in which they ended."""
        pages = await asyncio.gather(*(self._ask(instance, RECENT) for instance in self.instances))
        return sorted((one for page in pages for one in page["recent"]), key=lambda one: str(one["at"]))

    async def news(self, wait_s: int) -> list[dict[str, Any]]:
        """What all servers were asked since the last call. Each may wait so long for its first; who is silent tells
        nothing.
        """
        found = await asyncio.gather(*(self._news(instance, wait_s) for instance in self.instances))
        return sorted((one for entries in found for one in entries), key=lambda one: str(one["at"]))

    async def _news(self, instance: Instance, wait_s: int) -> list[dict[str, Any]]:
        known = self.heard.get(instance.name)
        try:
            wait = wait_s if known is not None else 0
            page = await self._ask(instance, RECENT, after=str(known or 0), wait=str(wait))
        except ClusterError as e:
            from rayplane.control_plane.cli.options import errors

            errors.print(f"{instance.name}: {e}")
            return []
        self.heard[instance.name] = page["last"]
        return page["recent"] if known is not None else []

    async def _ask(self, instance: Instance, path: str, **query: str) -> dict[str, Any]:
        import aiohttp

        from rayplane.control_plane.cli.components import TIMEOUT_S, asked

        patience = aiohttp.ClientTimeout(TIMEOUT_S)
        async with asked(self.admin, instance, "GET", path, params=query, timeout=patience) as answer:
            found: dict[str, Any] = orjson.loads(await answer.read())
            return found
