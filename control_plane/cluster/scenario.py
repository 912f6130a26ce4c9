"""Chaos on a running cluster, step by step, from a file.

    seed: 7                       # every random choice comes from it; --seed overrides it
    steps:
      - kill: leader              # TARGET or TARGET NAME, as for `rayplane chaos kill`
      - kill: member random       # any of the members
      - signal: STOP apiserver    # SIGNAL TARGET [NAME]
        for: 3                    # then CONT, this many seconds later
      - wait: 1.5                 # seconds
      - wait: healthy             # as `rayplane status` sees it
        timeout: 60
      - repeat: 3
        steps: [...]
      - choose: [...]             # one of these steps

`parse` is pure; `run` acts through `Actions`.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import yaml

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster import chaos
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.status import status
from rayplane.control_plane.rpc import RpcError

TARGETS = ("leader", "member", "apiserver", "scheduler", "controllers", "node")
SIGNALS = ("KILL", "STOP", "CONT")
ANY = "random"
HEALTHY_TIMEOUT_S = 60.0
POLL_S = 0.25
# Right after a leader was killed none leads: whom to hit may take a moment to find out.
TARGET_TIMEOUT_S = 20.0
REPEAT_MAX = 10_000
DEPTH_MAX = 10


@dataclass(frozen=True, slots=True)
class Strike:
    """Send a signal to an actor."""

    signal: str
    target: str
    name: str = ""
    """Empty: the one in charge; `random`: any."""
    for_s: float = 0.0
    """After so many seconds CONT follows; 0: it does not."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AwaitHealthy:
    """Wait until the cluster is healthy."""

    timeout_s: float = HEALTHY_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Repeat:
    """Take steps several times."""

    times: int
    steps: tuple["Step", ...]


@dataclass(frozen=True, slots=True)
class Choose:
    """Take one of several steps."""

    steps: tuple["Step", ...]


Step = Strike | Pause | AwaitHealthy | Repeat | Choose


@dataclass(frozen=True, slots=True)
class Scenario:
    """The content of a file."""

    steps: tuple[Step, ...]
    seed: int = 0


class Actions(Protocol):
    """What a scenario does to a cluster."""

    async def strike(self, target: str, name: str, signal: str) -> str:
        """Send a signal; the name of the actor that got it. Raises ClusterError, UsageError when it never will."""

    async def names(self, target: str) -> list[str]:
        """The actors of a kind."""

    async def unhealthy(self) -> str:
        """What is wrong with the cluster; empty when nothing is."""


# --- parsing ------------------------------------------------------------------------------------


def parse(data: bytes, source: str) -> Scenario:
    """Raises UsageError that names the step."""
    try:
        found = yaml.safe_load(data)
    except yaml.YAMLError as e:
        raise UsageError(f"{source}: {' '.join(str(e).split())}") from e
    if not isinstance(found, dict):
        raise UsageError(f"{source}: must be a mapping with `steps`")
    _only(found, {"seed", "steps", "name", "description"}, source)
    seed = found.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UsageError(f"{source}: seed must be a whole number")
    return Scenario(_steps(found.get("steps"), f"{source}: steps", 0), seed)


def _steps(found: Any, place: str, depth: int) -> tuple[Step, ...]:
    if not isinstance(found, list) or not found:
        raise UsageError(f"{place} must be a list of steps")
    if depth > DEPTH_MAX:
        raise UsageError(f"{place}: nested deeper than {DEPTH_MAX}")
    return tuple(_step(one, f"{place}[{i}]", depth) for i, one in enumerate(found))


def _step(found: Any, place: str, depth: int) -> Step:
    verbs = [v for v in _VERBS if isinstance(found, dict) and v in found]
    if len(verbs) != 1:
        raise UsageError(f"{place} must have one of {', '.join(_VERBS)}")
    options, make = _VERBS[verbs[0]]
    _only(found, {verbs[0], *options}, place)
    return make(found, place, depth)


def _kill(found: dict[str, Any], place: str, depth: int) -> Step:
    target, name = _target(found["kill"], f"{place}.kill")
    return Strike("KILL", target, name)


def _signal(found: dict[str, Any], place: str, depth: int) -> Step:
    signal, _, rest = str(found["signal"]).partition(" ")
    if signal not in SIGNALS:
        raise UsageError(f"{place}.signal: {signal!r} is none of {', '.join(SIGNALS)}; write SIGNAL TARGET [NAME]")
    target, name = _target(rest, f"{place}.signal")
    for_s = _number(found["for"], f"{place}.for") if "for" in found else 0.0
    if for_s and signal != "STOP":
        raise UsageError(f"{place}.for: only STOP ends by itself")
    return Strike(signal, target, name, for_s)


def _wait(found: dict[str, Any], place: str, depth: int) -> Step:
    if found["wait"] == "healthy":
        return AwaitHealthy(_number(found.get("timeout", HEALTHY_TIMEOUT_S), f"{place}.timeout"))
    if "timeout" in found:
        raise UsageError(f"{place}.timeout goes with `wait: healthy`")
    return Pause(_number(found["wait"], f"{place}.wait", "seconds or `healthy`"))


