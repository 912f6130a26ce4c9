"""Carries out a plan's acts on a live cluster, and writes down what was broken from when to when."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Callable, Sequence

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.scenario import Runner, unhealthy
from rayplane.control_plane.faults.vocabulary import Continue, Fault, FullDisk, Kill, Stop, Target
from rayplane.control_plane.rpc import RpcError
from tests.e2e.harness import Cluster, processes_of
from tests.storm import clients
from tests.storm.live import process_of
from tests.storm.load import NAMESPACE, ConfigMaps
from tests.storm.plan import (
    THE_PROCESS,
    Act,
    Burst,
    Cancel,
    Compact,
    Deaf,
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


class StormInjector:
    """Faults of a live cluster, and of its processes from outside; writes down who stands still, and what is full.

    One after the other, so that nobody is mistaken.
    """

    def __init__(self, admin: Access, chronicle: Chronicle, rng: random.Random) -> None:
        self._admin, self._chronicle = admin, chronicle
        self._live = LiveInjector(admin, rng)
        self._lock = asyncio.Lock()
        self.slowest_s = 0.0

    def refusal(self, fault: Fault) -> str:
        own = isinstance(fault, FullDisk) or (isinstance(fault, Stop) and fault.target == THE_PROCESS)
        return "" if own else self._live.refusal(fault)

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        match fault:
            case FullDisk(target):
                return self._fill(target)
            case Stop(target) if target == THE_PROCESS:
                await self._lock.acquire()
                os.kill(process_of(self._admin, ""), signal.SIGSTOP)
                self._chronicle.began("the process", "the whole process stands still", (), AT_ONCE_S)
                return (target.name,)
        async with self._lock:
            before = self._chronicle.now()
            hit = await self._live.begin(fault)
            self.slowest_s = max(self.slowest_s, self._chronicle.now() - before)
            for victim in hit:
                if isinstance(fault, Kill):
                    self._chronicle.ended(victim, before)
                elif isinstance(fault, Stop):
                    self._stopped(victim)
        return hit

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        for name in hit:
            match fault:
                case FullDisk():
                    await self._empty(name)
                case Stop() if name == THE_PROCESS.name:
                    await self._thaw()
                case Stop():
                    await self._continue(name)

    async def _continue(self, name: str) -> None:
        await self._chronicle.told(name)
        async with self._lock:
            self._chronicle.ended(name)
            try:
                await self._live.begin(Continue(Target(name=name)))
            except ClusterError:
                pid = process_of(self._admin, name)
                if not pid:
                    raise
                os.kill(pid, signal.SIGCONT)

    async def _thaw(self) -> None:
        try:
            await self._chronicle.told("the process")
        finally:
            self._chronicle.ended("the process")
            os.kill(process_of(self._admin, ""), signal.SIGCONT)
            self._lock.release()

    def _stopped(self, victim: str) -> None:
        names = (victim, *self._admin.state.topology.get(victim).nodes)
        self._chronicle.began(victim, f"{victim} stands still", names, AT_ONCE_S)

    def _fill(self, target: Target) -> tuple[str, ...]:
        """The process that can write no file any more; none when there is none."""
        pid = process_of(self._admin, target.name)
        if not pid:
            return ()
        processes.fill_disk(pid)
        if target == THE_PROCESS:
            self._chronicle.began("the disk", "no file can be written", (), AT_ONCE_S)
        return (target.name,)

    async def _empty(self, name: str) -> None:
        try:
            if name == THE_PROCESS.name:
                await self._chronicle.told("the disk")
        finally:
            if name == THE_PROCESS.name:
                self._chronicle.ended("the disk")
            if pid := process_of(self._admin, name):
                processes.free_disk(pid)


class Faults:
    """The faults of a plan. `run` does everything at its time. In the end nothing of it lasts."""

    def __init__(
        self, admin: Access, cluster: Cluster, maps: ConfigMaps, rng: random.Random, say: Callable[[str], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.chronicle = Chronicle(lambda: loop.time() - began)
        self.injector = StormInjector(admin, self.chronicle, rng)
        self.wanted = {resource: replicas for resource, (_, replicas) in WORKLOADS.items()}
        self.in_vain: list[str] = []
        self._admin, self._cluster, self._maps, self._rng, self._say = admin, cluster, maps, rng, say
        self._runner = Runner(self.injector, lambda: unhealthy(admin), rng, self._told)

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
            case fault:
                await self._runner.run([fault])

    def calm(self) -> None:
        """Whatever happened to the acts themselves, nobody stands still and every disk can be written."""
        for pid in processes_of(self._cluster):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
            processes.free_disk(pid)
