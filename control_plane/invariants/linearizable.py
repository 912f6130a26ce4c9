"""Is a concurrent history linearizable? The search of Wing and Gong, with Lowe's cache of configurations.

Sources: J. Wing, C. Gong, "Testing and Verifying Concurrent Objects" (1993); G. Lowe, "Testing for linearizability"
(2017); partitioning: M. Herlihy, J. Wing, "Linearizability" (1990), section 3.3: it is a local property.

Intervals are closed: an operation takes effect at one instant between its call and its return, both included. So two
operations of which one returns at the very time at which the other is called are concurrent: a clock that shows the
same reading for both does not say which was first, and a checker that guessed would call correct histories wrong.

An operation with an unknown outcome (time-out, lost connection, dead server) may take effect at any time after its
call, also long after its caller has gone, or never: it stays open to the end of time and need not be placed.
"""

import enum
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Protocol

BUDGET_STEPS = 2_000_000
_COLUMNS = 48


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. While its outcome is unknown `returned` is inf, and `output` None or what was learnt of it since."""

    client: str
    called: float
    input: Any
    returned: float = inf
    output: Any = None

    @property
    def known(self) -> bool:
        return self.returned != inf


class Model(Protocol):
    """A sequential object, pure. A step that may end in several states gives all of them; in none: it is illegal."""

    def partition(self, history: Sequence[Operation]) -> Iterable[Sequence[Operation]]:
        """Parts that have nothing to do with each other."""

    def init(self) -> Hashable: ...

    def step(self, state: Any, input: Any, output: Any) -> Iterable[Hashable]:
        """The states after; `output` None: it took effect with an outcome that nobody knows."""

    def describe(self, input: Any, output: Any) -> str: ...

    def describe_state(self, state: Any) -> str: ...


class Verdict(enum.Enum):
    LINEARIZABLE = "linearizable"
    ILLEGAL = "illegal"
    UNKNOWN = "unknown"
    """The budget ran out: a failure, as nothing was shown."""


@dataclass(slots=True)
class Outcome:
    """The outcome of one part.

    `order` is the longest order found (of a legal part: a witness), `states` those it ends in.
    """

    verdict: Verdict
    history: Sequence[Operation]
    order: list[int] = field(default_factory=list)
    states: frozenset[Any] = frozenset()
    steps: int = 0


class NotLinearizable(AssertionError):
    """An error with the smallest beginning of the history that is wrong, readable."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


def assert_linearizable(model: Model, history: Sequence[Operation], *, budget: int = BUDGET_STEPS) -> None:
    """Raises NotLinearizable, for what could not be decided within `budget` steps per part too."""
    for part in model.partition(history):
        outcome = search(model, part, budget=budget)
        if outcome.verdict is Verdict.ILLEGAL:
            outcome = shortest_illegal(model, part, budget=budget)
        if outcome.verdict is not Verdict.LINEARIZABLE:
            raise NotLinearizable(outcome, render(model, outcome))


def found_wrong(model: Model, history: Sequence[Operation], *, budget: int = BUDGET_STEPS) -> str:
    """What is wrong with a history; empty for nothing."""
    try:
        assert_linearizable(model, history, budget=budget)
    except NotLinearizable as e:
        return str(e)
    return ""


class _Line:
    """Calls and returns not taken out yet, in order of time: a doubly linked list over positions."""

    def __init__(self, history: Sequence[Operation]) -> None:
        events = [(op.called, 0, i) for i, op in enumerate(history)]
        # At equal times calls come first: closed intervals that touch overlap.
        events += [(op.returned, 1, i) for i, op in enumerate(history) if op.known]
        events.sort()
        self._calls = [i if kind == 0 else -1 for _, kind, i in events]
        self._place = [[0, 0] for _ in history]
        for position, (_, kind, i) in enumerate(events, 1):
            self._place[i][kind] = position
        size = len(events)
        self._next = [*range(1, size + 1), -1]
        self._previous = [-1, *range(size)]
        self._known = [op.known for op in history]

    def candidates(self) -> list[int]:
        """Operations that may be next: called before any that is left has returned. Those of known outcome first."""
        known: list[int] = []
        unknown: list[int] = []
        position = self._next[0]
        while position > 0 and (i := self._calls[position - 1]) >= 0:
            (known if self._known[i] else unknown).append(i)
            position = self._next[position]
        return known + unknown

    def take(self, i: int) -> None:
        for position in self._place[i][: 1 + self._known[i]]:
            before, after = self._previous[position], self._next[position]
            self._next[before] = after
            if after >= 0:
                self._previous[after] = before

    def put_back(self, i: int) -> None:
        for position in reversed(self._place[i][: 1 + self._known[i]]):
            before, after = self._previous[position], self._next[position]
            self._next[before] = position
            if after >= 0:
                self._previous[after] = position


