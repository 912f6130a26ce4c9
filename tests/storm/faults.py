"""Carries out a plan's acts on a live cluster, and writes down what was broken from when to when."""

import asyncio
import contextlib
import os
import random
import resource
import signal
from collections.abc import Callable, Sequence

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.scenario import ClusterActions, Runner, Strike
from rayplane.control_plane.rpc import RpcError
from tests.e2e.harness import Cluster, processes_of
from tests.storm import clients
from tests.storm.live import process_of
from tests.storm.load import NAMESPACE, ConfigMaps
from tests.storm.plan import (
    Act,
    Burst,
    Cancel,
    Compact,
    Deaf,
    Freeze,
    FullDisk,
    HalfOpen,
    Scale,
    Timed,
    WatchBurst,
)
from tests.storm.truth import Held, Report
from tests.storm.workload import WORKLOADS

#: A call that is made at this moment hangs or fails: nothing more is needed to feel it.
AT_ONCE_S = 0.2
#: What is broken for so long stays so until status has been asked and has answered meanwhile, however long that takes.
TOLD_FROM_S = 7.0
TOLD_TIMEOUT_S = 90.0


class Chronicle:
    """What is and was broken, by whom it concerns."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.held: list[Held] = []
        self.reports: list[Report] = []
        self._open: dict[str, tuple[str, tuple[str, ...], float, float]] = {}

    def began(self, who: str, what: str, names: tuple[str, ...], felt_after_s: float) -> None:
        self._open.setdefault(who, (what, names, self.now(), felt_after_s))

    async def told(self, who: str) -> None:
        """Return when status has had time to tell of what has held for long."""
        if (found := self._open.get(who)) is None or self.now() - found[2] < TOLD_FROM_S:
            return
        felt, until = found[2] + found[3], self.now() + TOLD_TIMEOUT_S
        while self.now() < until and not any(r.asked >= felt for r in self.reports):
            await asyncio.sleep(AT_ONCE_S)

    def ended(self, who: str, at: float | None = None) -> None:
        """`at` a moment at which it still was so."""
        if (found := self._open.pop(who, None)) is not None:
            what, names, since, felt = found
            until = self.now() if at is None else at
            self.held.append(Held(what=what, names=names, since=since, until=until, felt_after_s=felt))


class Strikes:
    """`Actions` of a scenario that write down who stands still. One after the other, so that nobody is mistaken."""

    def __init__(self, admin: Access, chronicle: Chronicle) -> None:
        self._admin, self._chronicle = admin, chronicle
        self._actions = ClusterActions(admin)
        self._lock = asyncio.Lock()
        self.slowest_s = 0.0

    async def strike(self, target: str, name: str, signal: str) -> str:
        if signal == "CONT":
            await self._chronicle.told(self._actor(target, name))
        async with self._lock:
            before = self._chronicle.now()
            if signal == "CONT":
                self._chronicle.ended(self._actor(target, name))
            try:
                victim = await self._actions.strike(target, name, signal)
            except ClusterError:
                if signal != "CONT" or not self._continue(self._actor(target, name)):
                    raise
                victim = name
            self.slowest_s = max(self.slowest_s, self._chronicle.now() - before)
            if signal == "KILL":
                self._chronicle.ended(victim, before)
            elif signal == "STOP":
                self._stopped(victim)
            return victim

    async def names(self, target: str) -> list[str]:
        return await self._actions.names(target)

    async def unhealthy(self) -> str:
        return await self._actions.unhealthy()

    def _actor(self, target: str, name: str) -> str:
        return self._admin.state.topology.node_host(name).name if target == "node" else name

    def _continue(self, name: str) -> bool:
        if pid := process_of(self._admin, name):
            os.kill(pid, signal.SIGCONT)
        return bool(pid)

    def _stopped(self, victim: str) -> None:
        names = (victim, *self._admin.state.topology.get(victim).nodes)
        self._chronicle.began(victim, f"{victim} stands still", names, AT_ONCE_S)


class Faults:
    """`run` does everything at its time. In the end nothing of it lasts."""

    def __init__(
        self, admin: Access, cluster: Cluster, maps: ConfigMaps, rng: random.Random, say: Callable[[str], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.chronicle = Chronicle(lambda: loop.time() - began)
        self.strikes = Strikes(admin, self.chronicle)
        self.wanted = {resource: replicas for resource, (_, replicas) in WORKLOADS.items()}
        self.in_vain: list[str] = []
        self._admin, self._cluster, self._maps, self._rng, self._say = admin, cluster, maps, rng, say
        self._runner = Runner(self.strikes, rng, self._told)

    async def run(self, acts: Sequence[Timed]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for timed in acts:
                await asyncio.sleep(began + timed.at_s - loop.time())
                self._told(str(timed.act))
                group.create_task(self._do(timed.act))

    def _told(self, text: str) -> None:
        self._say(f"{self.chronicle.now():6.1f} s  {text}")

    async def _do(self, act: Act) -> None:
        try:
            await self._act(act)
        except (ClusterError, ApiError, RpcError, TimeoutError) as e:
            # Nobody is there to be killed, or to be asked.
            self.in_vain.append(f"{act}: {e}")

    async def _act(self, act: Act) -> None:
        match act:
            case Strike():
                await self._runner.run([act])
            case Freeze(for_s):
                await self._freeze(for_s)
            case FullDisk(name, for_s):
                await self._full_disk(name, for_s)
            case Compact():
                now = (await self._admin.etcd.range(b"/")).header.revision
                await self._admin.etcd.compact(now)
            case Cancel(count, within_s):
                await clients.cancel(self._admin, self._maps, count, within_s, self._rng)
            case Deaf(count, for_s):
                await clients.deaf(self._admin, count, for_s)
            case HalfOpen(count, for_s):
                await clients.half_open(self._admin, count, for_s)
            case Burst(count):
                await clients.burst(self._maps, count)
            case WatchBurst(count):
                await clients.watch_burst(self._admin.api, count)
            case Scale(kind, replicas):
                self.wanted[kind] = replicas
                name = WORKLOADS[kind][0]
                await self._admin.api.patch(kind, name, NAMESPACE, {"spec": {"replicas": replicas}})

    async def _freeze(self, for_s: float) -> None:
        pid = process_of(self._admin, "")
        async with self.strikes._lock:
            os.kill(pid, signal.SIGSTOP)
            self.chronicle.began("the process", "the whole process stands still", (), AT_ONCE_S)
            try:
                await asyncio.sleep(for_s)
                await self.chronicle.told("the process")
            finally:
                self.chronicle.ended("the process")
                os.kill(pid, signal.SIGCONT)

    async def _full_disk(self, name: str, for_s: float) -> None:
        pid = process_of(self._admin, name)
        if not pid:
            return
        whole = self._admin.state.config.host == PROCESS
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
        if whole:
            self.chronicle.began("the disk", "no file can be written", (), AT_ONCE_S)
        try:
            await asyncio.sleep(for_s)
            await self.chronicle.told("the disk")
        finally:
            if whole:
                self.chronicle.ended("the disk")
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

    def calm(self) -> None:
        """Whatever happened to the acts themselves, nobody stands still and every disk can be written."""
        for pid in processes_of(self._cluster):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
                _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
