"""The steps of a scenario, and the conditions that they wait for."""

import asyncio
import itertools
import random
import re
from collections.abc import Callable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.hands import ApiHands
from rayplane.control_plane.cluster.scenario import by_hand, in_time
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults import steps
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.injector import Unsupported, require
from rayplane.control_plane.faults.steps import (
    ACTORS,
    CLUSTER,
    Apply,
    Await,
    Choose,
    Condition,
    Remove,
    Repeat,
    Roll,
    Scale,
    Sleep,
    Timed,
    unfolded,
)
from rayplane.control_plane.faults.vocabulary import Fault
from rayplane.control_plane.invariants.conditions import unmet
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation.cell import run_rng
from rayplane.control_plane.simulation.changes import ChangeFailed, Operator, Storm, Striker
from rayplane.control_plane.simulation.checks import Client
from rayplane.control_plane.simulation.cluster import CLIENT, KUBECTL, SimulatedCluster
from rayplane.control_plane.simulation.injector import CellInjector
from rayplane.control_plane.simulation.loop import sleep_until
from rayplane.control_plane.simulation.plan import Plan, Strike
from rayplane.control_plane.simulation.points import Points
from rayplane.control_plane.simulation.scenario import CHANGEABLE, NOT_FAULTS, Change, Rage, Scenario, Step
from rayplane.control_plane.tasks import cancel_and_wait

Progress = Callable[[str], None]

POLL_S = 0.2
_NEW = re.compile(rf"({'|'.join(CHANGEABLE)})-[0-9]+")
STEPS_MAX = 10_000


class StepFailed(Exception):
    """A step of the scenario could not be done, or what it waited for did not come."""


