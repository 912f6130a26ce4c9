"""Runs of a scenario with one seed, and how they went."""

import asyncio
import copy
import gc
import logging
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.injector import Unsupported, require
from rayplane.control_plane.faults.vocabulary import Fault
from rayplane.control_plane.rpc import Network, RpcError
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation.cell import derived_rng
from rayplane.control_plane.simulation.changes import ChangeFailed, Operator, Storm
from rayplane.control_plane.simulation.checks import Client, InsideChecks, Violations
from rayplane.control_plane.simulation.cluster import Planted, SimulatedCluster
from rayplane.control_plane.simulation.injector import CellInjector, NobodyThere
from rayplane.control_plane.simulation.loop import LIFE, VirtualLoop
from rayplane.control_plane.simulation.rest import RestClient
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
from rayplane.control_plane.simulation.trace import Trace
from rayplane.storage.env import Env

Progress = Callable[[str], None]

POLL_S = 0.2
API_RETRY_S = 0.5
API_TIMEOUT_S = 60.0
FINAL_TIMEOUT_S = 60.0
LOG_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """The result of a run. `trace_hash` is the same for the same scenario, seed and code."""

    scenario: str
    source: str
    seed: int
    cluster_s: float
    real_s: float
    events: int
    messages: int
    acknowledged: int
    trace_hash: str
    failures: tuple[str, ...]
    last_events: tuple[str, ...] = ()
    log: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAILED"
        head = (
            f"seed {self.seed}: {verdict}; {self.cluster_s:.0f} s of cluster time in {self.real_s:.1f} s, "
            f"{self.messages} messages, {self.events} events, {self.acknowledged} acknowledged writes, "
            f"trace {self.trace_hash}"
        )
        if self.ok:
            return head
        parts = [head, *(f"  {f}" for f in self.failures[:10]), "last events:", *(f"  {e}" for e in self.last_events)]
        if self.log:
            parts += ["last warnings:", *(f"  {line}" for line in self.log)]
        return "\n".join([*parts, f"again: rayplane simulate {self.source} --seed {self.seed}"])


class StepFailed(Exception):
    """A step of the scenario could not be done, or what it waited for did not come."""


def simulate(
    scenario: Scenario, seed: int, progress: Progress | None = None, *, planted: Planted | None = None
) -> SimulationResult:
    """Run a scenario in virtual time. Raises UsageError when the scenario names what the cluster has not."""
    # What an earlier run left must not be cleaned up in the midst of this one.
    bury()
    loop = VirtualLoop()
    trace = Trace(loop.time)
    run = _Run(scenario, seed, trace, progress or (lambda _: None), planted)
    logs = _LogTail(loop)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers, root.level = [logs], logging.WARNING
    began = time.perf_counter()
    try:
        loop.run(run.main())
    finally:
        root.handlers, root.level = handlers, level
        real_s = time.perf_counter() - began
    result = SimulationResult(
        scenario=scenario.name,
        source=scenario.source,
        seed=seed,
        cluster_s=loop.time(),
        real_s=real_s,
        events=trace.events,
        messages=trace.messages,
        acknowledged=run.acknowledged,
        trace_hash=trace.hash,
        failures=(*run.failures, *loop.faults),
        last_events=tuple(trace.last),
        log=tuple(logs.lines),
    )
    del run, logs, trace
    bury()
    return result


def bury() -> None:
    """Free what died in the run. Its coroutines are closed without a loop, and complain; nobody needs to hear."""
    # What they still begin would wait for ever in this thread's own loop, which nobody runs, and keep the run alive.
    asyncio.set_event_loop(None)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    finally:
        sys.unraisablehook = hook
        logging.disable(disabled)


