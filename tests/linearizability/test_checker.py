"""The checker itself: histories known good and known bad, and the definition tried out on small ones."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.invariants.linearizable import (
    NotLinearizable,
    Operation,
    Verdict,
    assert_linearizable,
    render,
    search,
    shortest_illegal,
)
from tests.linearizability import brute_force
from tests.linearizability.brute_force import check


class Register:
    """A register of numbers, 0 at first. Input: ("write", n), ("read",), ("cas", old, new); a name for partitions."""

    def partition(self, history: Sequence[Operation]) -> Iterable[list[Operation]]:
        names = sorted({op.input[0] for op in history})
        return [[op for op in history if op.input[0] == name] for name in names]

    def init(self) -> int:
        return 0

    def step(self, state: int, input: tuple, output: object) -> list[int]:
        _, kind, *numbers = input
        if kind == "read":
            return [state] if output in (None, state) else []
        if kind == "write":
            return [numbers[0]]
        done = state == numbers[0]
        return [numbers[1] if done else state] if output in (None, done) else []

    def describe(self, input: tuple, output: object) -> str:
        return f"{input} -> {output}"

    def describe_state(self, state: int) -> str:
        return str(state)


def op(called: float, returned: float, kind: str, *numbers: int, out: object = True, name: str = "x") -> Operation:
    return Operation("c", called, (name, kind, *numbers), returned, None if returned == inf else out)


def write(called: float, returned: float, number: int, **more: object) -> Operation:
    return op(called, returned, "write", number, **more)  # type: ignore[arg-type]


def read(called: float, returned: float, number: int, **more: object) -> Operation:
    return op(called, returned, "read", out=number, **more)  # type: ignore[arg-type]


GOOD = {
    "in order": [write(0, 1, 1), read(2, 3, 1)],
    "a read during a write sees the old": [write(0, 10, 1), read(1, 2, 0)],
    "a read during a write sees the new": [write(0, 10, 1), read(1, 2, 1)],
    "concurrent writes in any order": [write(0, 10, 1), write(0, 10, 2), read(11, 12, 1)],
    "an unknown write that happened": [write(0, inf, 1), read(5, 6, 1)],
    "an unknown write that did not happen": [write(0, inf, 1), read(5, 6, 0)],
    "an unknown write that happens much later": [write(0, inf, 1), read(5, 6, 0), write(7, 8, 2), read(9, 10, 1)],
    "an unknown write that nobody ever sees": [write(0, inf, 1), write(1, 2, 2), read(3, 4, 2)],
    "intervals that touch are concurrent": [write(0, 5, 1), read(5, 6, 0)],
    "equal timestamps": [write(3, 3, 1), read(3, 3, 0), read(3, 3, 1)],
    "other objects have nothing to do with it": [write(0, 1, 1), read(2, 3, 0, name="y"), read(2, 3, 1)],
    "compare and swap, one of two": [op(0, 5, "cas", 0, 1), op(0, 5, "cas", 0, 2, out=False), read(6, 7, 1)],
    "an unknown compare and swap": [op(0, inf, "cas", 0, 1), write(1, 2, 5), read(3, 4, 5)],
}
BAD = {
    "a stale read": [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)],
    "a lost write": [write(0, 1, 1), read(2, 3, 0)],
    "a value from nowhere (of a write that failed)": [write(0, 1, 1), read(2, 3, 7)],
    "reads that go back": [write(0, 10, 1), read(1, 2, 1), read(3, 4, 0)],
    "two readers see writes in different orders": [
        write(0, 9, 1), write(0, 9, 2), read(10, 11, 1), read(12, 13, 2),
    ],
    "an unknown write that happens twice": [
        write(0, inf, 1), read(1, 2, 1), write(3, 4, 2), read(5, 6, 2), read(7, 8, 1),
    ],
    "an unknown write that happened before it was called": [read(0, 1, 1), write(2, inf, 1)],
    "two compare and swaps both win": [op(0, 5, "cas", 0, 1), op(0, 5, "cas", 0, 2), read(6, 7, 1)],
    "a read before its write at the latest moment": [read(0, 1, 1), write(2, 3, 1)],
    "wrong in one of two objects": [write(0, 1, 1, name="y"), read(2, 3, 1, name="y"), write(0, 1, 1), read(2, 3, 0)],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    assert check(Register(), GOOD[name]) is Verdict.LINEARIZABLE
    assert brute_force.is_linearizable(Register(), GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_rejects(name: str) -> None:
    assert check(Register(), BAD[name]) is Verdict.ILLEGAL
    assert not brute_force.is_linearizable(Register(), BAD[name])


def test_what_cannot_be_decided_in_the_budget_is_a_failure() -> None:
    writes = [write(0, 100, n) for n in range(1, 12)]
    history = [*writes, read(101, 102, 99)]
    assert check(Register(), history, budget=1000) is Verdict.UNKNOWN
    with pytest.raises(NotLinearizable, match="unknown"):
        assert_linearizable(Register(), history, budget=1000)


def test_shows_the_shortest_illegal_beginning() -> None:
    fine = [write(2 * n, 2 * n + 1, n) for n in range(50)]
    history = [*fine, read(200, 201, 7), *(write(300 + 2 * n, 301 + 2 * n, n) for n in range(50))]
    outcome = shortest_illegal(Register(), history)
    assert outcome.verdict is Verdict.ILLEGAL
    assert list(outcome.history) == [*fine, history[50]]
    text = render(Register(), outcome, last=5)
    assert "NOT PLACED" in text and "('x', 'read') -> 7" in text
    assert "ends in 49" in text
    assert len(text.splitlines()) == 7


def test_long_histories_take_steps_in_proportion() -> None:
    history = []
    for n in range(2000):
        history += [write(10 * n, 10 * n + 7, n), read(10 * n + 5, 10 * n + 12, n)]
    outcome = search(Register(), history)
    assert outcome.verdict is Verdict.LINEARIZABLE
    assert outcome.steps < 20 * len(history)


@st.composite
def executions(draw: st.DrawFn, most: int = 7) -> list[Operation]:
    """Operations that took effect one after the other, each within its interval; some outcomes unknown."""
    model, state = Register(), 0
    history = []
    for moment in range(10, 10 * draw(st.integers(1, most)) + 1, 10):
        kind = draw(st.sampled_from(["write", "read", "cas"]))
        numbers = [draw(st.integers(0, 2)) for _ in range({"write": 1, "read": 0, "cas": 2}[kind])]
        input = ("x", kind, *numbers)
        called, returned = moment - draw(st.integers(0, 25)), moment + draw(st.integers(0, 25))
        fate = draw(st.sampled_from(["known", "known", "known", "unknown", "never"]))
        output = state if kind == "read" else (state == numbers[0] if kind == "cas" else True)
        if fate != "never":
            (state,) = model.step(state, input, output)
        history.append(Operation("c", called, input, *((returned, output) if fate == "known" else (inf, None))))
    return draw(st.permutations(history))


@given(executions(most=25))
@settings(max_examples=150, deadline=None)
def test_accepts_whatever_happened_one_after_the_other(history: list[Operation]) -> None:
    assert check(Register(), history) is Verdict.LINEARIZABLE


@given(executions(), st.data())
@settings(max_examples=300, deadline=None)
def test_agrees_with_the_definition_on_histories_gone_wrong(history: list[Operation], data: st.DataObject) -> None:
    known = [n for n, each in enumerate(history) if each.known]
    for n in data.draw(st.lists(st.sampled_from(known), max_size=3)) if known else []:
        how = data.draw(st.sampled_from(["output", "time"]))
        each = history[n]
        if how == "time":
            shift = data.draw(st.integers(-40, 40))
            history[n] = replace(each, called=each.called + shift, returned=each.returned + shift)
        else:
            history[n] = replace(
                each, output=data.draw(st.integers(0, 2)) if each.input[1] == "read" else not each.output
            )
    expected = brute_force.is_linearizable(Register(), history)
    outcome = search(Register(), history)
    assert (outcome.verdict is Verdict.LINEARIZABLE) == expected
    if expected:
        _check_witness(history, outcome.order)
    else:
        shortest = shortest_illegal(Register(), history)
        assert not brute_force.is_linearizable(Register(), shortest.history)


def _check_witness(history: list[Operation], order: list[int]) -> None:
    state: int = 0
    for n in order:
        (state,) = Register().step(state, history[n].input, history[n].output)
    for earlier, later in itertools.combinations(order, 2):
        assert history[later].returned >= history[earlier].called
    assert {n for n, each in enumerate(history) if each.known} <= set(order)
