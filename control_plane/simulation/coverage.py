"""Coverage of runs: which failpoints were come to, and which transitions of state machines were seen."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple

from rayplane.control_plane.etcd.raft.core import Raft
from rayplane.control_plane.etcd.raft.types import Role
from rayplane.node.lifecycle.machine import PodMachine
from rayplane.node.lifecycle.model import Container, Run, Stage
from rayplane.storage.env import failpoints

SHOWN = 12


class Machine(NamedTuple):
    """A state machine: the attribute of a class that holds its state."""

    name: str
    owner: type
    attribute: str
    states: type[Enum]


MACHINES = (
    Machine("member", Raft, "role", Role),
    Machine("pod", PodMachine, "stage", Stage),
    Machine("container", Container, "run", Run),
)


@contextmanager
def transitions() -> Iterator[Counter[str]]:
    """Counts of all transitions from here on, as `member: follower -> candidate`."""
    seen: Counter[str] = Counter()
    before = [(machine.owner, vars(machine.owner).get("__setattr__")) for machine in MACHINES]
    for machine in MACHINES:
        _watch(machine, seen)
    try:
        yield seen
    finally:
        for owner, method in before:
            if method is None:
                del owner.__setattr__
            else:
                owner.__setattr__ = method  # type: ignore[method-assign, assignment]


def _watch(machine: Machine, seen: Counter[str]) -> None:
    name, attribute, owner = machine.name, machine.attribute, machine.owner
    keep: Any = owner.__setattr__

    def note(self: Any, key: str, value: Any) -> None:
        if key == attribute:
            old = getattr(self, attribute, None)
            if old is not value:
                seen[f"{name}: {'' if old is None else old.value} -> {value.value}"] += 1
        keep(self, key, value)

    owner.__setattr__ = note  # type: ignore[method-assign, assignment]


def as_facts(points: Mapping[str, int], seen: Mapping[str, int]) -> dict[str, Any]:
    """The facts of a result, for programs."""
    return {"coverage": {"failpoints": dict(sorted(points.items())), "transitions": dict(sorted(seen.items()))}}


class Covered:
    """The sum of many runs."""

    def __init__(self) -> None:
        self._points: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()

    def add(self, facts: Mapping[str, Any]) -> None:
        """What `as_facts` gave."""
        found = facts.get("coverage", {})
        self._points.update(found.get("failpoints", {}))
        self._seen.update(found.get("transitions", {}))

    def lines(self) -> list[str]:
        """For people: what was come to, and what was not."""
        never = [point for point in failpoints.POINTS if not self._points[point]]
        lines = [f"failpoints: {len(failpoints.POINTS) - len(never)} of {len(failpoints.POINTS)}"]
        lines += [f"  never: {', '.join(never)}"] if never else []
        for machine in MACHINES:
            lines += self._of(machine)
        return lines

    def _of(self, machine: Machine) -> Iterable[str]:
        own = {
            key.partition(": ")[2]: count for key, count in self._seen.items() if key.startswith(f"{machine.name}: ")
        }
        reached = {transition.partition(" -> ")[2] for transition in own}
        never = [state.value for state in machine.states if state.value not in reached]
        yield f"{machine.name}: {len(own)} transitions, {len(reached)} of {len(machine.states)} states"
        yield "  " + ", ".join(f"{transition} {count}" for transition, count in sorted(own.items()))
        if never:
            yield f"  never: {', '.join(never)}"
