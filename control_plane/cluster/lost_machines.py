"""Machines of a running cluster that are lost and come back: which ones a fault means, and how its supervisor is told.

A lost machine's part of Ray ends with all that runs there; its disk stays. Where Ray's head is, and where the
supervisor is that brings machines back, nothing is lost in this way.
"""

import asyncio
import random
from collections.abc import Sequence
from ipaddress import ip_address

from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.topology import Role, Topology
from rayplane.control_plane.cluster.victims import ROLES, victims
from rayplane.control_plane.faults.vocabulary import (
    FOLLOWER,
    LEADER,
    LOST_MAX_S,
    OBJECTS,
    RAY,
    SUPERVISOR,
    LoseMachine,
    Target,
)
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

CALL_S = 150.0
BACK_S = 60.0
"""Of fair time, in which a machine is to be back."""
_SEVERAL = "start Ray on several machines and use `rayplane up --host ray --address HOST:PORT`"


class LostMachines:
    """The machines of a cluster, as its administrator loses them."""

    def __init__(self, admin: Access) -> None:
        self._admin = admin

    def refusal(self, fault: LoseMachine) -> str:
        """Why such a fault can never be here; empty when it can."""
        target, state = fault.target, self._admin.state
        if target.role in OBJECTS or target.name in RAY:
            return "name an actor of the machine, or a role"
        if target.name == SUPERVISOR:
            return "the supervisor brings machines back; it can be killed"
        if state.config.host == PROCESS:
            return f"in one process there is one machine: {_SEVERAL}"
        if len({instance.machine.address for instance in state.topology.instances}) < 2:
            return f"all of the cluster is on one machine: {_SEVERAL}"
        if fault.for_s > LOST_MAX_S:
            return f"a machine comes back after {LOST_MAX_S / 3600:g}h at most"
        return ""

    async def chosen(self, target: Target, rng: random.Random) -> tuple[str, ...]:
        """Addresses of machines, and the actors there. Raises UsageError, ClusterError, RpcError."""
        topology = await current_topology(self._admin)
        kept = await self._kept(topology)
        if target.count and target.role not in (LEADER, FOLLOWER):
            there = {instance.machine.address for instance in topology.of(ROLES[target.role])}
            places = target.choose(sorted(there - kept.keys()), rng)
            if not places:
                raise UsageError(f"no {target.role} is on a machine that can be lost: {_why(there, kept)}")
        else:
            names = await victims(self._admin, target, rng)
            places = tuple(sorted({topology.get(name).machine.address for name in names}))
            if why := _why({*places}, kept):
                raise UsageError(f"its machine cannot be lost: {why}")
        return tuple(one for place in places for one in (place, *_on(topology, place)))

    async def _kept(self, topology: Topology) -> dict[str, str]:
        """Machines that are not lost, each with what is there. Raises ClusterError, RpcError."""
        told = await self._admin.supervisor.Topology(pb.TopologyRequest(machines=True), timeout=CALL_S)
        if not any(m.head for m in told.machines):
            raise ClusterError("Ray does not say now which machine has its head; try again")
        supervisors = topology.of(Role.SUPERVISOR)
        found = {i.machine.address: "the supervisor, which brings machines back" for i in supervisors}
        return found | {m.address: "Ray's head, with which all would end" for m in told.machines if m.head}

    async def lose(self, hit: Sequence[str], for_s: float) -> None:
        """Raises UsageError, ClusterError, RpcError."""
        for place in _places(hit):
            request = pb.LoseMachineRequest(machine=place, for_s=for_s or LOST_MAX_S)
            await self._admin.supervisor.LoseMachine(request, timeout=CALL_S)

    async def recall(self, hit: Sequence[str]) -> None:
        """Have them come back; raises ClusterError while one is not there yet, and RpcError."""
        asked = (pb.LoseMachineRequest(machine=place, undo=True) for place in _places(hit))
        told = await asyncio.gather(*(self._admin.supervisor.LoseMachine(one, timeout=CALL_S) for one in asked))
        if away := [place for place, one in zip(_places(hit), told, strict=True) if not one.alive]:
            raise ClusterError(f"{', '.join(away)}: not back yet; if that lasts, start Ray there again by `ray start`")


def _places(hit: Sequence[str]) -> list[str]:
    """Addresses among those that were hit; the others are actors."""
    return [one for one in hit if _is_address(one)]


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def _on(topology: Topology, place: str) -> list[str]:
    return [instance.name for instance in topology.instances if instance.machine.address == place]


def _why(places: set[str], kept: dict[str, str]) -> str:
    return "; ".join(f"{place} has {kept[place]}" for place in sorted(places) if place in kept)
