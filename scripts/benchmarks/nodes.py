"""Real pods: how fast they start, what one takes, and how fast they talk to each other, beside the plain loopback."""

import asyncio
import json as encoding
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_phase
from rayplane.control_plane.cli.options import run
from rayplane.control_plane.cluster.config import NAMESPACES, NONE
from rayplane.node.proxy.rules import outside_ip
from scripts.benchmarks import pod_client
from scripts.benchmarks.clusters import Running, cluster, say
from scripts.benchmarks.machine import description
from scripts.benchmarks.report import Json, show

PORT = 4100
LOOPBACK_PORT = 24_100
WAIT_S = 120.0
SLEEP = ["sleep", "100000"]
_SCRIPT = Path(pod_client.__file__)
_SOURCE = _SCRIPT.read_text()


def nodes(
    isolation: Annotated[str, typer.Option(help="Kinds to measure, with a comma between.")] = f"{NAMESPACES},{NONE}",
    pods: Annotated[int, typer.Option(help="Pods that are started together.")] = 100,
    megabytes: Annotated[int, typer.Option(help="Sent over one connection.")] = 512,
    json: Json = "",
) -> None:
    """Pods started per second and their memory; round trips and throughput to a pod, through a service, and through it
    from the machine, for whom the node host's sockets carry it.
    """
    machine = description()

    async def measure() -> list[dict[str, Any]]:
        return [_loopback(megabytes), *[await _pods(kind, pods, megabytes) for kind in isolation.split(",")]]

    show("nodes", run(measure()), machine, target=json)


def _loopback(megabytes: int) -> dict[str, Any]:
    server = subprocess.Popen([sys.executable, str(_SCRIPT), "serve", str(LOOPBACK_PORT)])
    try:
        until = time.monotonic() + WAIT_S
        while True:
            try:
                found = pod_client.ask("127.0.0.1", LOOPBACK_PORT, megabytes)
                break
            except ConnectionRefusedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
    finally:
        server.kill()
        server.wait()
    return _row("plain loopback", {}, found, {}, {})


async def _pods(isolation: str, pods: int, megabytes: int) -> dict[str, Any]:
    async with cluster("process", nodes=1, node_cpu="100", runtime="process", isolation=isolation) as running:
        await _until(running, ["warm-0"], _runs, [_pod("warm-0", SLEEP)])
        before, begun = _free_mb(), time.monotonic()
        names = [f"pod-{number}" for number in range(pods)]
        with say.status(f"starting {pods} pods ({isolation})"):
            await _until(running, names, _runs, [_pod(name, SLEEP) for name in names])
        started = {
            "pods_per_s": round(pods / (time.monotonic() - begun), 1),
            "mb_per_pod": round((before - _free_mb()) / pods, 2),
        }
        with say.status("talking"):
            direct, service, sockets = await _talk(running, megabytes)
    return _row(f"isolation {isolation}", started, direct, service, sockets)


async def _talk(running: Running, megabytes: int) -> list[dict[str, float]]:
    server = _pod("server", ["python3", "-c", _SOURCE, "serve", str(PORT)], app="server")
    server["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": PORT}}
    ports = [{"name": "t", "port": PORT}, {"name": "u", "port": PORT, "protocol": "UDP"}]
    spec = {"selector": {"app": "server"}, "ports": ports}
    service = await running.admin.api.create(
        "services", {"apiVersion": "v1", "kind": "Service", "metadata": _named("server"), "spec": spec}
    )
    (server,) = await _until(running, ["server"], pod_is_ready, [server])
    found = []
    for number, address in enumerate((meta.status(server)["podIP"], meta.spec(service)["clusterIP"])):
        client = _pod(f"client-{number}", ["python3", "-c", _SOURCE, "ask", address, str(PORT), str(megabytes)])
        (client,) = await _until(running, [meta.name(client)], lambda pod: pod_phase(pod) == "Succeeded", [client])
        ended = meta.status(client)["containerStatuses"][0]["state"]["terminated"]
        found.append(encoding.loads(ended["message"]))
    outside = outside_ip(meta.spec(service)["clusterIP"])
    loop = asyncio.get_running_loop()
    return [*found, await loop.run_in_executor(None, pod_client.ask, outside, PORT, megabytes)]


async def _until(running: Running, names: Iterable[str], holds: Any, made: list[Object]) -> list[Object]:
    """Create pods and return them when all are as asked."""
    api = running.admin.api
    await asyncio.gather(*(api.create("pods", pod) for pod in made))
    wanted = {*names}
    async with asyncio.timeout(WAIT_S):
        while True:
            found = [pod for pod in (await api.list("pods", "default")).items if meta.name(pod) in wanted]
            if len(found) == len(wanted) and all(map(holds, found)):
                return found
            await asyncio.sleep(0.05)


def _runs(pod: Object) -> bool:
    return pod_phase(pod) == "Running"


def _pod(name: str, command: list[str], **labels: str) -> Object:
    container = {"name": "main", "image": "none", "command": command}
    spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _named(name) | {"labels": labels}, "spec": spec}


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": "default"}


def _free_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the machine does not say how much memory is free")


def _row(
    what: str,
    started: dict[str, Any],
    direct: dict[str, float],
    service: dict[str, float],
    sockets: dict[str, float],
) -> dict[str, Any]:
    return {
        "what": what,
        "pods_per_s": started.get("pods_per_s"),
        "mb_per_pod": started.get("mb_per_pod"),
        "round_trip_us": direct["round_trip_us"],
        "udp_round_trip_us": direct["udp_round_trip_us"],
        "mb_per_s": direct["mb_per_s"],
        "service_round_trip_us": service.get("round_trip_us"),
        "service_udp_round_trip_us": service.get("udp_round_trip_us"),
        "service_mb_per_s": service.get("mb_per_s"),
        "sockets_round_trip_us": sockets.get("round_trip_us"),
        "sockets_udp_round_trip_us": sockets.get("udp_round_trip_us"),
        "sockets_mb_per_s": sockets.get("mb_per_s"),
    }
