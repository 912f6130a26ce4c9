"""A Ray node on each machine, started as somebody who has a Ray cluster of several machines starts it."""

import secrets
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.ray_cluster import OBJECT_STORE_BYTES, took_too_long
from rayplane.control_plane.testing.machines.machines import MACHINES_MAX, Machine

PORT = 6379
TRIES = 3
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_START, _STOP = (*_RAY, "start", "--disable-usage-stats"), (*_RAY, "stop", "--force")
_SMALL = ("--num-cpus", "8", "--object-store-memory", str(OBJECT_STORE_BYTES))


class RayNodes:
    """A Ray cluster on some machines, whose head is reached at one address, whichever machine has it.

    `redis`: host:port of the store that keeps the head's tables when it ends; without one a head that ended is the end
    of its cluster.
    """

    def __init__(self, address: str, *, redis: str = "") -> None:
        self._head = address
        self.address = f"{address}:{PORT}"
        #: Ray's processes and all who talk to them are let in by it.
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Dead machines are found within a quarter of a minute: a test waits for it.
            "RAY_health_check_initial_delay_ms": "5000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "3",
            # By default workers, so a cluster's actors, come after everything else on a busy machine.
            "RAY_worker_niceness": "0",
        }
        self._of_head = {"RAY_REDIS_ADDRESS": redis} if redis else {}

    def start_head(self, machine: Machine) -> None:
        """Start the head there, or its successor with the same tables; the machine takes its address."""
        if machine.address != self._head:
            machine.take_address(self._head)
        own = ("--head", "--port", str(PORT), "--node-ip-address", machine.address)
        lean = ("--include-dashboard", "false", "--include-log-monitor", "false", "--no-monitor")
        _start(machine, *own, *lean, env=self.environment | self._of_head)

    def join(self, *machines: Machine) -> None:
        """Start the other nodes."""
        with ThreadPoolExecutor(max_workers=MACHINES_MAX) as each:
            list(each.map(self._join, machines))

    def _join(self, machine: Machine) -> None:
        own = ("--address", self.address, "--node-ip-address", machine.address, "--include-log-monitor", "false")
        _start(machine, *own, env=self.environment)


def _start(machine: Machine, *own: str, env: Mapping[str, str]) -> None:
    """Start it, again where Ray took itself too long: it gives a busy machine half a minute. Raises ClusterError."""
    for tries_left in reversed(range(TRIES)):
        try:
            machine.run(*_START, *own, *_SMALL, env=env)
            return
        except ClusterError as e:
            if not tries_left or not took_too_long(str(e)):
                raise
            machine.run(*_STOP, env=env)
