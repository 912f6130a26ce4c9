"""Chaos on a running cluster, step by step, from a file.

It has the sections and steps that `faults.steps` tells, and

    name: rolled while leaders die
    seed: 7                       # every random choice comes from it; --seed overrides it
    duration: 2m                  # at least so long; without it the run ends with its last step

What only the simulation heeds may stand there too: `cluster`, `network`, `client`. `parse` is pure; `Runner` acts
through an injector of faults, and on objects through `Hands`.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery import yaml_reader
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.diagnosis import judge
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.patience import Patience, slowdown
from rayplane.control_plane.cluster.status import measure
from rayplane.control_plane.faults import reading, steps
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.injector import Injector, Unsupported, hold, require
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.steps import (
    ACTORS,
    CLUSTER,
    WORKLOADS,
    Apply,
    Await,
    Condition,
    Expectation,
    Remove,
    Roll,
    Scale,
    Sleep,
    Step,
    Timed,
    Verbs,
    describe,
    faults_of,
    objects_of,
    unfolded,
)
from rayplane.control_plane.faults.vocabulary import Fault
from rayplane.control_plane.invariants.conditions import View, unmet

POLL_S = 0.25
# Right after a leader was killed none leads: whom to hit may take a moment to find out.
TARGET_TIMEOUT_S = 20.0
# Of who looks at a cluster's health again and again: what waits for a part to come back has not seen it away.
GLANCE_S = 2.0
FIELDS = ("name", "description", "seed", "duration", "workload", "steps", "faults", "expect")
TEXT_CHARS_MAX = 256 * 1024
"""Of what comes over the network."""
SIMULATED = ("cluster", "network", "client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The content of a file."""

    steps: tuple[Step, ...]
    seed: int = 0
    name: str = ""
    duration_s: float = 0.0
    workload: tuple[Object, ...] = ()
    faults: tuple[Timed, ...] = ()
    expect: tuple[Expectation, ...] = ()

    def all_faults(self) -> list[Fault]:
        """Whatever it may do."""
        return [*faults_of(self.steps), *(timed.fault for timed in self.faults)]

    def all_objects(self) -> list[Object]:
        """Whatever it may make."""
        return [*self.workload, *objects_of(self.steps)]


def parse(data: bytes, source: str) -> Scenario:
    """Raises UsageError that names the step and its line."""
    try:
        return reading.read(data, lambda found: _scenario(found, source))
    except FormError as e:
        raise UsageError(f"{source}: {e}") from e


def parse_foreign(text: str) -> Scenario:
    """As `parse`, for what somebody elsewhere has written: it is measured before it is read. Raises UsageError.

    It may take a while: call it beside the event loop.
    """
    source = "the scenario"
    if len(text) > TEXT_CHARS_MAX:
        raise UsageError(f"{source}: give at most {TEXT_CHARS_MAX} characters")
    data = text.encode()
    try:
        yaml_reader.parse(data)
    except (yaml_reader.YamlError, ApiError) as e:
        raise UsageError(f"{source}: {e}") from e
    return parse(data, source)


def _verbs() -> Verbs:
    return {**steps.COMMON, **steps.folding(_verbs)}


def _scenario(data: Any, source: str) -> Scenario:
    found = reading.mapping(data, "the file")
    reading.only(found, {*FIELDS, *SIMULATED}, "the file")
    taken = steps.read_steps(found.get("steps", [] if "faults" in found else None), "steps", _verbs())
    if not taken and not found.get("faults"):
        raise FormError("steps", "give at least one step")
    return Scenario(
        steps=taken,
        seed=reading.whole(found.get("seed", 0), "seed", -(1 << 63)),
        name=str(found.get("name", source)),
        duration_s=reading.span(found.get("duration", 0), "duration"),
        workload=steps.read_manifests(found.get("workload", []), "workload"),
        faults=steps.read_timed(found.get("faults", []), "faults"),
        expect=steps.read_expectations(found.get("expect", []), "expect"),
    )


# --- running ------------------------------------------------------------------------------------


class Hands(Protocol):
    """Commands of a user on objects, each insisted on; and the view of what is there."""

    @property
    def view(self) -> View: ...

    async def apply(self, obj: Object) -> None:
        """Raises ClusterError when it is refused, or nobody answers for long."""

    async def patch(self, resource: str, name: str, namespace: str, body: Object) -> None: ...

    async def delete(self, resource: str, name: str, namespace: str) -> None: ...


