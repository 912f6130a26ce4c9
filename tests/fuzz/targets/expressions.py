"""Expressions in CEL: spoiled and put together, compiled, and evaluated within a budget."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator

from rayplane.control_plane.cel import BudgetExceeded, CelError, CompileError, compile, evaluate, value_of
from tests.cel.environment import DECLARATIONS, OBJECT, SELF
from tests.cel.test_costs import HEAVY
from tests.cel.test_library import TRUE as LIBRARY
from tests.cel.test_values import FAILS
from tests.cel.test_values import TRUE as VALUES
from tests.fuzz import mutate

CASES = 300
CASES_PER_WORLD = 10_000
BUDGET = 20_000
_KNOWN = [*VALUES, *LIBRARY, *(case.partition(" => ")[0] for case in FAILS), *HEAVY]
_AROUND = ("{} && {}", "{} || {}", "[{}, {}]", "{} == {}", "self.names.map(x, {}) + [{}]", "({}) ? ({}) : self.n")
_MANY = 8


def make(rng: random.Random) -> str:
    text = rng.choice(_KNOWN)
    if rng.random() < 0.3:
        text = rng.choice(_AROUND).format(text, rng.choice(_KNOWN))
    if rng.random() < 0.2:
        source = rng.choice(("self.names", "self.rows", "self.limits", "'a b c'.split(' ')"))
        text = f"{source}.{rng.choice(('all', 'exists', 'map', 'filter', 'exists_one'))}(x, {text})"
    if rng.random() < 0.1:
        text = rng.choice("([-!") * rng.randrange(1, 400) + text
    return mutate.of_text(rng, text) if rng.random() < 0.6 else text


class Evaluator:
    def __init__(self) -> None:
        self._bindings = {"self": value_of(OBJECT, SELF), "any": {}, "l": list(range(50)), "t": "a" * 500}

    async def run(self, case: str) -> None:
        try:
            program = compile(case, DECLARATIONS)
        except CompileError as refused:
            assert refused.issues
            return
        found = evaluate(program, self._bindings, BUDGET)
        assert found.error is None or isinstance(found.error, CelError)
        if found.error is None:
            assert found.cost <= BUDGET
            assert found.cost <= program.cost.high, f"costs {found.cost}, estimated {program.cost.high}"
            assert evaluate(program, self._bindings, found.cost).value == found.value or found.value != found.value
        elif not isinstance(found.error, BudgetExceeded):
            assert str(evaluate(program, self._bindings, BUDGET).error) == str(found.error)

    async def good(self) -> None:
        assert evaluate(compile("self.n == 3", DECLARATIONS), self._bindings, BUDGET).value is True

    def sizes(self) -> dict[str, int]:
        return {}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Evaluator]:
    yield Evaluator()
