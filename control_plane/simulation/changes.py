"""Changes of a cluster while it runs: of its members and API servers, and storms of faults.

An `Operator` does to a simulated cluster what the supervisor does to a real one: one change at a time, each of steps
that may be tried again (a member is added as a learner and promoted; it is expelled before its actor ends). A `Storm`
draws faults and changes from the seed; actors die of it while others are being replaced.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster.topology import Instance, Role
from rayplane.control_plane.faults.vocabulary import ROLES, Fault, Kill, Partition, Target
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation.cell import Cell
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.injector import CellInjector, NobodyThere

T = TypeVar("T")

STEP_S = 60.0
RETRY_S = 0.5
# Whoever talks to members and API servers asks this often who they are; one may go only when all know its successor.
LEARN_S = 4.0
MEMBERS_MAX, APISERVERS_MAX = 5, 4
PARTITION_S = 8.0


class ChangeFailed(Exception):
    """A change could not be done in its time."""


class Operator:
    """`etcd` is called in the life of `cell`."""

    def __init__(self, cluster: SimulatedCluster, cell: Cell, etcd: Callable[[], EtcdClient]) -> None:
        self._cluster = cluster
        self._cell = cell
        self._etcd = etcd
        self._changing = asyncio.Lock()

    async def add(self, role: Role) -> None:
        """Add an actor and wait until it serves. ChangeFailed."""
        async with self._changing:
            await self._add(role)

    async def remove(self, name: str) -> None:
        """Remove an actor for good. ChangeFailed."""
        async with self._changing:
            await self._remove(self._cluster.topology.get(name))

    async def replace(self, name: str) -> None:
        """An actor's machine is lost, with its data: put another in its place. ChangeFailed."""
        self._cluster.kill(name, back=False)
        async with self._changing:
            instance = self._cluster.topology.get(name)
            await self._add(instance.role)
            await self._remove(instance)

    async def _add(self, role: Role) -> None:
        instance = self._cluster.add(role)
        self._cluster.trace.event("add", instance.name)
        if role is Role.MEMBER:
            member = await self._until(lambda: self._enlist(_peer_url(instance)))
            self._cluster.begin(instance)
            await self._until(lambda: self._etcd().member_promote(member))
        else:
            self._cluster.begin(instance)
        # Before the next may go, everybody must have heard of this one.
        await asyncio.sleep(LEARN_S)

    async def _remove(self, instance: Instance) -> None:
        if instance.role is Role.MEMBER:
            await self._until(lambda: self._expel(_peer_url(instance)))
        self._cluster.remove(instance.name)

    async def _enlist(self, url: str) -> int:
        return await self._member_id(url) or int((await self._etcd().member_add(url, learner=True)).member.ID)

    async def _expel(self, url: str) -> None:
        member = await self._member_id(url)
        if member:
            await self._etcd().member_remove(member)

    async def _member_id(self, url: str) -> int:
        members = (await self._etcd().member_list()).members
        return next((int(m.ID) for m in members if url in m.peerURLs), 0)

    async def _until(self, attempt: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STEP_S
        while True:
            try:
                with self._cell.inside():
                    return await attempt()
            except RpcError as e:
                if loop.time() > deadline:
                    raise ChangeFailed(f"not within {STEP_S:.0f} s: {e}") from e
            await asyncio.sleep(RETRY_S)


class Storm:
    """Faults and changes, drawn until its time is over; then whatever was begun is finished."""

    def __init__(self, cluster: SimulatedCluster, operator: Operator, injector: CellInjector) -> None:
        self._cluster = cluster
        self._operator = operator
        self._injector = injector
        self._rng = cluster.rng
        self._change: asyncio.Task[None] | None = None

    async def rage(self, for_s: float, every_s: float) -> None:
        """Raises ChangeFailed when a change could not be done although its faults are over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + for_s
        while loop.time() < end:
            await asyncio.sleep(every_s * self._rng.uniform(0.5, 1.5))
            await self._strike()
        if self._change is not None:
            await self._change

    async def _strike(self) -> None:
        if self._change is not None and self._change.done():
            self._change.result()
            self._change = None
        if self._change is None and self._rng.random() < 0.5:
            self._change = asyncio.get_running_loop().create_task(self._draw_change())
            return
        with contextlib.suppress(NobodyThere):
            await self._injector.strike(self._draw())

    def _draw(self) -> Fault:
        if self._rng.random() < 0.15:
            lonely = self._rng.choice([i.name for i in self._cluster.topology.instances])
            return Partition(((lonely,),), PARTITION_S * self._rng.random())
        return Kill(Target(self._rng.choice(ROLES)))

    async def _draw_change(self) -> None:
        role, most = self._rng.choice([(Role.MEMBER, MEMBERS_MAX), (Role.APISERVER, APISERVERS_MAX)])
        there = [i.name for i in self._cluster.topology.of(role)]
        least = 3 if role is Role.MEMBER else 1
        possible = ["replace", *["add"] * (len(there) < most), *["remove"] * (len(there) > least)]
        match self._rng.choice(possible):
            case "add":
                await self._operator.add(role)
            case "remove":
                await self._operator.remove(self._rng.choice(there))
            case "replace":
                await self._operator.replace(self._rng.choice(there))


def _peer_url(instance: Instance) -> str:
    return f"http://{instance.endpoint('peer')}"
