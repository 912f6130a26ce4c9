"""The steps of a scenario, and the conditions that they wait for."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.injector import Unsupported, require
from rayplane.control_plane.faults.vocabulary import Fault
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation.cell import run_rng
from rayplane.control_plane.simulation.changes import ChangeFailed, Operator, Storm, Striker
from rayplane.control_plane.simulation.checks import Client
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.injector import CellInjector, NobodyThere
from rayplane.control_plane.simulation.loop import sleep_until
from rayplane.control_plane.simulation.plan import Plan, Strike
from rayplane.control_plane.simulation.points import Points
from rayplane.control_plane.simulation.scenario import (
    NOT_FAULTS,
    WORKLOADS,
    Apply,
    Await,
    Change,
    Condition,
    Rage,
    Remove,
    Scale,
    Scenario,
    Sleep,
    Step,
)

Progress = Callable[[str], None]

POLL_S = 0.2
API_RETRY_S = 0.5
API_TIMEOUT_S = 60.0


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
        self._plan = plan
        self._injector = CellInjector(cluster)
        self._operator = Operator(cluster)
        self.striker = Striker(self._injector, self._operator)
        self._striking: list[asyncio.Task[None]] = []

    def check(self) -> None:
        """Before anything runs: its faults can be done here, and names in the scenario are of actors of its cluster."""
        changes = False
        for step in self._scenario.steps:
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

    @property
    def points(self) -> Points:
        """The failpoints of the run."""
        return self._injector.points

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
        for number, step in enumerate(self._scenario.steps):
            progress(f"{loop.time():8.1f} s: {describe(step)}")
            self._trace.event("step", number, describe(step))
            self.striker.begin(number)
            self._strike_beside(number, step)
            try:
                await self._do(number, step)
            except (ApiError, ChangeFailed, NobodyThere, UsageError) as e:
                raise StepFailed(f"steps[{number}] ({describe(step)}): {e}") from e
        rest = self._scenario.duration_s - loop.time()
        if rest > 0:
            progress(f"{loop.time():8.1f} s: idle")
            await asyncio.sleep(rest)

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
            case Apply(objects):
                for obj in objects:
                    await self._apply(obj)
            case Change():
                await self._operator.change(step)
            case Scale(condition):
                body = {"spec": {"replicas": condition.count}}
                resource = WORKLOADS[condition.kind]
                await self._insist(lambda: self._client.api.patch(resource, condition.name, condition.namespace, body))
            case Remove(kind, name, namespace):
                await self._insist(lambda: self._client.api.delete(WORKLOADS[kind], name, namespace))
            case Rage():
                await self._rage(number, step)
            case fault if self._plan is None:
                await self.striker.strike(fault)
            case _:
                await self.striker.repeat(self._plan.of(number))

    async def _rage(self, number: int, step: Rage) -> None:
        if self._plan is None:
            storm = Storm(self._cluster, self.striker, run_rng(self._seed, "storm", number))
            await storm.rage(step)
            return
        end = asyncio.get_running_loop().time() + step.for_s
        await self.striker.repeat(self._plan.of(number))
        await sleep_until(end)
        await self.striker.finish()

    async def _apply(self, obj: dict[str, Any]) -> None:
        info = builtin_registry().by_kind(obj["apiVersion"], obj["kind"])
        if info is None:
            raise UsageError(f"apply: there is no kind {obj['kind']} in {obj['apiVersion']}")
        resource = f"{info.plural}.{info.group}" if info.group else info.plural
        manifest = copy.deepcopy(obj)
        namespace = manifest["metadata"].setdefault("namespace", "default") if info.namespaced else ""

        async def once() -> None:
            try:
                await self._client.api.create(resource, copy.deepcopy(manifest))
            except AlreadyExists:
                await self._client.api.patch(resource, meta.name(manifest), namespace, manifest)

        await self._insist(once)

    async def _insist(self, attempt: Callable[[], Any]) -> None:
        """A user's command, given again while no server answers. Calls into the client's cell."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + API_TIMEOUT_S
        while True:
            try:
                with self._cluster.client.inside():
                    await attempt()
                return
            except ApiError as e:
                if not e.retryable or loop.time() > deadline:
                    raise
            await asyncio.sleep(API_RETRY_S)

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
        if condition.kind == "claims":
            claims = [
                c
                for c in self._client.objects("persistentvolumeclaims")
                if meta.namespace(c) == condition.namespace and meta.status(c).get("phase") == "Bound"
            ]
            return None if len(claims) == condition.count else f"{len(claims)} are"
        workload = self._client.get(WORKLOADS[condition.kind], condition.namespace, condition.name)
        if workload is None:
            return "it does not exist"
        status = meta.status(workload)
        if status.get("observedGeneration", 0) < meta.generation(workload):
            return "its controller has not seen its newest version"
        counts = {k: status.get(k, 0) for k in ("replicas", "readyReplicas", "updatedReplicas")}
        wanted = dict.fromkeys(counts, condition.count)
        if counts != wanted or meta.spec(workload).get("replicas") != condition.count:
            return f"it has {counts}"
        return None

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


def describe(step: Step) -> str:
    """A step in a few words."""
    match step:
        case Await(condition, _):
            return f"wait until {condition}"
        case Apply(objects):
            return "apply " + ", ".join(f"{o['kind']} {o['metadata']['name']}" for o in objects)
        case Change(action, target):
            return f"{action} {target}"
        case Rage(for_s):
            return f"storm for {for_s:.0f} s"
        case Scale(condition):
            return f"scale {condition.kind} {condition.name} to {condition.count}"
        case Remove(kind, name):
            return f"delete {kind} {name}"
        case Sleep(seconds):
            return f"sleep {seconds:g} s"
        case fault:
            return as_step(fault)