class Runner:
    """A runner that takes the steps of a scenario one after the other.

    `say` is told of each; `unhealthy` says what is wrong with the cluster, if anything. Without `hands` it only
    breaks things and waits.
    """

    def __init__(
        self,
        injector: Injector,
        unhealthy: Callable[[], Awaitable[str]],
        rng: random.Random,
        say: Callable[[str], None],
        hands: Hands | None = None,
    ) -> None:
        self._injector = injector
        self._unhealthy = unhealthy
        self._rng = rng
        self._say = say
        self._hands = hands

    def check(self, faults: Sequence[Fault]) -> None:
        """Raise UsageError when one of them cannot be done here."""
        try:
            require(self._injector, faults)
        except Unsupported as e:
            raise UsageError(str(e)) from e

    async def run(self, steps: Sequence[Step]) -> None:
        """Raises UsageError before anything is done that a step asks for what cannot be done here, and ClusterError
        when a step cannot be taken or what it waits for does not come."""
        self.check(list(faults_of(steps)))
        for step in unfolded(steps, self._rng):
            await self._take(step)

    async def _take(self, step: Any) -> None:
        match step:
            case Sleep(seconds):
                self._say(f"wait {seconds:g} s")
                await asyncio.sleep(seconds)
            case Await(Condition(kind="cluster"), within_s):
                await self._await_healthy(within_s)
            case Await(condition, within_s):
                await self._await(condition, within_s)
            case Apply() | Scale() | Roll() | Remove():
                self._say(describe(step))
                await by_hand(self._user, step, self._rng)
            case fault:
                await self.strike(fault)

    @property
    def _user(self) -> Hands:
        if self._hands is None:
            raise UsageError("here only faults and pauses can be steps")
        return self._hands

    async def strike(self, fault: Fault) -> None:
        """Let a fault happen and wait until it is over. Raises ClusterError when nobody can be hit."""
        hit = await self._hit(fault)
        said = as_step(fault) + (f" -> {', '.join(hit)}" if hit else "")
        self._say(said)
        if await hold(self._injector, fault, hit):
            self._say(f"over: {said}")

    async def _hit(self, fault: Fault) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        patience = Patience(TARGET_TIMEOUT_S, loop.time())
        while True:
            try:
                return await self._injector.begin(fault)
            except UsageError:
                raise
            except ClusterError:
                patience.passed(loop.time(), slowdown())
                if patience.over:
                    raise
            await asyncio.sleep(POLL_S)

    async def _await_healthy(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while why := await self._unhealthy():
            if loop.time() - start > timeout_s:
                raise ClusterError(f"not healthy after {timeout_s:g} s: {why}")
            await asyncio.sleep(POLL_S)
        self._say(f"healthy after {loop.time() - start:.1f} s")

    async def _await(self, condition: Condition, within_s: float) -> None:
        self._say(f"wait until {condition}")
        deadline = asyncio.get_running_loop().time() + within_s
        while (why := await self.missing(condition)) is not None:
            if asyncio.get_running_loop().time() > deadline:
                raise ClusterError(f"not within {within_s:g} s: {condition}; {why}")
            await asyncio.sleep(POLL_S)

    async def missing(self, condition: Condition) -> str | None:
        """Why a condition does not hold; None when it does."""
        if condition.kind in (CLUSTER, ACTORS):
            return await self._unhealthy() or None
        return unmet(condition, self._user.view)


async def by_hand(hands: Hands, step: Any, rng: random.Random) -> None:
    """Take a step that is a user's command. Raises what the hands raise."""
    match step:
        case Apply(objects):
            for obj in objects:
                await hands.apply(obj)
        case Scale(wanted):
            body = {"spec": {"replicas": wanted.count}}
            await hands.patch(WORKLOADS[wanted.kind], wanted.name, wanted.namespace, body)
        case Roll(kind, name, namespace):
            await hands.patch(WORKLOADS[kind], name, namespace, rolled(rng))
        case Remove(kind, name, namespace):
            await hands.delete(WORKLOADS[kind], name, namespace)


def rolled(rng: random.Random) -> Object:
    """The patch that gives a workload a new template."""
    annotations = {"rayplane.io/rolled": f"{rng.getrandbits(64):x}"}
    return {"spec": {"template": {"metadata": {"annotations": annotations}}}}


async def in_time(
    timed: Timed, until: Callable[[Condition], Awaitable[None]], strike: Callable[[], Awaitable[None]]
) -> None:
    """Strike beside the steps at the fault's time; `until` waits for a condition. For ever, if it comes at a rate."""
    if timed.at_s is not None:
        await asyncio.sleep(timed.at_s)
    elif timed.when is not None:
        await until(timed.when)
    while True:
        if timed.every_s is not None:
            await asyncio.sleep(timed.every_s)
        await strike()
        if timed.every_s is None:
            return


async def unhealthy(admin: Access) -> str:
    """Who is not well of a cluster; empty when all are."""
    faults = judge(await measure(admin, GLANCE_S))
    return ", ".join(dict.fromkeys(fault.who for fault in faults))
