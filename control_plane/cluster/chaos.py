"""Faults of a running cluster, through its supervisor: signals to actors, the weather between them, pods deleted."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.flood import flood
from rayplane.control_plane.cluster.lost_machines import BACK_S, LostMachines
from rayplane.control_plane.cluster.own_ray import OwnRay
from rayplane.control_plane.cluster.patience import RETRY_S, Patience, slowdown
from rayplane.control_plane.cluster.supervisor.standing import OF_TRIALS
from rayplane.control_plane.cluster.victims import NAMESPACE, called, victims
from rayplane.control_plane.cluster.weather import OF_MACHINES, OF_NETWORK, OfMachines, Weather, after, told_of, without
from rayplane.control_plane.faults import injector
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.vocabulary import (
    OBJECTS,
    POD,
    RAY,
    SUPERVISOR,
    ClockJump,
    Continue,
    Cut,
    ExpireCertificate,
    Fault,
    Flood,
    FullDisk,
    Heal,
    Kill,
    LoseMachine,
    Partition,
    Reset,
    SlowDisk,
    SlowNetwork,
    StalledDisk,
    Stop,
    Target,
    is_of_replicas,
)
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import chaos_pb2
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.replicas import Replicas

KILL_TIMEOUT_S = 60.0
PATIENCE_S = 10.0
"""Of fair time, in which the end of a fault is tried: Ray may be busy, or who is to go on may be started anew."""
HOLDS_S = 30.0
"""What a command has broken holds for so long after its process was killed."""
SIGNALS: dict[type[Fault], str] = {Kill: "KILL", Stop: "STOP", Continue: "CONT"}
CLOCK_S = 1800.0
"""How far a clock may be off: a certificate that is made meanwhile must hold by the right time too."""


class LiveInjector:
    """An injector that does faults to a real cluster through its supervisor; whom chance hits is drawn from `rng`.

    `standing`: the supervisor's own, whose weather is apart from that of commands. `patience_s`: 0 for who tries again
    by itself what could not be ended.
    """

    def __init__(
        self, admin: Access, rng: random.Random, *, standing: bool = False, patience_s: float = PATIENCE_S
    ) -> None:
        self._admin = admin
        self._is_standing = standing
        self._patience_s = patience_s
        self._rng = rng
        self._weather: Weather = ()
        """What holds now."""
        self._ray = OwnRay(admin)
        self._machines = LostMachines(admin)
        self._telling = asyncio.Lock()
        self._floods: dict[Fault, list[asyncio.Task[None]]] = {}
        """They end with this process at the latest, as does who tells of the weather."""
        self._renewing: asyncio.Task[None] | None = None

    @property
    def _replicas(self) -> "Replicas":
        # With it come the drivers of volumes, which few commands need.
        from rayplane.control_plane.cluster.replicas import Replicas

        return Replicas(self._admin.api, self._admin.network)

    @property
    def _in_one_process(self) -> bool:
        return bool(self._admin.state.config.host == PROCESS)

    def refusal(self, fault: Fault) -> str:
        target: Target | None = getattr(fault, "target", None)
        if isinstance(fault, LoseMachine):
            why = self._machines.refusal(fault)
            return f"{as_step(fault)}: {why}" if why else ""
        if target is not None and target.name in RAY:
            return self._refused_to_ray(fault)
        if isinstance(fault, Kill) and fault.back_s is not None:
            return "kill: on a live cluster the supervisor decides when an actor comes back"
        if isinstance(fault, Stop | Continue) and self._in_one_process:
            return f"{as_step(fault)}: in one process an actor can only be killed; use --host ray"
        if isinstance(fault, ClockJump | SlowDisk | StalledDisk | ExpireCertificate) and (
            why := _refused_of_machine(fault)
        ):
            return f"{as_step(fault)}: {why}"
        if isinstance(fault, Stop | Continue) and target == Target(name=SUPERVISOR):
            return f"{as_step(fault)}: who continues goes through the supervisor; it can be killed"
        if target is not None and target.role in OBJECTS and not isinstance(fault, Kill):
            return f"{as_step(fault)}: a {target.role} can only be killed"
        return injector.refusal(fault, (*SIGNALS, *OF_NETWORK, *OF_MACHINES, Flood))

    def _refused_to_ray(self, fault: Fault) -> str:
        if self._in_one_process:
            return f"{as_step(fault)}: without Ray there is none; use --host ray"
        if not self._ray.is_here:
            return f"{as_step(fault)}: only on the machine where `rayplane up` has started Ray"
        if isinstance(fault, Kill | Stop | Continue):
            return ""
        return f"{as_step(fault)}: Ray's own processes can be killed, and stopped for a while"

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        return tuple(name for name, _ in await self.strike(fault))

    async def strike(self, fault: Fault) -> list[tuple[str, int]]:
        """Those hit, with their process ids: 0 of one that has no process of its own. Raises ClusterError when nobody
        can be hit now, UsageError when nobody ever can."""
        hit = await self.chosen(fault)
        known = self._admin.topology
        try:
            return await self.inflict(fault, hit)
        except UsageError as e:
            now = await current_topology(self._admin)
            if any(known.has(name) and not now.has(name) for name in hit):
                raise ClusterError(f"who was chosen has gone meanwhile: {e}") from e
            raise

    async def chosen(self, fault: Fault) -> tuple[str, ...]:
        """Whom the fault would hit now; raises as `strike` does."""
        match fault:
            case Partition(groups):
                return await called(self._admin, [host for group in groups for host in group])
            case Cut(sources, sinks):
                return await called(self._admin, [*sources, *sinks])
            case Heal() | SlowNetwork() | Flood():
                return ()
        with _told(fault):
            if isinstance(fault, LoseMachine):
                return await self._machines.chosen(fault.target, self._rng)
            if fault.target.name in RAY:  # type: ignore[union-attr]
                return (fault.target.name,)  # type: ignore[union-attr]
            if is_of_replicas(fault):
                return await self._replicas.chosen(fault.target, self._rng)  # type: ignore[union-attr]
            return await victims(self._admin, fault.target, self._rng)  # type: ignore[union-attr]

    async def inflict(self, fault: Fault, names: Sequence[str]) -> list[tuple[str, int]]:
        """Let the fault happen to these; raises as `strike` does."""
        with _told(fault):
            if isinstance(fault, OF_NETWORK) or self._troubles(fault):
                reset = names if isinstance(fault, Reset) else ()
                await self._disturb(lambda weather: after(weather, fault, names), reset)
                return [(name, 0) for name in names]
            if isinstance(fault, Flood):
                self._floods.setdefault(fault, []).append(asyncio.create_task(self._flood(fault)))
                return []
            if isinstance(fault, LoseMachine):
                await self._machines.lose(names, fault.for_s)
                return [(name, 0) for name in names]
            if isinstance(fault, FullDisk):
                return [(name, self._fill(name)) for name in names]
            return [(name, await self._kill(fault, name)) for name in names]

    def _troubles(self, fault: Fault) -> bool:
        """Whether it is one of machines that actors are told of. A process of its own is limited by the kernel."""
        return isinstance(fault, OF_MACHINES) and (self._in_one_process or not isinstance(fault, FullDisk))

    async def _kill(self, fault: Fault, name: str) -> int:
        if is_of_replicas(fault):
            await self._replicas.lose(name)
            return 0
        if fault.target.role == POD:  # type: ignore[union-attr]
            return await self._delete(name)
        return await self._signal(name, SIGNALS[type(fault)])

    async def _signal(self, name: str, signal: str) -> int:
        if name in RAY:
            return await self._ray.signal(name, signal)
        request = pb.KillRequest(name=name, signal=signal)
        pid = self._process(name) if name == SUPERVISOR and not self._in_one_process else 0
        try:
            answer = await self._admin.supervisor.Kill(request, timeout=KILL_TIMEOUT_S)
        except RpcError as e:
            if name == SUPERVISOR and e.code in (Code.UNAVAILABLE, Code.CANCELLED):
                return pid  # it died of it, before it could say so
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

    async def _flood(self, fault: Flood) -> None:
        """It ends at its time even where whoever began it cannot end it any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(fault.for_s or None):
                api = self._admin.api
                await flood(self._admin.network, lambda: api.endpoints.addresses, fault.rate)

    async def _disturb(self, change: Callable[[Weather], Weather], reset: Sequence[str] = ()) -> None:
        """The supervisor is told the whole weather each time: whoever broke what, it is as the last command said."""
        async with self._telling:
            weather = change(self._weather)
            await self._tell(weather, reset)
            self._weather = weather
        if not weather:
            await cancel_and_wait(self._renewing)
        elif not self._is_standing and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.create_task(self._renew())

    async def _tell(self, weather: Weather, reset: Sequence[str] = ()) -> None:
        holds_s = 0.0 if self._is_standing or not weather else HOLDS_S
        told = told_of(weather, reset, standing=self._is_standing, holds_s=holds_s)
        await self._admin.supervisor.Disturb(told, timeout=KILL_TIMEOUT_S)

    async def _renew(self) -> None:
        """While something of it lasts: were this process killed, it would be over soon. A new supervisor is told so."""
        while self._weather:
            await asyncio.sleep(HOLDS_S / 3)
            async with self._telling:
                with contextlib.suppress(RpcError):
                    await self._tell(self._weather)

    async def breaks(self, fault: Fault, hit: tuple[str, ...]) -> None:
        """A trial is about to inflict what lasts, until `end` or another fault ends it. Raises ClusterError."""

    async def makes(self, made: Sequence[Any]) -> None:
        """A trial is about to make the last of these, or has deleted some. Raises ClusterError."""

    async def healed(self, fault: Fault, hit: tuple[str, ...]) -> None:
        """That is over."""

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        match fault:
            case Stop():
                await self._go_on(hit)
            case Flood() if fault in self._floods:
                await cancel_and_wait(self._floods[fault].pop(0))  # the first to end
                if not self._floods[fault]:
                    del self._floods[fault]
            case LoseMachine():
                await self._patiently(lambda: self._recall(fault, hit), BACK_S)
            case FullDisk() if not self._in_one_process:
                for pid in filter(None, map(self._process, hit)):
                    processes.free_disk(pid)
            case _ if isinstance(fault, (Partition, Cut, SlowNetwork, *OF_MACHINES)):
                await self._patiently(lambda: self._clear_up(fault, hit))

    async def _recall(self, fault: LoseMachine, hit: tuple[str, ...]) -> None:
        with _told(fault):
            await self._machines.recall(hit)

    async def _clear_up(self, fault: Fault, hit: tuple[str, ...]) -> None:
        with _told(fault):
            await self._disturb(lambda weather: without(weather, fault, hit))

    async def _go_on(self, names: Sequence[str]) -> None:
        """Whose process stood still; one that cannot go on now holds up no other."""
        done = await asyncio.gather(*map(self._continue, names), return_exceptions=True)
        for failed in done:
            if failed is not None:
                raise failed

    async def _continue(self, name: str) -> None:
        with contextlib.suppress(UsageError):  # its place in the cluster is gone, and its process with it
            await self._patiently(lambda: self.inflict(Continue(Target(name=name)), (name,)))

    async def _patiently(self, attempt: Callable[[], Awaitable[Any]], longer_s: float = 0.0) -> None:
        """`longer_s`: for what takes its time, where anything is waited for. Raises ClusterError."""
        loop = asyncio.get_running_loop()
        patience = Patience(max(self._patience_s, longer_s if self._patience_s else 0.0), loop.time())
        while True:
            try:
                await attempt()
                return
            except UsageError:
                raise
            except ClusterError:
                patience.passed(loop.time(), slowdown())
                if patience.over:
                    raise
            await asyncio.sleep(RETRY_S)


