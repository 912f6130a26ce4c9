"""Pods that talk to each other, and how fast they do."""

import asyncio
import json as encoding
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_phase
from rayplane.node.proxy.rules import outside_ip
from scripts.benchmarks import pod_client
from scripts.benchmarks.clusters import Running

PORT = 4100
WAIT_S = 120.0
SCRIPT = Path(pod_client.__file__)
_SOURCE = SCRIPT.read_text()


async def talk(running: Running, megabytes: int, *, on: Sequence[str] = ("", "")) -> list[dict[str, float]]:
    """What a pod measures to another one, through a service, and this process through it. `on`: nodes of the server and
    of who asks it.
    """
    server = pod("server", ["python3", "-c", _SOURCE, "serve", str(PORT)], on[0], app="server")
    server["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": PORT}}
    ports = [{"name": "t", "port": PORT}, {"name": "u", "port": PORT, "protocol": "UDP"}]
    spec = {"selector": {"app": "server"}, "ports": ports}
    service = await running.admin.api.create(
        "services", {"apiVersion": "v1", "kind": "Service", "metadata": _named("server"), "spec": spec}
    )
    (server,) = await until(running, ["server"], pod_is_ready, [server])
    found = []
    for number, address in enumerate((meta.status(server)["podIP"], meta.spec(service)["clusterIP"])):
        client = pod(f"client-{number}", ["python3", "-c", _SOURCE, "ask", address, str(PORT), str(megabytes)], on[1])
        (client,) = await until(running, [meta.name(client)], lambda pod: pod_phase(pod) == "Succeeded", [client])
        ended = meta.status(client)["containerStatuses"][0]["state"]["terminated"]
        found.append(encoding.loads(ended["message"]))
    outside = outside_ip(meta.spec(service)["clusterIP"])
    loop = asyncio.get_running_loop()
    return [*found, await loop.run_in_executor(None, pod_client.ask, outside, PORT, megabytes)]


async def until(running: Running, names: Iterable[str], holds: Any, made: Sequence[Object]) -> list[Object]:
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


def pod(name: str, command: list[str], on: str = "", **labels: str) -> Object:
    """A pod that runs a command once; `on`: the node that it is for."""
    container = {"name": "main", "image": "none", "command": command}
    spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    spec |= {"nodeName": on} if on else {}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _named(name) | {"labels": labels}, "spec": spec}


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": "default"}


def row(
    what: str,
    started: dict[str, Any],
    direct: dict[str, float],
    service: dict[str, float],
    sockets: dict[str, float],
) -> dict[str, Any]:
    """One line of what is shown."""
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
