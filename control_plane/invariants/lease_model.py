"""A lease with its keys as a sequential object: granted, renewed while it lives, gone at one instant with all its keys.

Source: etcd documentation, "API reference": Lease. No clock is known here: a lease that lives may end by itself before
any call. That it does not so too early is for who knows the time to judge.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rayplane.control_plane.invariants.linearizable import Operation


class Grant(NamedTuple):
    """Answered with whether there was none of that id."""

    id: int


class Attach(NamedTuple):
    """A put of all these keys in one transaction; answered with whether there is such a lease."""

    id: int
    keys: tuple[bytes, ...]


class Renew(NamedTuple):
    """Answered with whether it lives."""

    id: int


class Revoke(NamedTuple):
    """Answered with whether there was one."""

    id: int


class Look(NamedTuple):
    """A read of its keys; answered with those that are there."""

    id: int


Request = Grant | Attach | Renew | Revoke | Look
Response = bool | frozenset[bytes] | None
"""None: nobody knows."""


class State(NamedTuple):
    lives: bool = False
    keys: frozenset[bytes] = frozenset()


_GONE = State()


class LeaseModel:
    """The model; see `linearizable.Model`. No two leases share a key, and none outlives its lease by another put."""

    def partition(self, history: Sequence[Operation]) -> Iterable[list[Operation]]:
        """By leases."""
        parts: dict[int, list[Operation]] = {}
        for op in history:
            parts.setdefault(op.input.id, []).append(op)
        return [parts[id] for id in sorted(parts)]

    def init(self) -> State:
        return _GONE

    def step(self, state: State, input: Request, output: Response) -> list[State]:
        before = [state, _GONE] if state.lives else [state]
        return [after for one in before for answer, after in [_done(one, input)] if output in (None, answer)]

    def describe(self, input: Request, output: Response) -> str:
        return f"{input} -> {'unknown' if output is None else output}"

    def describe_state(self, state: State) -> str:
        return f"{'alive' if state.lives else 'gone'} {sorted(state.keys)}"


def _done(state: State, input: Request) -> tuple[Response, State]:
    """The answer, and the state after."""
    match input:
        case Grant():
            return not state.lives, state if state.lives else State(True)
        case Attach(_, keys):
            return state.lives, State(True, state.keys | {*keys}) if state.lives else state
        case Renew():
            return state.lives, state
        case Revoke():
            return state.lives, _GONE
    return state.keys, state
