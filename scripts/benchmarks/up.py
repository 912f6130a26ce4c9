"""How long a cluster takes until it is ready, and what it uses when nobody asks anything of it."""

from typing import Annotated, Any

import typer

from rayplane.control_plane.cli.options import run
from scripts.benchmarks.clusters import Running, cluster
from scripts.benchmarks.idle import resting
from scripts.benchmarks.machine import description
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
    return {
        "host": host,
        "nodes": nodes,
        "ready_s": round(running.up_s, 2),
        "cpu_to_ready_s": round(sum(u.cpu_s for u in started.values()), 2),
        **await resting(running, idle),
    }
