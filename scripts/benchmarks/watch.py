"""Many watchers on one prefix under a steady load of puts, beside a real etcd on the same machine."""

from typing import Annotated, Any

import typer

from rayplane.control_plane.cli.options import run
from scripts.benchmarks.client_process import run_clients
from scripts.benchmarks.clusters import say
from scripts.benchmarks.kv import System, system_of
from scripts.benchmarks.machine import description
from scripts.benchmarks.real_etcd import find_etcd
from scripts.benchmarks.report import Hosts, Json, hosts, percentile, show

# Of one core, in the client's process: from here on it is the client that is measured.
BUSY = 0.85


def watch(
    watchers: Annotated[int, typer.Option(help="Watches, all of one prefix.")] = 1000,
    rate: Annotated[int, typer.Option(help="Puts per second into the prefix.")] = 500,
    seconds: Annotated[int, typer.Option(help="How long is put.")] = 10,
    streams: Annotated[int, typer.Option(help="Streams that the watches are on.")] = 20,
    connections: Annotated[int, typer.Option(help="Connections that the streams are on; puts have one more.")] = 10,
    value_bytes: Annotated[int, typer.Option(help="Size of a value.")] = 256,
    members: Annotated[int, typer.Option(help="Members, of a real etcd too.")] = 3,
    target: Annotated[str, typer.Option(help="Whom clients call: `leader`, or `all` members in turn.")] = "all",
    etcd: Annotated[bool, typer.Option(help="Measure a real etcd too, when an `etcd` binary is found.")] = True,
    host: Hosts = "members",
    json: Json = "",
) -> None:
    """Events delivered per second, and how long after its put each arrives."""
    machine = description()
    chosen = hosts(host, "members", "ray", "process")
    binary = find_etcd() if etcd else None
    job = {
        "watchers": watchers,
        "rate": rate,
        "seconds": seconds,
        "streams": streams,
        "connections": connections,
        "value_bytes": value_bytes,
    }

    async def measure() -> list[dict[str, Any]]:
        rows = []
        for name in [*chosen, *(["etcd"] if binary else [])]:
            async with system_of(name, binary, members) as system:
                endpoints = [await system.leader()] if target == "leader" else system.endpoints
                with say.status(f"{name}: {watchers} watchers, {rate} puts/s"):
                    rows.append(await _measure(name, system, job | {"endpoints": endpoints}))
        return rows

    rows = run(measure())
    notes = [f"{watchers} watchers should get {watchers * rate:,} events/s; lag is from a put's beginning to its event"]
    if any(r["client_cores"] >= BUSY for r in rows):
        notes.append(f"the client used {BUSY:.0%} of a core or more and may be what bounds the rate")
    show("watch", rows, machine, target=json, notes=notes)


async def _measure(name: str, system: System, job: dict[str, Any]) -> dict[str, Any]:
    answer, cpu = await run_clients(
        "scripts.benchmarks.watch_client", job | {"credentials": str(system.credentials)}, system.usage
    )
    lags = answer["lags_ms"] or [0.0]
    return {
        "system": name,
        "puts_per_s": round(answer["puts"] / (answer["seconds"] - answer["drain_s"]), 1),
        "events_per_s": round(answer["delivered"] / answer["seconds"]),
        "missing": answer["expected"] - answer["delivered"],
        "events_per_answer": round(answer["delivered"] / max(1, answer["answers"]), 1),
        "p50_ms": round(percentile(lags, 50), 1),
        "p99_ms": round(percentile(lags, 99), 1),
        "max_ms": round(max(lags), 1),
        "failed_puts": answer["failed"],
        "server_cores": round(cpu / answer["seconds"], 2),
        "client_cores": round(answer["client_cores"], 2),
    }
