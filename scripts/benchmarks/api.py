"""The REST face of an API server: reads, writes, lists, watches, memory and start; of a real kube-apiserver too."""

import asyncio
import json as codec
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from rayplane.control_plane.cli.options import run
from rayplane.control_plane.cluster.ports import free_port
from rayplane.control_plane.cluster.topology import Role
from scripts.benchmarks.client_process import run_clients
from scripts.benchmarks.clusters import cluster, say
from scripts.benchmarks.machine import Usage, cpu_by_name, description, ends_with_its_parent, usage
from scripts.benchmarks.members import LOOPBACK, REPOSITORY, members_alone
from scripts.benchmarks.report import Json, hosts, percentile, show

OPERATIONS = ("get", "create", "watch", "start", "memory", "list")
FRESHNESS = {"list, consistent": "", "list, from the cache": "?resourceVersion=0"}
EXTENSIONS = {"definitions": 50, "policies": 20, "webhooks": 5}
# Of one core, in the client's process: from here on it is the client that is measured.
BUSY = 0.85
SETTLE_S = 2.0


def api(
    clients: Annotated[str, typer.Option(help="Numbers of connections of `get` and `create`.")] = "1,16",
    seconds: Annotated[int, typer.Option(help="How long each operation is measured.")] = 5,
    watchers: Annotated[int, typer.Option(help="Watches, all of the same objects.")] = 1000,
    rate: Annotated[int, typer.Option(help="Changes per second that are watched.")] = 200,
    pods: Annotated[int, typer.Option(help="Pods that are listed and held in memory.")] = 5000,
    pod_bytes: Annotated[int, typer.Option(help="Size of a pod.")] = 3800,
    lists: Annotated[int, typer.Option(help="Lists of each freshness.")] = 10,
    starts: Annotated[int, typer.Option(help="Starts of the server that are measured.")] = 3,
    members: Annotated[int, typer.Option(help="etcd members behind.")] = 3,
    operations: Annotated[str, typer.Option(help="Which to measure.")] = ",".join(OPERATIONS),
    extended: Annotated[
        int,
        typer.Option(help="Rounds of `get` and `create` without and with 50 definitions, 20 policies and 5 webhooks."),
    ] = 0,
    host: Annotated[
        str, typer.Option(help="`members`: members and one API server as processes, nothing else; `ray`, `process`.")
    ] = "members",
    address: Annotated[str, typer.Option(help="host:port of a server that runs already, as a kube-apiserver.")] = "",
    certificates: Annotated[
        str, typer.Option(help="For --address: directory of ca.crt, tls.crt, tls.key of an administrator.")
    ] = "",
    json: Json = "",
) -> None:
    """Requests per second, latency, CPU of a request; lag of watches; memory of objects; time to start."""
    machine = description()
    names = [name for name in operations.split(",") if name]
    if not set(names) <= set(OPERATIONS):
        raise typer.BadParameter(f"--operations {operations!r}: use {','.join(OPERATIONS)}")
    chosen = ["given"] if address else hosts(host, "members", "ray", "process")
    given = System(address, Path(certificates).resolve(), ())
    plan = Plan([int(c) for c in clients.split(",")], seconds, watchers, rate, pods, pod_bytes, lists, starts, extended)

    async def measure() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for one in chosen:
            async with given.lent() if address else system_of(one, members) as system:
                rows += [{"system": one} | row for row in await plan.measure(system, names, one)]
        return rows

    rows = run(measure())
    notes = ["us: CPU of a request (watch: of an event), in servers called `apiserver`, in all others, in the client."]
    if any(r["bound"] for r in rows):
        notes.append(f"*: the client used {BUSY:.0%} of a core or more and may be what bounds the rate")
    show("api", rows, machine, target=json, notes=notes)


@dataclass(slots=True)
class System:
    """An API server to ask, whatever it is."""

    address: str
    credentials: Path
    sessions: Sequence[int]
    logs: Path | None = None
    restart: Callable[[], Any] | None = None
    """Ends the server and starts another process in its place."""

    @asynccontextmanager
    async def lent(self) -> AsyncIterator["System"]:
        """One that goes on when the measurement is over, without what was made for that."""
        try:
            yield self
        finally:
            await ask(self, "clean")

    def usage(self, *, memory: bool = False) -> dict[int, Usage]:
        return usage(self.sessions, memory=memory, logs=self.logs)