def search(model: Model, history: Sequence[Operation], *, budget: int = BUDGET_STEPS) -> Outcome:
    """Look for an order of one part that respects time and the model."""
    line = _Line(history)
    states: frozenset[Any] = frozenset((model.init(),))
    missing = sum(op.known for op in history)
    taken, steps = 0, 0
    order: list[int] = []
    best = Outcome(Verdict.ILLEGAL, history, [], states)
    seen: set[tuple[int, frozenset[Any]]] = set()
    stack: list[tuple[Iterator[int], frozenset[Any]]] = []
    turns = iter(line.candidates())
    while missing:
        for i in turns:
            op = history[i]
            steps += 1
            after = frozenset(s for state in states for s in model.step(state, op.input, op.output))
            if not after or (taken | 1 << i, after) in seen:
                continue
            if not op.known and after == states:
                continue  # it need not be placed, and it would change nothing
            taken |= 1 << i
            seen.add((taken, after))
            stack.append((turns, states))
            order.append(i)
            line.take(i)
            missing -= op.known
            states = after
            if len(order) > len(best.order):
                best.order, best.states = order.copy(), states
            turns = iter(line.candidates())
            break
        else:
            if not stack:
                best.steps = steps
                return best
            turns, states = stack.pop()
            i = order.pop()
            taken ^= 1 << i
            line.put_back(i)
            missing += history[i].known
        if steps > budget:
            best.verdict, best.steps = Verdict.UNKNOWN, steps
            return best
    return Outcome(Verdict.LINEARIZABLE, history, order, states, steps)


def cut(history: Sequence[Operation], time: float) -> list[Operation]:
    """What was known at a time: later calls are left out, calls under way are open."""
    begun = [op for op in history if op.called <= time]
    return [op if op.returned <= time or not op.known else replace(op, returned=inf, output=None) for op in begun]


def shortest_illegal(model: Model, history: Sequence[Operation], *, budget: int = BUDGET_STEPS) -> Outcome:
    """The smallest illegal beginning of an illegal part: every beginning of a legal history is legal."""
    times = sorted(op.returned for op in history if op.known)
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        verdict = search(model, cut(history, times[middle]), budget=budget).verdict
        low, high = (low, middle) if verdict is Verdict.ILLEGAL else (middle + 1, high)
    return search(model, cut(history, times[low]), budget=budget)


def render(model: Model, outcome: Outcome, *, last: int = 40) -> str:
    """A timeline of the part's end (`last` operations), and where the search came to."""
    history = outcome.history
    shown = sorted(range(len(history)), key=lambda i: (history[i].returned, history[i].called))
    closed = [i for i in shown if history[i].known]
    start = history[closed[-last]].called if len(closed) > last else -inf
    shown = sorted((i for i in shown if history[i].returned >= start), key=lambda i: history[i].called)
    times = sorted({t for i in shown for t in (history[i].called, history[i].returned) if t != inf})
    column = {t: n * (_COLUMNS - 1) // max(1, len(times) - 1) for n, t in enumerate(times)}
    placed = {i: n for n, i in enumerate(outcome.order, 1)}
    lines = [
        f"{outcome.verdict.value}: {len(outcome.order)} of {len(history)} operations placed, {outcome.steps} steps"
    ]
    for i in shown:
        op = history[i]
        left = column[op.called]
        right = column[op.returned] if op.known else _COLUMNS
        bar = " " * left + "|" + "-" * max(0, right - left - 1) + ("|" if op.known else ">")
        place = f"#{placed[i]}" if i in placed else ("?" if not op.known else "NOT PLACED")
        lines.append(f"{bar:<{_COLUMNS + 1}} {op.client:<8} {place:<10} {model.describe(op.input, op.output)}")
    lines.append("the longest order found ends in " + " or ".join(sorted(map(model.describe_state, outcome.states))))
    return "\n".join(lines)
