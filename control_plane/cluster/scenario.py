"""Chaos on a running cluster, step by step, from a file.

    seed: 7                       # every random choice comes from it; --seed overrides it
    steps:
      - kill: leader              # any fault, in its form (see `faults.form`)
      - kill: member random       # any of the members
      - stop: {target: apiserver-1, for: 3s}
      - signal: STOP apiserver    # SIGNAL TARGET: the same with KILL, STOP, CONT
        for: 3                    # then CONT, this many seconds later
      - wait: 1.5                 # seconds
      - wait: healthy             # as `rayplane status` sees it
        timeout: 60
      - repeat: 3
        steps: [...]
      - choose: [...]             # one of these steps

`parse` is pure; `Runner` acts through an injector of faults.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.status import status
from rayplane.control_plane.faults import reading
from rayplane.control_plane.faults.form import VERBS, as_step, read_fault
from rayplane.control_plane.faults.injector import Injector, Unsupported, hold, require
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import Fault
from rayplane.control_plane.rpc import RpcError

SIGNALS = {"KILL": "kill", "STOP": "stop", "CONT": "continue"}
HEALTHY_TIMEOUT_S = 60.0
POLL_S = 0.25
# Right after a leader was killed none leads: whom to hit may take a moment to find out.
TARGET_TIMEOUT_S = 20.0
REPEAT_MAX = 10_000
DEPTH_MAX = 10


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AwaitHealthy:
    """The wait until the cluster is healthy."""

    timeout_s: float = HEALTHY_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Repeat:
    """Steps that are taken several times."""

    times: int
    steps: tuple["Step", ...]


@dataclass(frozen=True, slots=True)
class Choose:
    """Several steps, of which one is taken."""

    steps: tuple["Step", ...]


Step = Fault | Pause | AwaitHealthy | Repeat | Choose


@dataclass(frozen=True, slots=True)
class Scenario:
    """The content of a file."""

    steps: tuple[Step, ...]
    seed: int = 0


# --- parsing ------------------------------------------------------------------------------------


def parse(data: bytes, source: str) -> Scenario:
    """Raises UsageError that names the step and its line."""
    try:
        return reading.read(data, _scenario)
    except FormError as e:
        raise UsageError(f"{source}: {e}") from e


def _scenario(data: Any) -> Scenario:
    found = reading.mapping(data, "the file")
    reading.only(found, {"seed", "steps", "name", "description"}, "the file")
    return Scenario(_steps(found.get("steps"), "steps", 0), reading.whole(found.get("seed", 0), "seed", -(1 << 63)))


def _steps(found: Any, place: str, depth: int) -> tuple[Step, ...]:
    if depth > DEPTH_MAX:
        raise FormError(place, f"nested deeper than {DEPTH_MAX}")
    if not reading.items(found, place):
        raise FormError(place, "give at least one step")
    return tuple(_step(one, f"{place}[{i}]", depth) for i, one in enumerate(found))


def _step(found: Any, place: str, depth: int) -> Step:
    step = reading.mapping(found, place)
    verbs = [v for v in (*_VERBS, *VERBS) if v in step]
    if len(verbs) != 1:
        raise FormError(place, f"give one of {', '.join((*_VERBS, *VERBS))}")
    [verb] = verbs
    options, make = _VERBS.get(verb, ((), None))
    reading.only(step, {verb, *options}, place)
    return make(step, place, depth) if make is not None else read_fault(verb, step[verb], f"{place}.{verb}")


def _signal(found: dict[str, Any], place: str, depth: int) -> Step:
    signal, _, target = str(found["signal"]).partition(" ")
    if signal not in SIGNALS:
        raise FormError(f"{place}.signal", f"{signal!r:.80}: write KILL, STOP or CONT, and TARGET [NAME]")
    if "for" not in found:
        return read_fault(SIGNALS[signal], target, f"{place}.signal")
    if signal != "STOP":
        raise FormError(f"{place}.for", "only STOP ends by itself")
    return read_fault("stop", {"target": target, "for": found["for"]}, place)


def _wait(found: dict[str, Any], place: str, depth: int) -> Step:
    if found["wait"] == "healthy":
        return AwaitHealthy(reading.span(found.get("timeout", HEALTHY_TIMEOUT_S), f"{place}.timeout"))
    if "timeout" in found:
        raise FormError(f"{place}.timeout", "goes with `wait: healthy`")
    return Pause(reading.span(found["wait"], f"{place}.wait"))


def _repeat(found: dict[str, Any], place: str, depth: int) -> Step:
    times = reading.whole(found["repeat"], f"{place}.repeat", 1, REPEAT_MAX)
    return Repeat(times, _steps(found.get("steps"), f"{place}.steps", depth + 1))


def _choose(found: dict[str, Any], place: str, depth: int) -> Step:
    return Choose(_steps(found["choose"], f"{place}.choose", depth + 1))


_Maker = Callable[[dict[str, Any], str, int], Step]
_VERBS: dict[str, tuple[tuple[str, ...], _Maker]] = {
    "signal": (("for",), _signal),
    "wait": (("timeout",), _wait),
    "repeat": (("steps",), _repeat),
    "choose": ((), _choose),
}


# --- running ------------------------------------------------------------------------------------


def faults_of(steps: Sequence[Step]) -> Iterator[Fault]:
    """All that steps may do."""
    for step in steps:
        if isinstance(step, Repeat | Choose):
            yield from faults_of(step.steps)
        elif not isinstance(step, Pause | AwaitHealthy):
            yield step


class Runner:
    """A runner that takes the steps of a scenario one after the other.

    `say` is told of each; `unhealthy` says what is wrong with the cluster, if anything.
    """

    def __init__(
        self,
        injector: Injector,
        unhealthy: Callable[[], Awaitable[str]],
        rng: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._injector = injector
        self._unhealthy = unhealthy
        self._rng = rng
        self._say = say

    async def run(self, steps: Sequence[Step]) -> None:
        """Raises UsageError before anything is done that a step asks for what cannot be done here, and ClusterError
        when a step cannot be taken or the cluster does not get healthy."""
        try:
            require(self._injector, faults_of(steps))
        except Unsupported as e:
            raise UsageError(str(e)) from e
        await self._take(steps)

    async def _take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Pause(seconds):
                    self._say(f"wait {seconds:g} s")
                    await asyncio.sleep(seconds)
                case AwaitHealthy(timeout_s):
                    await self._await_healthy(timeout_s)
                case Repeat(times, inner):
                    for number in range(1, times + 1):
                        self._say(f"round {number} of {times}")
                        await self._take(inner)
                case Choose(choices):
                    await self._take([self._rng.choice(choices)])
                case fault:
                    await self._strike(fault)

    async def _strike(self, fault: Fault) -> None:
        hit = await self._hit(fault)
        self._say(f"{as_step(fault)} -> {', '.join(hit)}")
        if await hold(self._injector, fault, hit):
            self._say(f"over: {as_step(fault)} -> {', '.join(hit)}")

    async def _hit(self, fault: Fault) -> tuple[str, ...]:
        deadline = asyncio.get_running_loop().time() + TARGET_TIMEOUT_S
        while True:
            try:
                return await self._injector.begin(fault)
            except UsageError:
                raise
            except ClusterError:
                if asyncio.get_running_loop().time() > deadline:
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


async def unhealthy(admin: Access) -> str:
    """What is wrong with a cluster; empty when nothing is."""
    try:
        found = await status(admin)
    except (RpcError, ApiError) as e:
        return str(e)
    if found["healthy"]:
        return ""
    ill = [m["name"] for m in found["members"] if not m["healthy"]]
    ill += [a["name"] for a in found["actors"] if not a["running"]]
    ill += [n["name"] for n in found["nodes"] if not n["ready"]]
    return ", ".join(ill) or "the scheduler or the controllers have no leader"