@asynccontextmanager
async def system_of(name: str, members: int) -> AsyncIterator[System]:
    async with AsyncExitStack() as stack:
        if name == "members":
            endpoints, credentials, pids, _ = await stack.enter_async_context(members_alone(members))
            server = ServerProcess(endpoints, credentials)
            stack.push_async_callback(server.stop)
            await server.start()
            sessions = Sessions(pids, server)
            yield System(server.address, credentials, sessions, restart=server.restart)
            return
        running = await stack.enter_async_context(cluster(name, members=members, apiservers=1, nodes=1))
        address = running.state.topology.endpoints(Role.APISERVER, "https")[0]
        yield System(address, running.directory.admin, running.sessions, running.directory.logs)


class ServerProcess:
    """One API server over members; its address outlives its process."""

    def __init__(self, endpoints: Sequence[str], credentials: Path) -> None:
        rng, taken = random.Random(), set[int]()
        ports = []
        for _ in range(2):
            ports.append(free_port(LOOPBACK, taken, rng))
            taken.add(ports[-1])
        self.address = f"{LOOPBACK}:{ports[0]}"
        self._credentials = credentials
        self._job = {
            "endpoints": list(endpoints),
            "credentials": str(credentials),
            "https": self.address,
            "grpc": f"{LOOPBACK}:{ports[1]}",
            "data": str(credentials.parent / "apiserver"),
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def launch(self) -> None:
        """Start the process and return at once."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "scripts.benchmarks.apiserver_process"),
            stdin=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
            preexec_fn=ends_with_its_parent,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(codec.dumps(self._job).encode())
        self._process.stdin.close()

    async def start(self) -> None:
        """Start it and wait until it answers."""
        await self.launch()
        await ask(System(self.address, self._credentials, ()), "first", path="/readyz")

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()

    async def restart(self) -> None:
        """Stop it and start it again, without waiting for an answer."""
        await self.stop()
        await self.launch()


class Sessions(Sequence[int]):
    """Processes of members, and that of a server that changes."""

    def __init__(self, pids: Sequence[int], server: ServerProcess) -> None:
        self._pids, self._server = list(pids), server

    def __len__(self) -> int:
        return len(self._pids) + 1

    def __getitem__(self, at: Any) -> Any:
        return [*self._pids, self._server.pid][at]


@dataclass
class Plan:
    """What is measured, and how much of it."""

    clients: list[int]
    seconds: int
    watchers: int
    rate: int
    pods: int
    pod_bytes: int
    lists: int
    starts: int
    extended: int = 0
    _filled: bool = field(default=False, init=False)

    async def measure(self, system: System, names: Sequence[str], title: str) -> list[dict[str, Any]]:
        """The rows of the named operations, in the order of OPERATIONS: the store is filled last."""
        await ask(system, "prepare")
        self._filled, rows = False, []
        for name in OPERATIONS:
            if name in names:
                with say.status(f"{title}: {name}"):
                    rows += await getattr(self, f"_{name}")(system)
        for turn in range(self.extended):
            with say.status(f"{title}: without and with what extends the API, {turn + 1} of {self.extended}"):
                rows += await self._compared(system, turn)
        return rows

    async def _compared(self, system: System, turn: int) -> list[dict[str, Any]]:
        """Gets and creates without and with what extends the API, none of which is about them."""
        rows = []
        for words, change in (("", "retract"), (", extended", "extend")):
            await ask(system, change, **EXTENSIONS)
            # What follows from their coming and going (documents, caches) is done once, not for each request.
            await asyncio.sleep(SETTLE_S)
            for operation in ("get", "create"):
                job = {"connections": self.clients[-1], "seconds": self.seconds, "run": f"extended-{turn}-{change}"}
                rows.append(await self._asked(system, operation + words, operation, **job))
        await ask(system, "retract", **EXTENSIONS)
        return rows

    async def _get(self, system: System) -> list[dict[str, Any]]:
        return [await self._asked(system, "get", "get", connections=c, seconds=self.seconds) for c in self.clients]

    async def _create(self, system: System) -> list[dict[str, Any]]:
        return [
            await self._asked(system, "create", "create", connections=c, seconds=self.seconds, run=f"run-{c}")
            for c in self.clients
        ]

    async def _list(self, system: System) -> list[dict[str, Any]]:
        await self._fill(system)
        return [
            await self._asked(system, title, "list", connections=1, count=self.lists, query=query)
            for title, query in FRESHNESS.items()
        ]

    async def _watch(self, system: System) -> list[dict[str, Any]]:
        job = {"connections": self.watchers, "rate": self.rate, "seconds": self.seconds}
        answer, used = await ask(system, "watch", **job)
        row = _row("watch", self.watchers, answer["lags_ms"], answer, used, per=answer["delivered"])
        return [row | {"per_s": round(answer["delivered"] / answer["seconds"]), "missing": answer["missing"]}]

    async def _memory(self, system: System) -> list[dict[str, Any]]:
        if self._filled or not system.sessions:
            return []
        await asyncio.sleep(SETTLE_S)
        before = _memory_of_servers(system)
        await self._fill(system)
        await asyncio.sleep(SETTLE_S)
        grown = (_memory_of_servers(system) - before) * 1024 / self.pods
        return [_row("memory of a pod", 0, [], {}, {}) | {"kb": round(grown, 1)}]

    async def _start(self, system: System) -> list[dict[str, Any]]:
        if system.restart is None:
            return []
        path = "/api/v1/namespaces/bench/configmaps/object-000000"
        taken = []
        for _ in range(self.starts):
            began = time.monotonic_ns()
            await system.restart()
            answer, _ = await ask(system, "first", path=path)
            taken.append((answer["at_ns"] - began) / 1e6)
        return [_row("start to first get", 1, taken, {}, {})]

    async def _fill(self, system: System) -> None:
        if not self._filled:
            await ask(system, "pods", connections=16, count=self.pods, size=self.pod_bytes)
            self._filled = True

    async def _asked(self, system: System, title: str, operation: str, **job: Any) -> dict[str, Any]:
        answer, used = await ask(system, operation, **job)
        return _row(title, job["connections"], answer["latencies_ms"], answer, used, per=len(answer["latencies_ms"]))


async def ask(system: System, operation: str, **job: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """What the client process found, and the CPU seconds of each server meanwhile."""
    seen: list[dict[int, Usage]] = []

    def look() -> dict[int, Usage]:
        seen.append(system.usage())
        return seen[-1]

    credentials = str(system.credentials)
    job = {"operation": operation, "address": system.address, "credentials": credentials, **job}
    answer, _ = await run_clients("scripts.benchmarks.api_client", job, look)
    return answer, cpu_by_name(seen[0], seen[-1])


def _row(
    title: str,
    connections: int,
    latencies: list[float],
    answer: dict[str, Any],
    used: dict[str, float],
    *,
    per: int = 0,
) -> dict[str, Any]:
    seconds, cpu = answer.get("seconds", 0.0), answer.get("client_cpu_s", 0.0)
    server = sum(s for name, s in used.items() if "apiserver" in name)

    def each(cpu_s: float) -> float | None:
        return round(cpu_s * 1e6 / per, 1) if per and cpu_s else None

    return {
        "operation": title,
        "clients": connections,
        "per_s": round(per / seconds, 1) if seconds else None,
        "p50_ms": round(percentile(latencies, 50), 2) if latencies else None,
        "p99_ms": round(percentile(latencies, 99), 2) if latencies else None,
        "missing": None,
        "kb": round(answer["bytes"] / 1024, 1) if answer.get("bytes") else None,
        "server_us": each(server),
        "others_us": each(sum(used.values()) - server),
        "client_us": each(cpu),
        "errors_": sum(answer.get("errors", {}).values()),
        "bound": "*" if seconds and cpu / seconds >= BUSY else "",
        "errors": answer.get("errors", {}),
    }


def _memory_of_servers(system: System) -> float:
    """Megabytes of all API servers."""
    return sum(u.memory_mb for u in system.usage(memory=True).values() if "apiserver" in u.name)
