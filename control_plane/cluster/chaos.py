"""Faults of a running cluster, through its supervisor: signals to actors, the weather between them, pods deleted."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Sequence

from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.victims import NAMESPACE, victims
from rayplane.control_plane.faults import injector
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.vocabulary import (
    POD,
    SUPERVISOR,
    Continue,
    Cut,
    Fault,
    FullDisk,
    Heal,
    Kill,
    Partition,
    Reset,
    SlowNetwork,
    Stop,
    Target,
)
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

KILL_TIMEOUT_S = 60.0
SIGNALS: dict[type[Fault], str] = {Kill: "KILL", Stop: "STOP", Continue: "CONT"}
_WEATHER = (Partition, Cut, Heal, Reset, SlowNetwork)
Weather = tuple[Fault, ...]
"""What holds between actors: all partitions, cuts and slowness that began and have not ended."""


class LiveInjector:
    """An injector that does faults to a real cluster through its supervisor; whom chance hits is drawn from `rng`."""

    def __init__(self, admin: Access, rng: random.Random) -> None:
        self._admin = admin
        self._rng = rng
        self._weather: Weather = ()
        """What holds now."""
        self._telling = asyncio.Lock()

    @property
    def _in_one_process(self) -> bool:
        return bool(self._admin.state.config.host == PROCESS)

    def refusal(self, fault: Fault) -> str:
        target: Target | None = getattr(fault, "target", None)
        if isinstance(fault, Kill) and fault.back_s is not None:
            return "kill: on a live cluster the supervisor decides when an actor comes back"
        if isinstance(fault, Stop | Continue) and self._in_one_process:
            return f"{as_step(fault)}: in one process an actor can only be killed; use --host ray"
        if isinstance(fault, _WEATHER) and not self._in_one_process:
            return f"{as_step(fault)}: only between the actors of one process; use --host process"
        if isinstance(fault, FullDisk) and self._in_one_process:
            return f"{as_step(fault)}: in one process all actors have the same files; use --host ray"
        if isinstance(fault, Stop | Continue) and target == Target(name=SUPERVISOR):
            return f"{as_step(fault)}: who continues goes through the supervisor; it can be killed"
        if target is not None and target.role == POD and not isinstance(fault, Kill):
            return f"{as_step(fault)}: a pod can only be killed"
        return injector.refusal(fault, (*SIGNALS, *_WEATHER, FullDisk))

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        return tuple(name for name, _ in await self.strike(fault))

    async def strike(self, fault: Fault) -> list[tuple[str, int]]:
        """Those hit, with their process ids: 0 of one that has no process of its own. Raises ClusterError when nobody
        can be hit now, UsageError when nobody ever can."""
        return await self.inflict(fault, await self.chosen(fault))

    async def chosen(self, fault: Fault) -> tuple[str, ...]:
        """Whom the fault would hit now; raises as `strike` does."""
        match fault:
            case Partition(groups):
                return tuple(host for group in groups for host in group)
            case Cut(sources, sinks):
                return (*sources, *sinks)
            case Heal() | SlowNetwork():
                return ()
        with _told(fault):
            return await victims(self._admin, fault.target, self._rng)  # type: ignore[union-attr]

    async def inflict(self, fault: Fault, names: Sequence[str]) -> list[tuple[str, int]]:
        """Let the fault happen to these; raises as `strike` does."""
        with _told(fault):
            if isinstance(fault, _WEATHER):
                await self._disturb(lambda weather: _with(weather, fault), names if isinstance(fault, Reset) else ())
                return [(name, 0) for name in names]
            if isinstance(fault, FullDisk):
                return [(name, self._fill(name)) for name in names]
            if fault.target.role == POD:  # type: ignore[union-attr]
                return [(name, await self._delete(name)) for name in names]
            return [(name, await self._signal(name, SIGNALS[type(fault)])) for name in names]

    async def _signal(self, name: str, signal: str) -> int:
        request = pb.KillRequest(name=name, signal=signal)
        try:
            answer = await self._admin.supervisor.Kill(request, timeout=KILL_TIMEOUT_S)
        except RpcError as e:
            if name == SUPERVISOR and e.code in (Code.UNAVAILABLE, Code.CANCELLED):
                return 0  # it died of it, before it could say so
            raise
        return 0 if self._in_one_process else int(answer.pid)

    def _fill(self, name: str) -> int:
        pid = self._process(name)
        if not pid:
            raise ClusterError(f"{name} runs on another machine, or not at all: its disk cannot be filled from here")
        with contextlib.suppress(ProcessLookupError):
            processes.fill_disk(pid)
        return pid

    def _process(self, name: str) -> int:
        return processes.read(self._admin.directory.path / "data" / name)

    async def _delete(self, pod: str) -> int:
        with contextlib.suppress(NotFound):
            await self._admin.api.delete("pods", pod, NAMESPACE, grace_period_s=0)
        return 0

    async def _disturb(self, change: Callable[[Weather], Weather], reset: Sequence[str] = ()) -> None:
        """The supervisor is told the whole weather each time: whoever broke what, it is as the last one said."""
        async with self._telling:
            weather = change(self._weather)
            request = _told_of(weather)
            request.reset.extend(reset)
            await self._admin.supervisor.Disturb(request, timeout=KILL_TIMEOUT_S)
            self._weather = weather

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        match fault:
            case Stop():
                await self._go_on(hit)
            case FullDisk():
                for pid in filter(None, map(self._process, hit)):
                    processes.free_disk(pid)
            case Partition() | Cut() | SlowNetwork():
                with _told(fault):
                    await self._disturb(lambda weather: _without(weather, fault))

    async def _go_on(self, names: Sequence[str]) -> None:
        """Whose process stood still; one that cannot go on now holds up no other."""
        failed: ClusterError | None = None
        for name in names:
            try:
                await self.inflict(Continue(Target(name=name)), (name,))
            except UsageError:
                pass  # its place in the cluster is gone, and its process with it
            except ClusterError as e:
                failed = e
        if failed is not None:
            raise failed


def _with(weather: Weather, fault: Fault) -> Weather:
    """The weather after a fault."""
    match fault:
        case Partition() | Cut():
            return (*weather, fault)
        case SlowNetwork(delay_s):
            return (*weather, fault) if delay_s else tuple(f for f in weather if not isinstance(f, SlowNetwork))
        case Heal():
            return tuple(f for f in weather if isinstance(f, SlowNetwork))
    return weather


def _without(weather: Weather, fault: Fault) -> Weather:
    """The weather after the end of a fault; others that are like it go on."""
    if fault not in weather:
        return weather
    at = weather.index(fault)
    return weather[:at] + weather[at + 1 :]


def _told_of(weather: Weather) -> pb.DisturbRequest:
    """Two hosts reach each other when every partition leaves them on one side, and no cut is between them."""
    partitions = [fault.groups for fault in weather if isinstance(fault, Partition)]
    sides: dict[tuple[int, ...], list[str]] = {}
    for host in dict.fromkeys(host for groups in partitions for group in groups for host in group):
        side = tuple(next((n for n, group in enumerate(groups) if host in group), -1) for groups in partitions)
        sides.setdefault(side, []).append(host)
    return pb.DisturbRequest(
        groups=[pb.HostGroup(hosts=hosts) for hosts in sides.values()],
        cuts=[pb.HostCut(sources=one.sources, sinks=one.sinks) for one in weather if isinstance(one, Cut)],
        slow_s=max((one.delay_s for one in weather if isinstance(one, SlowNetwork)), default=0.0),
    )


@contextlib.contextmanager
def _told(fault: Fault) -> Iterator[None]:
    """Say what a call was for that failed."""
    try:
        yield
    except (RpcError, ApiError) as e:
        if isinstance(e, RpcError) and e.code.name == UsageError.code:
            raise UsageError(e.message) from e
        raise ClusterError(f"{as_step(fault)}: {e}") from e