class _LogTail(logging.Handler):
    """The last warnings of the components, with virtual time and cell."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(logging.WARNING)
        self.lines: deque[str] = deque(maxlen=LOG_LINES)
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        life = LIFE.get()
        error = record.exc_info[1] if record.exc_info else None
        because = f" ({type(error).__name__}: {error})" if error is not None else ""
        who = life.name if life is not None else "-"
        self.lines.append(f"{self._loop.time():12.6f} {who} {record.name}: {record.getMessage()[:300]}{because}")


class _Run:
    def __init__(
        self, scenario: Scenario, seed: int, trace: Trace, progress: Progress, planted: Planted | None
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._trace = trace
        self._progress = progress
        self._planted = planted
        self.failures: list[str] = []
        self.acknowledged = 0

    async def main(self) -> None:
        scenario = self._scenario
        cluster = self._cluster = SimulatedCluster(
            scenario.cluster, self._seed, self._trace, climate=scenario.climate, planted=self._planted
        )
        self._injector = CellInjector(cluster)
        self._check_steps()
        violations = Violations(self._trace)
        self._client = Client(cluster, violations, write_every_s=scenario.write_every_s)
        self._operator = Operator(cluster)
        loop = asyncio.get_running_loop()
        inside = loop.create_task(InsideChecks(cluster, violations).run())
        user = loop.create_task(cluster.client.run(self._client.run))
        self._rest = RestClient(lambda: cluster.balancer, derived_rng(self._seed, "rest"), self._trace, violations)
        asker = loop.create_task(cluster.kubectl.run(self._ask))
        await cluster.start()
        try:
            await self._client.up.wait()
            await self._script()
            await self._finish()
        except StepFailed as e:
            self._trace.event("failed", e)
            self.failures.append(f"{loop.time():.3f} s: {e}")
        for task in (inside, user, asker):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                self.failures.append(f"the simulation itself failed: {type(error).__name__}: {error}")
            task.cancel()
        self.failures = [*violations.found, *self.failures]
        self.acknowledged = self._client.acknowledged + self._rest.ledger.acknowledged
        await cluster.stop()

    async def _ask(self, env: Env, network: Network, sockets: Sockets) -> None:
        self._rest.open(sockets)
        await self._rest.run(self._scenario.ask_every_s)

    def _check_steps(self) -> None:
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

    def _check_faults(self, faults: list[Fault]) -> None:
        try:
            require(self._injector, faults)
        except Unsupported as e:
            raise UsageError(str(e)) from e

    # Steps

    async def _script(self) -> None:
        loop = asyncio.get_running_loop()
        for number, step in enumerate(self._scenario.steps):
            self._progress(f"{loop.time():8.1f} s: {_describe(step)}")
            self._trace.event("step", number, type(step).__name__)
            try:
                await self._do(step)
            except (ApiError, ChangeFailed, NobodyThere, UsageError) as e:
                raise StepFailed(f"steps[{number}] ({_describe(step)}): {e}") from e
        rest = self._scenario.duration_s - loop.time()
        if rest > 0:
            self._progress(f"{loop.time():8.1f} s: idle")
            await asyncio.sleep(rest)

    async def _do(self, step: Step) -> None:
        match step:
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Await(condition, within_s):
                await self._await(condition, within_s)
            case Apply(objects):
                for obj in objects:
                    await self._apply(obj)
            case Change():
                await self._operator.change(step)
            case Rage():
                await Storm(self._cluster, self._operator, self._injector).rage(step)
            case Scale(condition):
                body = {"spec": {"replicas": condition.count}}
                resource = WORKLOADS[condition.kind]
                await self._insist(lambda: self._client.api.patch(resource, condition.name, condition.namespace, body))
            case Remove(kind, name, namespace):
                await self._insist(lambda: self._client.api.delete(WORKLOADS[kind], name, namespace))
            case fault:
                await self._injector.strike(fault)

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

    async def _await(self, condition: Condition, within_s: float) -> None:
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

    async def _finish(self) -> None:
        """What the scenario expects, and nothing lost; after the faults are over."""
        for condition in self._scenario.expect:
            await self._await(condition, FINAL_TIMEOUT_S)
        deadline = asyncio.get_running_loop().time() + FINAL_TIMEOUT_S
        verified = False
        while not verified:
            with self._cluster.client.inside():
                verified = await self._client.verify()
            if not verified and asyncio.get_running_loop().time() > deadline:
                raise StepFailed("etcd does not answer at the end")
            await asyncio.sleep(1.0)
        await self._client.settle(FINAL_TIMEOUT_S)
        await self._finish_rest()

    async def _finish_rest(self) -> None:
        deadline = asyncio.get_running_loop().time() + FINAL_TIMEOUT_S
        finished = False
        while not finished:
            with self._cluster.kubectl.inside():
                finished = await self._rest.finish()
            if not finished and asyncio.get_running_loop().time() > deadline:
                raise StepFailed("the REST face does not answer at the end")
            await asyncio.sleep(1.0)
        with self._cluster.kubectl.inside():
            await self._rest.close()


def _describe(step: Step) -> str:
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