class Script:
    """The steps of one run, done in order by its user. With a plan, faults and storms are what that says."""

    def __init__(
        self,
        scenario: Scenario,
        cluster: SimulatedCluster,
        client: Client,
        *,
        seed: int,
        plan: Plan | None = None,
        beside: tuple[Strike, ...] = (),
    ) -> None:
        """`beside`: what strikes besides the scenario's faults or the plan's."""
        self._besides = beside
        self._scenario = scenario
        self._cluster = cluster
        self._client = client
        self._trace = cluster.trace
        self._seed = seed
        self._rng = run_rng(seed, "steps")
        self._plan = plan
        # The whole is unfolded, so that chance chooses as in the run that the plan was taken from.
        whole, limit = _unfolded(scenario, self._rng), plan.steps if plan is not None else None
        self._steps, self._duration_s = whole[:limit], scenario.duration_s if limit is None else 0.0
        self._injector = CellInjector(cluster)
        self._operator = Operator(cluster)
        self.striker = Striker(self._injector, self._operator, cluster.trace)
        self._striking: list[asyncio.Task[None]] = []

    def check(self) -> None:
        """Before anything runs: its faults can be done here, and names in the scenario are of actors of its cluster."""
        changes = False
        for timed in self._scenario.faults:
            self._check_faults([timed.fault])
            self._injector.check_names(timed.fault)
        for step in self._steps:
            if isinstance(step, Change | Rage):
                # From here on there may be others.
                if isinstance(step, Change) and step.action != "add" and not changes:
                    self._cluster.topology.get(step.target)
                changes = True
            if isinstance(step, Rage):
                self._check_faults([one for one in step.of if not isinstance(one, Change)])
            elif not isinstance(step, NOT_FAULTS):
                self._check_faults([step])
                self._injector.check_names(step)
        if self._plan is not None:
            self._check_faults([s.what for s in self._plan.strikes if not isinstance(s.what, Change)])

    def check_process(self, name: str) -> None:
        """Raise UsageError for a name that no process of the run has or may get."""
        there = {*self._cluster.processes, CLIENT, KUBECTL}
        if name not in there and not (_NEW.fullmatch(name) and self._adds()):
            raise UsageError(f"no {name!r:.60}; there are {', '.join(sorted(there))}")

    def _adds(self) -> bool:
        """Whether there may be others than at the beginning."""
        struck = [strike.what for strike in self._plan.strikes] if self._plan is not None else []
        return any(isinstance(one, Change | Rage) for one in [*self._steps, *struck])

    @property
    def points(self) -> Points:
        """The failpoints of the run."""
        return self._injector.points

    async def volumes_are_whole(self) -> bool:
        """Whether each volume that lost a replica has it again."""
        return await self._injector.volumes_are_whole()

    def calm(self) -> None:
        """Faults are over: from here on all must come right."""
        self._injector.calm()

    def _check_faults(self, faults: list[Fault]) -> None:
        try:
            require(self._injector, faults)
        except Unsupported as e:
            raise UsageError(str(e)) from e

    async def run(self, progress: Progress) -> None:
        """All steps, and the rest of the run's time. Raises StepFailed."""
        loop = asyncio.get_running_loop()
        if self._scenario.workload:
            await self._step(0, Apply(self._scenario.workload))
        beside = [loop.create_task(self._beside(timed)) for timed in self._scenario.faults if self._plan is None]
        try:
            await self._take_steps(progress)
            rest = self._duration_s - loop.time()
            if rest > 0:
                progress(f"{loop.time():8.1f} s: idle")
                await asyncio.sleep(rest)
            _raise_failed([*beside, *self._striking])
        finally:
            await cancel_and_wait(*beside)

    async def _take_steps(self, progress: Progress) -> None:
        loop = asyncio.get_running_loop()
        for number, step in enumerate(self._steps):
            progress(f"{loop.time():8.1f} s: {describe(step)}")
            self._trace.event("step", number, describe(step))
            self.striker.begin(number)
            self._strike_beside(number, step)
            await self._step(number, step)

    async def _step(self, number: int, step: Step) -> None:
        try:
            await self._do(number, step)
        except (ApiError, ChangeFailed, ClusterError) as e:
            raise StepFailed(f"steps[{number}] ({describe(step)}): {e}") from e

    async def _beside(self, timed: Timed) -> None:
        """A fault beside the steps, at its time; who is not there then is not hit."""
        await in_time(timed, self._until, lambda: self.striker.attempt(timed.fault))

    async def _until(self, condition: Condition) -> None:
        if condition.kind not in (CLUSTER, ACTORS):
            await self._client.moments.until(condition)
        while condition.kind in (CLUSTER, ACTORS) and await self._missing(condition) is not None:
            await asyncio.sleep(POLL_S)

    def _strike_beside(self, number: int, step: Step) -> None:
        """Begin what strikes while a step is done that is no fault itself, and what a person adds."""
        strikes = tuple(strike for strike in self._besides if strike.step == number)
        if self._plan is not None and isinstance(step, NOT_FAULTS) and not isinstance(step, Rage):
            strikes += self._plan.of(number)
        if strikes:
            self._striking.append(asyncio.get_running_loop().create_task(self.striker.repeat(strikes)))

    async def _do(self, number: int, step: Step) -> None:
        match step:
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Await(condition, within_s):
                await self.wait(condition, within_s)
            case Apply() | Scale() | Roll() | Remove():
                with self._cluster.client.inside():
                    await by_hand(ApiHands(self._client.api, self._client.view), step, self._rng)
            case Change():
                await self._operator.change(step)
            case Rage():
                await self._rage(number, step)
            case _ if self._plan is not None:
                await self.striker.repeat(self._plan.of(number))
            case Repeat() | Choose():
                raise AssertionError("steps are unfolded before")
            case fault:
                await self.striker.strike(fault)

    async def _rage(self, number: int, step: Rage) -> None:
        if self._plan is None:
            storm = Storm(self._cluster, self.striker, run_rng(self._seed, "storm", number))
            await storm.rage(step)
            return
        end = asyncio.get_running_loop().time() + step.for_s
        await self.striker.repeat(self._plan.of(number))
        await sleep_until(end)
        await self.striker.finish()

    async def wait(self, condition: Condition, within_s: float) -> None:
        """Wait for a condition. Raises StepFailed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while (missing := await self._missing(condition)) is not None:
            if loop.time() > deadline:
                raise StepFailed(f"not within {within_s:.0f} s: {condition}; {missing}")
            await asyncio.sleep(POLL_S)

    # Conditions

    async def _missing(self, condition: Condition) -> str | None:
        """Why a condition does not hold; None when it does. As the client sees it."""
        if condition.kind == "cluster":
            return self._cluster_missing()
        if condition.kind == "actors":
            return await self._actors_missing(condition.count)
        return unmet(condition, self._client.view)

    def _cluster_missing(self) -> str | None:
        cluster = self._cluster
        wanted = {n for i in cluster.topology.instances for n in i.nodes}
        ready = {meta.name(n) for n in self._client.objects("nodes") if meta.condition_is(n, "Ready")}
        if wanted - ready:
            return f"{', '.join(sorted(wanted - ready))} not Ready"
        if cluster.leader() is None:
            return "no member leads"
        for role in (Role.SCHEDULER, Role.CONTROLLERS):
            if cluster.in_charge(role) is None:
                return f"no {role.value} leads"
        return None

    async def _actors_missing(self, count: int) -> str | None:
        cluster = self._cluster
        wanted = {i.name for i in cluster.topology.instances}
        running = {name for name, cell in cluster.cells.items() if cell.component is not None}
        if running != wanted:
            return f"running and wanted are not the same: {', '.join(sorted(running ^ wanted))}"
        try:
            with cluster.client.inside():
                listed = (await self._client.etcd.member_list()).members
        except RpcError as e:
            return str(e)
        voters = sorted((m.name, m.isLearner) for m in listed)
        if voters != sorted((i.name, False) for i in cluster.topology.of(Role.MEMBER)):
            return f"members are {voters}"
        return None if count in (0, len(voters)) else f"{len(voters)} do"


def _raise_failed(besides: list[asyncio.Task[None]]) -> None:
    """Raise StepFailed of a fault beside the steps that could not be done."""
    for task in besides:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise StepFailed(f"beside the steps: {type(error).__name__}: {error}") from error


def _unfolded(scenario: Scenario, rng: random.Random) -> tuple[Step, ...]:
    """Its steps one after the other. Raises UsageError when they are too many."""
    found = tuple(itertools.islice(unfolded(scenario.steps, rng), STEPS_MAX + 1))
    if len(found) > STEPS_MAX:
        raise UsageError(f"{scenario.source}: more than {STEPS_MAX} steps")
    return found


def describe(step: Step) -> str:
    """A step in a few words."""
    match step:
        case Change(action, target):
            return f"{action} {target}"
        case Rage(for_s):
            return f"storm for {for_s:.0f} s"
    return steps.describe(step) if isinstance(step, NOT_FAULTS) else as_step(step)
