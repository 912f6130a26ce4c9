"""Real pods: how fast they start, what one takes, and how fast they talk to each other, beside the plain loopback."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_phase
from rayplane.control_plane.cli.options import run
from rayplane.control_plane.cluster.config import NAMESPACES, NONE
from scripts.benchmarks import across, pod_client
from scripts.benchmarks.clusters import cluster, say
from scripts.benchmarks.machine import description
from scripts.benchmarks.report import Json, show
from scripts.benchmarks.talking import SCRIPT, WAIT_S, pod, row, talk, until

LOOPBACK_PORT = 24_100
SLEEP = ["sleep", "100000"]


def nodes(
    isolation: Annotated[str, typer.Option(help="Kinds to measure, with a comma between.")] = f"{NAMESPACES},{NONE}",
    pods: Annotated[int, typer.Option(help="Pods that are started together.")] = 100,
    megabytes: Annotated[int, typer.Option(help="Sent over one connection.")] = 512,
    machines: Annotated[int, typer.Option(help="As root: measure between so many machines out of namespaces.")] = 0,
    json: Json = "",
) -> None:
    """Pods started per second and their memory; round trips and throughput to a pod, through a service, and through it
    from the machine, for whom the node host's sockets carry it. With `--machines` the last of these are between pods of
    two machines, beside the link that joins the machines.
    """
    machine = description()
    if machines:
        show("nodes", across.measured(machines, megabytes), machine, target=json)
        return

    async def measure() -> list[dict[str, Any]]:
        return [_loopback(megabytes), *[await _pods(kind, pods, megabytes) for kind in isolation.split(",")]]

    show("nodes", run(measure()), machine, target=json)


def _loopback(megabytes: int) -> dict[str, Any]:
    server = subprocess.Popen([sys.executable, str(SCRIPT), "serve", str(LOOPBACK_PORT)])
    try:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                found = pod_client.ask("127.0.0.1", LOOPBACK_PORT, megabytes)
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    finally:
        server.kill()
        server.wait()
    return row("plain loopback", {}, found, {}, {})


async def _pods(isolation: str, pods: int, megabytes: int) -> dict[str, Any]:
    async with cluster("process", nodes=1, node_cpu="100", runtime="process", isolation=isolation) as running:
        await until(running, ["warm-0"], _runs, [pod("warm-0", SLEEP)])
        before, begun = _free_mb(), time.monotonic()
        names = [f"pod-{number}" for number in range(pods)]
        with say.status(f"starting {pods} pods ({isolation})"):
            await until(running, names, _runs, [pod(name, SLEEP) for name in names])
        started = {
            "pods_per_s": round(pods / (time.monotonic() - begun), 1),
            "mb_per_pod": round((before - _free_mb()) / pods, 2),
        }
        with say.status("talking"):
            direct, service, sockets = await talk(running, megabytes)
    return row(f"isolation {isolation}", started, direct, service, sockets)


def _runs(pod: Object) -> bool:
    return pod_phase(pod) == "Running"


def _free_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the machine does not say how much memory is free")
