"""How long a cluster takes until it is ready, and what it uses when nobody asks anything of it."""

import asyncio
import time
from typing import Annotated, Any

import typer

from rayplane.control_plane.cli.options import run
from scripts.benchmarks.clusters import Running, cluster, say
from scripts.benchmarks.machine import cpu_between, description
from scripts.benchmarks.report import Hosts, Json, hosts, show


def up(
    host: Hosts = "ray,process",
    idle: Annotated[float, typer.Option(help="Seconds to leave it alone; CPU is measured over the second half.")] = 60,
    nodes: Annotated[int, typer.Option(help="Node hosts.")] = 3,
    nodes_per_host: Annotated[int, typer.Option(help="Nodes of each node host.")] = 1,
    json: Json = "",
) -> None:
    """Seconds to ready; memory and CPU of all its processes when idle."""
    machine = description()
    chosen = hosts(host)

    async def measure() -> list[dict[str, Any]]:
        rows = []
        for one in chosen:
            async with cluster(one, nodes=nodes, nodes_per_host=nodes_per_host) as running:
                rows.append(await _idle(one, running, idle, nodes * nodes_per_host))
        return rows

    show("up", run(measure()), machine, target=json)


async def _idle(host: str, running: Running, idle: float, nodes: int) -> dict[str, Any]:
    started = running.usage()
    with say.status(f"leaving it alone for {idle:.0f} s"):
        await asyncio.sleep(idle / 2)
        before, since = running.usage(), time.monotonic()
        await asyncio.sleep(idle / 2)
    after, seconds = running.usage(memory=True), time.monotonic() - since
    processes = [
        {
            "name": u.name,
            "memory_mb": round(u.memory_mb, 1),
            "idle_cpu_percent": round(100 * (u.cpu_s - before[pid].cpu_s) / seconds, 2) if pid in before else None,
            "cpu_to_ready_s": round(started[pid].cpu_s, 2) if pid in started else None,
        }
        for pid, u in sorted(after.items())
    ]
    return {
        "host": host,
        "nodes": nodes,
        "ready_s": round(running.up_s, 2),
        "cpu_to_ready_s": round(sum(u.cpu_s for u in started.values()), 2),
        "processes": len(after),
        "memory_mb": round(sum(u.memory_mb for u in after.values()), 1),
        "idle_cpu_percent": round(100 * cpu_between(before, after) / seconds, 2),
        "of_each": processes,
    }
