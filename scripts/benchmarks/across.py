"""Pods of two machines that talk to each other, on machines out of namespaces, beside the link between those.

    python -m scripts.benchmarks.across RAY_ADDRESS MEGABYTES

on one of the machines brings the cluster up and prints what pods measure as a line of JSON.
"""

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

from rayplane.control_plane.cluster.config import NAMESPACES, RAY
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.testing.machines.machines import Machine
from scripts.benchmarks.clusters import cluster, say
from scripts.benchmarks.talking import PORT, SCRIPT, WAIT_S, row, talk
from scripts.benchmarks.trials import spread

_FIRST = ("node-0", "node-1")
_WAITS = "import socket; socket.create_connection(('127.0.0.1', {port}), 1)"


def measured(count: int, megabytes: int) -> list[dict[str, Any]]:
    """The rows of `scripts/bench nodes --machines COUNT`."""
    with spread(count) as (machines, rays):
        here, there, *_ = machines.all
        with say.status("measuring the link between the machines"):
            link = _link(here, there, megabytes)
        with say.status("bringing a cluster up on them, pods talking"):
            command = (sys.executable, "-m", __spec__.name, rays.address, str(megabytes))
            found = here.run(*command, env=rays.environment, timeout_s=600)
    direct, service, sockets = json.loads(found.splitlines()[-1])
    return [row("the link", {}, link, {}, {}), row("pods of two machines", {}, direct, service, sockets)]


def _link(here: Machine, there: Machine, megabytes: int) -> dict[str, float]:
    with subprocess.Popen(there.command(sys.executable, str(SCRIPT), "serve", str(PORT))) as server:
        try:
            deadline = time.monotonic() + WAIT_S
            while server.poll() is None:
                try:
                    there.run(sys.executable, "-c", _WAITS.format(port=PORT))
                    break
                except ClusterError:  # it does not listen yet
                    if time.monotonic() > deadline:
                        raise
            asks = (sys.executable, str(SCRIPT), "ask", there.address, str(PORT), str(megabytes))
            found: dict[str, float] = json.loads(here.run(*asks))
            return found
        finally:
            server.kill()


async def _measure(address: str, megabytes: int) -> list[dict[str, float]]:
    settings: dict[str, Any] = {"runtime": "process", "isolation": NAMESPACES, "nodes": len(_FIRST)}
    async with cluster(
        RAY, address=address, members=1, apiservers=1, schedulers=1, controllers=1, **settings
    ) as running:
        return await talk(running, megabytes, on=_FIRST)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(sys.argv[1], int(sys.argv[2])))))
