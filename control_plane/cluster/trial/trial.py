"""One trial, from the workload to the verdict. However it ends, what it broke is healed, what it made is deleted."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.chaos import PATIENCE_S, LiveInjector
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.hands import ApiHands, placed
from rayplane.control_plane.cluster.readiness import client_ssl
from rayplane.control_plane.cluster.recording import Moments, Recorder
from rayplane.control_plane.cluster.replicas import Replicas
from rayplane.control_plane.cluster.scenario import Runner, Scenario, in_time, unhealthy
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.cluster.trial.etcd_promises import EtcdPromises
from rayplane.control_plane.cluster.trial.front import Front
from rayplane.control_plane.cluster.trial.journal import Broken, Journal, turn
from rayplane.control_plane.cluster.trial.living import delete_orphans, place_of
from rayplane.control_plane.cluster.trial.observers import Observers
from rayplane.control_plane.cluster.trial.probes import CONFIG_MAPS, LABEL, NAMESPACE, ApiUser, AppUser
from rayplane.control_plane.cluster.trial.replica_watch import ReplicaWatch
from rayplane.control_plane.cluster.trial.verdict import Struck, Verdict, failed_expectation
from rayplane.control_plane.cluster.trial.workload import GONE_S, Caller, Made, Workload, delete_left
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.steps import ACTORS, CLUSTER, Condition, Timed
from rayplane.control_plane.faults.vocabulary import (
    Fault,
    ends,
    is_made_up_for,
    is_of_replicas,
    lasts,
)
from rayplane.control_plane.invariants import Judge, Make, Violation
from rayplane.control_plane.invariants.catalogue import BUILTIN
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait

POLL_S = 0.05
BEGIN_S = 60.0
SETTLE_S = 60.0
EVENTS_MAX = 2000
CLIENT = "rayplane-trial-"
"""Begins the names of clients of the REST face, and of their objects."""
SILENT = "etcd does not answer; see `rayplane status`"
TURN_S = 30.0
"""For others who try or heal, before a trial begins, or healing."""
KEPT = "lost replicas rebuilt, their bytes kept"

Say = Callable[[str], None]
T = TypeVar("T")


class TrialInjector:
    """A live injector that writes down what it breaks before it does, and what became of it."""

    def __init__(
        self,
        live: LiveInjector,
        journal: Journal,
        now: Callable[[], float],
        replicas: ReplicaWatch,
        tell: Callable[[Struck], None] = lambda struck: None,
    ) -> None:
        """`tell` hears of a fault right before it happens."""
        self._replicas = replicas
        self.struck: list[Struck] = []
        self._tell = tell
        self._live = live
        self._journal = journal
        self._now = now
        self._open: list[tuple[Broken, Struck]] = []

    def refusal(self, fault: Fault) -> str:
        return self._live.refusal(fault)

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        hit = await self._live.chosen(fault)
        held = await self._replicas.acknowledged(hit) if is_of_replicas(fault) else {}
        broken = Broken(fault, hit)
        if broken_until_ended := lasts(fault):
            await self._live.breaks(fault, hit)
            self._journal.breaks(broken)
        # What was to be written down first is none of its time.
        struck = Struck(as_step(fault), hit, self._now())
        if broken_until_ended:
            self._open.append((broken, struck))
        self._tell(struck)
        try:
            await self._live.inflict(fault, hit)
        except ClusterError:
            # It may have happened all the same, or to some of them.
            if broken_until_ended:
                with contextlib.suppress(ClusterError):
                    await self.end(fault, hit)
            raise
        finally:
            self._replicas.watch(held)
        self.struck.append(struck)
        if not broken_until_ended or is_made_up_for(fault):
            struck.ended_s = self._now()
        for one, _ in [*self._open]:
            if ends(fault, hit, one.fault, one.hit):
                await self._over(one)
        return hit

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        await self._live.end(fault, hit)
        await self._over(Broken(fault, hit))

    async def _over(self, broken: Broken) -> None:
        for one in [pair for pair in self._open if pair[0] == broken]:
            self._open.remove(one)
            self._journal.healed(broken)
            if one[1].ended_s is None:
                one[1].ended_s = self._now()
            await self._live.healed(broken.fault, broken.hit)

    async def heal(self) -> list[str]:
        """End all that lasts; what of it could not be ended."""
        failed = await self._journal.heal(self)
        for _, struck in self._open:
            struck.ended_s = self._now() if struck.ended_s is None else struck.ended_s
        self._open = []
        return failed


@dataclass(frozen=True, slots=True)
class Load:
    """The clients of the REST face beside a trial: each reads, and writes, and waits for so long in between."""

    users: int = 1
    every_s: float = 0.1


class Trial:
    """A trial of one cluster; made for one run. `checks`: of the user, beside those that hold of every cluster.

    `breaks` makes the injector.
    """

    def __init__(
        self,
        admin: Access,
        scenario: Scenario,
        seed: int,
        say: Say,
        checks: Iterable[tuple[str, Make]] = (),
        *,
        load: Load = Load(),
        breaks: Callable[[Access, random.Random], LiveInjector] = LiveInjector,
        keep: bool = False,
        caller: Caller | None = None,
    ) -> None:
        """`keep`: what the scenario makes stays. `caller`: who makes, changes and deletes it; None: who has access."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        rng = random.Random(seed)
        self.now = lambda: loop.time() - began
        self._admin, self._scenario, self._say = admin, scenario, say
        self.judge = Judge([*BUILTIN, *checks], self._violated)
        self._verdict = Verdict(scenario=scenario.name, seed=seed, cluster=admin.state.config.name)
        self._journal = Journal(admin.directory)
        self._replicas = ReplicaWatch(Replicas(admin.api, admin.network), self._bytes_lost, self.tell)
        live = breaks(admin, rng)
        self._injector = TrialInjector(live, self._journal, self.now, self._replicas, self._strikes)
        self._observers = Observers(admin, self.judge, self.now, self._unhealthy)
        self._moments = Moments(self.judge.history)
        self._recorder = Recorder(admin.etcd, self.judge, self.now, self._moments.changed)
        # Not of the seed: who knows a name before it is taken may take it.
        token = secrets.token_hex(8)
        self._promises = EtcdPromises(admin, self.judge.add, self.now, self._members, token)
        name = f"{CLIENT}{token}"
        self._users = [self._new_user(f"{name}-{number}", load.every_s) for number in range(load.users)]
        self._workload = Workload(admin.directory, caller, live.makes)
        manifests = [placed(obj) for obj in scenario.workload]
        self._app = AppUser(self.judge.history, manifests, self.now)
        user = admin.api if caller is None else caller.by(admin.api)
        hands = ApiHands(user, self.judge.history, None if keep else self._workload)
        self._runner = Runner(self._injector, lambda: unhealthy(admin), rng, self.tell, hands)
        self._hands = hands
        self._writing: list[asyncio.Task[None]] = []
        self._came: set[Timed] = set()

    def _new_user(self, name: str, every_s: float) -> ApiUser:
        return ApiUser(Front(client_ssl(self._admin.shown()), self._front_door), self.judge, self.now, name, every_s)

    def _front_door(self) -> str:
        """Where the load balancer was when last looked at."""
        return self._observers.topology.of(Role.LOAD_BALANCER)[0].endpoint("https")

    def _strikes(self, fault: Struck) -> None:
        for user in self._users:
            user.strike(fault)
        hit = [self._observers.topology.get(name) for name in fault.hit if self._observers.topology.has(name)]
        self._app.strike(fault, {node for instance in hit for node in instance.nodes})

    async def run(self) -> Verdict:
        """Raises UsageError before anything is done when the scenario asks for what cannot be here, and ClusterError
        when the cluster does not answer at first, or is put to another trial or broken by an earlier one for long."""
        self._runner.check(self._scenario.all_faults())
        async with turn(self._admin.directory, TURN_S, whole=True):
            if left := await self._workload.left(self._admin.api):
                self.tell(f"earlier trials have left {len(left)} objects, such as {left[0]}")
            return await self._run()

    async def _run(self) -> Verdict:
        try:
            await self._promises.begin()
        except RpcError as e:
            raise ClusterError(SILENT) from e
        try:
            async with self._watched():
                try:
                    await self._take_steps()
                except ClusterError as e:
                    self._failed(str(e))
                finally:
                    await self._heal()
                await self._settle()
        finally:
            await to_its_end(self._clean_up())
        return self._told()

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """Record while the body runs."""
        writing: list[Coroutine[Any, Any, None]] = [
            *(user.write_for_ever() for user in self._users),
            *self._promises.writing(),
        ]
        watching: list[Coroutine[Any, Any, None]] = [
            self._recorder.run(),
            self._observers.members(),
            self._observers.caches(),
            self._observers.look_at_health(),
            *(user.read_for_ever() for user in self._users),
            *self._promises.watching(),
            self._app.run(),
        ]
        self._writing = [asyncio.create_task(one) for one in writing]
        tasks = [asyncio.create_task(one) for one in watching]
        try:
            try:
                await asyncio.wait_for(self._recorder.begun.wait(), BEGIN_S)
            except TimeoutError as e:
                raise ClusterError(SILENT) from e
            yield
        finally:
            await self._stop_writing()
            for track in (*(user.reads for user in self._users), self._app.track):
                track.end(self.now())
            await self._stop(tasks)

    async def _stop_writing(self) -> None:
        if self._writing:
            for user in self._users:
                user.writes.end(self.now())
            await self._stop(self._writing)
            self._writing = []

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            self._failed_by(task)
            await cancel_and_wait(task)

    async def _take_steps(self) -> None:
        for obj in self._scenario.workload:
            self.tell(f"apply {obj['kind']} {obj['metadata']['name']}")
            await self._hands.apply(obj)
        beside = [asyncio.create_task(self._beside(timed)) for timed in self._scenario.faults]
        try:
            await self._runner.run(self._scenario.steps)
            rest_s = self._scenario.duration_s - self.now()
            if rest_s > 0:
                self.tell(f"go on for {rest_s:.0f} s")
                await asyncio.sleep(rest_s)
        finally:
            for timed, task in zip(self._scenario.faults, beside, strict=True):
                if not task.done() and timed.every_s is None and timed not in self._came:
                    self._in_vain(timed.fault, "its time did not come")
                self._failed_by(task)
                await cancel_and_wait(task)

    def _failed_by(self, task: asyncio.Task[None]) -> None:
        """A part of the trial that failed makes all of it fail."""
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            self._failed(f"the trial itself failed: {type(error).__name__}: {error}")

    def _in_vain(self, fault: Fault, why: str) -> None:
        self._verdict.in_vain.append(f"{as_step(fault)}: {why}")
        self.tell(f"in vain: {as_step(fault)}: {why}")

    async def _beside(self, timed: Timed) -> None:
        """A fault beside the steps, at its time."""

        async def strike() -> None:
            self._came.add(timed)
            try:
                await self._runner.strike(timed.fault)
            except ClusterError as e:
                self._in_vain(timed.fault, str(e))

        await in_time(timed, self._until, strike)

    async def _until(self, condition: Condition) -> None:
        """What is true for a moment only is seen, where it is of objects."""
        if condition.kind in (CLUSTER, ACTORS):
            while await self._runner.missing(condition) is not None:
                await asyncio.sleep(POLL_S)
            return
        await self._moments.until(condition)

    async def _heal(self) -> None:
        """Until it is done, also when the run is cancelled meanwhile, however often."""
        failed = await to_its_end(self._injector.heal())
        for why in failed:
            self._failed(f"not healed: {why}")
        self.tell("everything that was broken is healed" if not failed else "not everything could be healed")

    async def _settle(self) -> None:
        """Wait until nothing is missing that may still come right, and have everything judged.

        Nobody writes any more: what is judged is all that there will be.
        """
        await self._stop_writing()
        self.tell("come to rest")
        deadline = self.now() + SETTLE_S
        while (why := await self._restless()) and self.now() < deadline:
            await asyncio.sleep(POLL_S * 10)
        if why:
            self.tell(f"not at rest after {SETTLE_S:.0f} s: {why}")
            if behind := await self._unrecorded():
                self._failed(f"what was judged in the end may be wrong: {behind}")
        self.judge.finished(self.now())
        for why in await self._promises.finish():
            self._failed(why)
        for expected in self._scenario.expect:
            if isinstance(expected, Condition):
                self._verdict.expected.append((str(expected), await self._runner.missing(expected) or ""))

    async def _restless(self) -> str:
        if why := await self._unrecorded() or await self._observers.look():
            return why
        return "; ".join([*self.judge.unsettled(), *self._promises.untold()])

    async def _unrecorded(self) -> str:
        try:
            return "" if await self._recorder.is_current() else "etcd has more than was recorded"
        except RpcError as e:
            return str(e)

    async def _clean_up(self) -> None:
        try:
            for left in await self._workload.delete(self._admin.api):
                self._failed(f"the trial's own objects are left: {left}")
        except ClusterError as e:
            self._failed(f"the trial's own objects are left: {e}")
        for clean_up in (*(user.clean_up for user in self._users), self._promises.clean_up):
            try:
                await clean_up()
            except (ApiError, RpcError) as e:
                self._failed(f"the trial's own objects are left: {e}")

    def _told(self) -> Verdict:
        verdict, end_s = self._verdict, self.now()
        verdict.seconds = end_s
        looked = self._promises.looked | {KEPT: self._replicas.judged}
        found: dict[str, list[str]] = {name: [] for name in [*self.judge.counts, *looked]}
        for violation in self.judge.violations:
            found[violation.invariant].append(f"{violation.at_s:.1f} s: {violation.text}")
        verdict.invariants, verdict.unseen = found, self.judge.unseen()
        verdict.unseen += [name for name, times in looked.items() if not times]
        verdict.faults = self._injector.struck
        self._observers.health.judge(verdict.faults, end_s)
        verdict.unhealthy = self._observers.health.spans(end_s)
        asked = [track for user in self._users for track in (user.reads, user.writes)]
        verdict.tracks = [*asked, *([self._app.track] if self._app.parts else [])]
        for expected in self._scenario.expect:
            if not isinstance(expected, Condition):
                wrong = failed_expectation(expected, verdict.tracks, verdict.faults)
                verdict.expected.append((str(expected), wrong))
        return verdict

    async def _unhealthy(self) -> str:
        return await self._replicas.missing() or await unhealthy(self._admin)

    def _members(self) -> tuple[str, ...]:
        return self._observers.topology.endpoints(Role.MEMBER, "client")

    def _bytes_lost(self, text: str) -> None:
        self.judge.add(KEPT, text)

    def _violated(self, violation: Violation) -> None:
        self.tell(f"VIOLATION of {violation.invariant}: {violation.text}")

    def _failed(self, text: str) -> None:
        self._verdict.errors.append(text)
        self.tell(f"error: {text}")

    def tell(self, text: str) -> None:
        """Something happened."""
        if len(self._verdict.events) < EVENTS_MAX:
            self._verdict.events.append((round(self.now(), 3), text))
        self._say(f"{self.now():7.1f} s  {text}")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What comes of work that is done before any cancellation of who waits for it counts."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as e:
            cancelled = e
    found = task.result()
    if cancelled is not None:
        raise cancelled
    return found