def _repeat(found: dict[str, Any], place: str, depth: int) -> Step:
    times = found["repeat"]
    if not isinstance(times, int) or isinstance(times, bool) or not 1 <= times <= REPEAT_MAX:
        raise UsageError(f"{place}.repeat must be a number from 1 to {REPEAT_MAX}")
    return Repeat(times, _steps(found.get("steps"), f"{place}.steps", depth + 1))


def _choose(found: dict[str, Any], place: str, depth: int) -> Step:
    return Choose(_steps(found["choose"], f"{place}.choose", depth + 1))


_Maker = Callable[[dict[str, Any], str, int], Step]
_VERBS: dict[str, tuple[tuple[str, ...], _Maker]] = {
    "kill": ((), _kill),
    "signal": (("for",), _signal),
    "wait": (("timeout",), _wait),
    "repeat": (("steps",), _repeat),
    "choose": ((), _choose),
}


def _only(found: dict[str, Any], known: set[str], place: str) -> None:
    unknown = sorted(str(k) for k in found if k not in known)
    if unknown:
        raise UsageError(f"{place}: there is no {unknown[0]!r}; use {', '.join(sorted(known))}")


def _target(text: Any, place: str) -> tuple[str, str]:
    words = str(text).split()
    if not 1 <= len(words) <= 2 or words[0] not in TARGETS:
        raise UsageError(f"{place}: {text!r}: write TARGET or TARGET NAME; targets are {', '.join(TARGETS)}")
    return words[0], words[1] if len(words) == 2 else ""


def _number(value: Any, place: str, what: str = "seconds") -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise UsageError(f"{place}: {value!r} must be {what}")
    return float(value)


# --- running ------------------------------------------------------------------------------------


class Runner:
    """Takes the steps of a scenario one after the other. `say` is told of each."""

    def __init__(self, actions: Actions, rng: random.Random, say: Callable[[str], None]) -> None:
        self._actions = actions
        self._rng = rng
        self._say = say

    async def run(self, steps: Sequence[Step]) -> None:
        """Raises ClusterError when a step cannot be taken or the cluster does not get healthy."""
        for step in steps:
            match step:
                case Strike():
                    await self._strike(step)
                case Pause(seconds):
                    self._say(f"wait {seconds:g} s")
                    await asyncio.sleep(seconds)
                case AwaitHealthy(timeout_s):
                    await self._await_healthy(timeout_s)
                case Repeat(times, inner):
                    for number in range(1, times + 1):
                        self._say(f"round {number} of {times}")
                        await self.run(inner)
                case Choose(choices):
                    await self.run([self._rng.choice(choices)])

    async def _strike(self, step: Strike) -> None:
        victim = await self._hit(step.target, step.name, step.signal)
        self._say(f"{step.signal} {step.target}: {victim}")
        if step.for_s:
            try:
                await asyncio.sleep(step.for_s)
            finally:
                # Whatever happens to us, nothing is left stopped.
                target = "member" if step.target == "leader" else step.target
                await self._actions.strike(target, victim, "CONT")
            self._say(f"CONT {step.target}: {victim}")

    async def _hit(self, target: str, name: str, signal: str) -> str:
        deadline = asyncio.get_running_loop().time() + TARGET_TIMEOUT_S
        while True:
            try:
                if name == ANY:
                    return await self._actions.strike(target, self._rng.choice(await self._names(target)), signal)
                return await self._actions.strike(target, name, signal)
            except UsageError:
                raise
            except ClusterError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(POLL_S)

    async def _names(self, target: str) -> list[str]:
        names = sorted(await self._actions.names(target))
        if not names:
            raise UsageError(f"the cluster has no {target}")
        return names

    async def _await_healthy(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while why := await self._actions.unhealthy():
            if loop.time() - start > timeout_s:
                raise ClusterError(f"not healthy after {timeout_s:g} s: {why}")
            await asyncio.sleep(POLL_S)
        self._say(f"healthy after {loop.time() - start:.1f} s")


class ClusterActions:
    """Acts on a real cluster, as `rayplane chaos kill` and `rayplane status` do."""

    def __init__(self, admin: Access) -> None:
        self._admin = admin

    async def strike(self, target: str, name: str, signal: str) -> str:
        try:
            victim, _ = await chaos.kill(self._admin, target, name, signal)
        except (RpcError, ApiError) as e:
            if isinstance(e, RpcError) and e.code.name == UsageError.code:
                raise UsageError(e.message) from e
            raise ClusterError(f"{signal} {target} {name}: {e}") from e
        return victim

    async def names(self, target: str) -> list[str]:
        topology = await current_topology(self._admin)
        return [i.name for i in topology.of(chaos.ROLES[target])]

    async def unhealthy(self) -> str:
        try:
            found = await status(self._admin)
        except (RpcError, ApiError) as e:
            return str(e)
        if found["healthy"]:
            return ""
        ill = [m["name"] for m in found["members"] if not m["healthy"]]
        ill += [a["name"] for a in found["actors"] if not a["running"]]
        ill += [n["name"] for n in found["nodes"] if not n["ready"]]
        return ", ".join(ill) or "the scheduler or the controllers have no leader"
