"""A seeded run of a cluster that the real supervisor heals while supervisors, leaders and machines are lost.

Machines are lost one at a time, whenever all members vote; everything else may die at any moment, the supervisor above
all in the midst of a member's replacement. At the end everything runs, the members that vote are those that are
wanted, as many as at first, and every acknowledged write is found.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults.vocabulary import Kill, LoseMachine, Target
from rayplane.control_plane.rpc import Network, RpcError
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation.cell import derived_rng
from rayplane.control_plane.simulation.cluster import SUPERVISOR, SimulatedCluster
from rayplane.control_plane.simulation.injector import CellInjector
from rayplane.control_plane.simulation.loop import VirtualLoop
from rayplane.control_plane.simulation.run import bury
from rayplane.control_plane.simulation.trace import Trace
from rayplane.control_plane.simulation.weather import Climate
from rayplane.storage.env import Env

SETTLE_S = 180.0
WRITE_EVERY_S = 0.1
POLL_S = 0.25
_KEYS = b"/healing/"


@dataclass(slots=True)
class Healed:
    """The result of a run."""

    seed: int
    trace_hash: str = ""
    acknowledged: int = 0
    lost_machines: int = 0
    supervisors: int = 0
    """How many there have been, one after the other."""
    failures: list[str] = field(default_factory=list)


def heal(seed: int, *, faults: int = 12) -> Healed:
    """Run a small cluster in virtual time through so many faults drawn by the seed."""
    loop = VirtualLoop()
    trace = Trace(loop.time)
    result = Healed(seed)
    root = logging.getLogger()
    disabled = root.manager.disable
    logging.disable(logging.CRITICAL)
    bury()
    try:
        loop.run(_Run(seed, faults, trace, result).main())
        result.failures += loop.faults
        bury()
    finally:
        logging.disable(disabled)
    result.trace_hash = trace.hash
    return result


class _Run:
    def __init__(self, seed: int, faults: int, trace: Trace, result: Healed) -> None:
        self._seed = seed
        self._faults = faults
        self._trace = trace
        self._result = result
        self._rng = derived_rng(seed, "healing")
        self._written: list[bytes] = []
        self._up = asyncio.Event()

    async def main(self) -> None:
        config = ClusterConfig(name="healing", host=PROCESS, members=3, apiservers=1, schedulers=1, nodes=1)
        self._cluster = SimulatedCluster(config, self._seed, self._trace, climate=Climate())
        self._injector = CellInjector(self._cluster)
        loop = asyncio.get_running_loop()
        user = loop.create_task(self._cluster.client.run(self._write))
        await self._cluster.start()
        await self._up.wait()
        for _ in range(self._faults):
            await asyncio.sleep(self._rng.uniform(0.2, 8.0))
            await self._strike()
        missing = await self._wait()
        if missing:
            self._result.failures.append(f"not within {SETTLE_S:.0f} s: {missing}")
        await self._verify()
        if (members := len(self._cluster.topology.of(Role.MEMBER))) != config.members:
            self._result.failures.append(f"there are {members} members, not {config.members}")
        self._result.supervisors = self._cluster.cells[SUPERVISOR].starts
        user.cancel()
        await self._cluster.stop()

    async def _strike(self) -> None:
        what = self._rng.choice(["supervisor", "leader", "actor", "machine", "machine"])
        names = [i.name for i in self._cluster.topology.instances if i.name != SUPERVISOR]
        if what == "machine":
            # A majority must stay.
            if not await self._wait():
                await self._injector.begin(LoseMachine(Target(name=self._rng.choice(names))))
                self._result.lost_machines += 1
                if self._rng.random() < 0.7:
                    await asyncio.sleep(self._rng.uniform(0.0, 3.0))
                    await self._injector.begin(Kill(Target(name=SUPERVISOR)))
            return
        target = {"supervisor": SUPERVISOR, "leader": self._cluster.leader(), "actor": self._rng.choice(names)}[what]
        if target is not None and target in self._cluster.cells:
            await self._injector.begin(Kill(Target(name=target)))

    async def _wait(self) -> str:
        """Wait until all is as it should be; what is not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_S
        while missing := await self._missing():
            if loop.time() > deadline:
                return missing
            await asyncio.sleep(POLL_S)
        return ""

    async def _missing(self) -> str:
        try:
            with self._cluster.client.inside():
                return settled(self._cluster, (await self._etcd.member_list()).members)
        except RpcError as e:
            return str(e)

    async def _write(self, env: Env, network: Network, sockets: Sockets) -> None:
        """A client that writes one key after the other, wherever the members are."""
        self._etcd = EtcdClient(network, self._cluster.topology.endpoints(Role.MEMBER, "client"))
        while True:
            self._etcd.endpoints.replace(self._cluster.topology.endpoints(Role.MEMBER, "client"))
            key = b"%s%06d" % (_KEYS, len(self._written))
            try:
                await self._etcd.put(key, b"v", timeout=2.0)
            except RpcError:
                await asyncio.sleep(WRITE_EVERY_S)
                continue
            self._written.append(key)
            self._up.set()
            await asyncio.sleep(WRITE_EVERY_S)

    async def _verify(self) -> None:
        self._result.acknowledged = len(self._written)
        with self._cluster.client.inside():
            found = await self._etcd.range(_KEYS, _KEYS[:-1] + b"0", keys_only=True)
        lost = set(self._written) - {kv.key for kv in found.kvs}
        if lost:
            self._result.failures.append(f"{len(lost)} acknowledged writes are lost, first {min(lost)!r}")


def settled(cluster: SimulatedCluster, listed: Any) -> str:
    """What is not yet as it should be, by etcd's list of members; empty when all is."""
    wanted = {i.name for i in cluster.topology.instances}
    alive = {name for name, cell in cluster.cells.items() if cell.component is not None}
    members = {(m.name, m.isLearner) for m in listed}
    voting = {(i.name, False) for i in cluster.topology.of(Role.MEMBER)}
    if alive != wanted:
        return f"running and wanted are not the same: {sorted(alive ^ wanted)}"
    return "" if members == voting else f"members are {sorted(members)}"