async def heal(
    admin: Access,
    refused: set[Made] | None = None,
    *,
    within_s: float = GONE_S,
    turn_s: float = TURN_S,
    patience_s: float = PATIENCE_S,
) -> tuple[list[str], list[str]]:
    """End what an earlier trial left broken: what that was, and what of it could not be ended.

    What it made and what its clients wrote goes too, but for what its caller may not delete, which `refused` then has.
    Raises ClusterError while a trial goes on for so long; another one may begin while objects are waited for.
    """
    async with turn(admin.directory, turn_s):
        journal = Journal(admin.directory)
        left = [str(broken) for broken in journal.read()]
        failed = await journal.heal(LiveInjector(admin, random.Random(), patience_s=patience_s))
        try:
            await _delete_written(admin)
        except (ApiError, RpcError) as e:
            failed.append(f"objects of an earlier trial: {e}")
    try:
        objects = await delete_left(admin.directory, admin.api, set() if refused is None else refused, within_s)
    except ClusterError as e:
        objects = [str(e)]
    return left, [*failed, *(f"objects of an earlier trial: {one}" for one in objects)]


async def _delete_written(admin: Access) -> None:
    """Delete what clients of trials wrote that live no more, wherever they were started. Raises ApiError, RpcError."""
    # Those that are there before it is known who lives: who begins then writes later.
    written = (await admin.api.list(CONFIG_MAPS, NAMESPACE, label_selector=LABEL)).items
    living = await delete_orphans(admin.etcd, place_of(admin.directory))
    for name in map(meta.name, written):
        # Anybody who may change an object can put a label on it, but nobody gives it another name.
        if name.startswith(CLIENT) and name.removeprefix(CLIENT).partition("-")[0] not in living:
            with contextlib.suppress(NotFound):
                await admin.api.delete(CONFIG_MAPS, name, NAMESPACE)