async def heal_standing(faults: Any) -> tuple[list[chaos_pb2.ActiveFault], list[chaos_pb2.ActiveFault]]:
    """End the faults that stand but trials' own: what is over, and what is not yet, though it was waited for.

    `faults`: a stub of rayplane.v1.Chaos. Raises RpcError.
    """
    loop = asyncio.get_running_loop()
    patience, over = Patience(BACK_S, loop.time()), list[chaos_pb2.ActiveFault]()
    while True:
        told = await faults.Heal(chaos_pb2.HealRequest(), timeout=KILL_TIMEOUT_S)
        over += told.healed
        patience.passed(loop.time(), slowdown())
        if patience.over or all(one.id.startswith(OF_TRIALS) for one in told.left):
            return over, [*told.left]
        await asyncio.sleep(RETRY_S)


async def end_standing(faults: Any, id: str) -> chaos_pb2.ActiveFault:
    """End one before its time; what it was. What takes its time is waited for.

    `faults`: a stub of rayplane.v1.Chaos. Raises RpcError, also for what does not end.
    """
    loop = asyncio.get_running_loop()
    patience = Patience(BACK_S, loop.time())
    standing = (await faults.List(chaos_pb2.ListFaultsRequest(), timeout=KILL_TIMEOUT_S)).faults
    begun = next((one for one in standing if one.id == id and not id.startswith(OF_TRIALS)), None)
    while True:
        try:
            ended: chaos_pb2.ActiveFault = (await faults.End(chaos_pb2.EndRequest(id=id), timeout=KILL_TIMEOUT_S)).fault
            return ended
        except RpcError as e:
            if begun is not None and e.code is Code.NOT_FOUND:  # the supervisor tries by itself, too
                return begun
            patience.passed(loop.time(), slowdown())
            if begun is None or patience.over:
                raise
        await asyncio.sleep(RETRY_S)


def _refused_of_machine(fault: OfMachines) -> str:
    if fault.target == Target(name=SUPERVISOR):
        what = {ClockJump: "by that clock", ExpireCertificate: "with that certificate"}.get(
            type(fault), "with that disk"
        )
        return f"{what} the supervisor ends what is broken"
    too_far = isinstance(fault, ClockJump) and abs(fault.by_s) > CLOCK_S
    return f"a live cluster's clock can jump by {CLOCK_S:.0f} s at most" if too_far else ""


@contextlib.contextmanager
def _told(fault: Fault) -> Iterator[None]:
    """Say what a call was for that failed."""
    try:
        yield
    except (RpcError, ApiError) as e:
        if isinstance(e, RpcError) and e.code.name == UsageError.code:
            raise UsageError(e.message) from e
        raise ClusterError(f"{as_step(fault)}: {e.message}") from e
