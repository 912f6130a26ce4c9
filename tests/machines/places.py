"""A cluster that is spread over machines, whose commands run on one of them; whether there can be machines here."""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from rayplane.control_plane.testing.machines.machines import Machine, why_not
from tests.e2e.harness import Cluster

# Of a cluster with five nodes, each on a host of its own.
NODES = [f"node-{number}" for number in range(5)]
ROLES = ("lb", "member", "apiserver", "scheduler", "controllers", "node-host")
REDIS_PORT = 6380
WHY_NOT = why_not()
needs_machines = pytest.mark.skipif(bool(WHY_NOT), reason=f"no machines here: {WHY_NOT}")


@dataclass(frozen=True, kw_only=True)
class Placed(Cluster):
    """A cluster whose commands run on `machine`: `home` is where this process finds what is its home there."""

    machine: Machine

    @staticmethod
    def on(machine: Machine, name: str, variables: dict[str, str]) -> "Placed":
        return Placed(name, machine.path(""), variables=variables, machine=machine)

    def entry(self) -> list[str]:
        return self.machine.command()

    @property
    def env(self) -> dict[str, str]:
        kubeconfig = str(self.machine.place / ".rayplane" / self.name / "kubeconfig")
        return {**os.environ, **self.machine.environment, **self.variables, "KUBECONFIG": kubeconfig}

    def places(self, role: str) -> dict[str, str]:
        """The machine of each actor of a role, by its name, as the supervisor has them."""
        return places_in(self.status(), role)


def places_in(status: dict[str, Any], role: str) -> dict[str, str]:
    if role == "member":
        return {m["name"]: m["endpoint"].partition(":")[0] for m in status["members"]}
    return {a["name"]: a["machine"] for a in status["actors"] if a["role"] == role}


def redis_on(machine: Machine) -> str:
    """Start a Redis there; its host:port."""
    options = ("--port", str(REDIS_PORT), "--bind", machine.address, "--protected-mode", "no", "--save", "")
    redis = subprocess.Popen(machine.command("redis-server", *options), stdout=subprocess.DEVNULL, cwd="/")
    redis.returncode = 0  # it ends with its machine
    return f"{machine.address}:{REDIS_PORT}"


def healthy(cluster: Placed) -> bool:
    return bool(cluster.status().get("healthy"))


def healthy_elsewhere(cluster: Placed, roles: Iterable[str], lost: Machine) -> bool:
    """Whether all is well, with none of these roles on a machine."""
    status = cluster.status()
    return bool(status.get("healthy")) and all(lost.address not in places_in(status, r).values() for r in roles)


def voters(cluster: Placed) -> set[str]:
    """Where the members are that answer."""
    return {m["endpoint"].partition(":")[0] for m in cluster.status().get("members", []) if m.get("healthy")}


def node_on(cluster: Placed, machine: Machine) -> str:
    """A node whose host is there; each host here has one node, of the same number."""
    hosts = cluster.places("node-host")
    return next(name.replace("node-host", "node") for name, address in hosts.items() if address == machine.address)
