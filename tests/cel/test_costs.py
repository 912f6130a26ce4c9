"""What expressions cost: estimates bound what is measured, and no evaluation goes beyond its budget."""

import pytest

from rayplane.control_plane.cel import BudgetExceeded, Declarations, compile, evaluate, list_of
from rayplane.control_plane.cel.types import INT, STRING
from tests.cel.environment import BUDGET, DECLARATIONS, outcome
from tests.cel.test_library import TRUE as LIBRARY
from tests.cel.test_values import TRUE as VALUES

UNBOUNDED = (1 << 64) - 1
# Measured and estimated, by hand from the prices of names, fields, calls and characters.
KNOWN = [
    ("self.n == 3", 3, (3, 3)),
    ("self.text.startsWith('hé')", 3, (3, 3)),
    ("self.names.all(x, x == 'ada')", 15, (3, 53)),
    ("has(self.absent)", 1, (1, 1)),
    ("self.n in [1, 2, 3]", 5, (15, 15)),
    ("self.text.contains('x')", 3, (2, 4)),
    ("self.text.matches('^a+$')", 3, (3, 5)),
    ("self.limits.map(k, k).size()", 30, (14, 79)),
    ("self.text + self.text", 5, (4, 8)),
    ("[1, 2, 3].sort() == []", 29, (49, 49)),
    ("self.names.slice(0, 1) == []", 14, (24, 24)),
]


@pytest.mark.parametrize(("expression", "measured", "estimated"), KNOWN)
def test_costs_are_as_known(expression: str, measured: int, estimated: tuple[int, int]) -> None:
    cost = compile(expression, DECLARATIONS).cost
    assert (outcome(expression).cost, (cost.low, cost.high)) == (measured, estimated)


@pytest.mark.parametrize("expression", [e for e in (*VALUES, *LIBRARY) if "'''" not in e])
def test_the_estimate_is_never_less_than_what_is_measured(expression: str) -> None:
    assert outcome(expression).cost <= compile(expression, DECLARATIONS).cost.high


def test_what_has_no_bound_has_no_estimate() -> None:
    assert compile("self.free + 'x' == 'x'", DECLARATIONS).cost.high < UNBOUNDED
    assert compile("self.unbounded.all(x, self.unbounded.all(y, x != y))", DECLARATIONS).cost.high > 10**12
    assert compile("string(self.n) + 'x'", DECLARATIONS).cost.high == UNBOUNDED


def test_an_evaluation_ends_with_its_budget() -> None:
    needed = outcome("self.names.all(x, self.names.all(y, x.size() == y.size()))").cost
    expression = "self.names.all(x, self.names.all(y, x.size() == y.size()))"
    assert outcome(expression, budget=needed).value is True
    stopped = outcome(expression, budget=needed - 1)
    assert isinstance(stopped.error, BudgetExceeded)
    assert str(stopped.error) == "operation cancelled: actual cost limit exceeded"


HEAVY = [
    "l.map(a, l.sort()).size() > 0",
    "l.map(a, l.distinct()).size() > 0",
    "l.map(a, [l, l, l, l].flatten()).size() > 0",
    "l.map(a, lists.range(1000000000)).size() > 0",
    "l.all(a, l.all(b, l.all(c, l.all(d, a + b + c + d >= 0))))",
    "l.map(a, l + l + l + l).size() > 0",
    "l.map(a, l == l && l == l && l == l).all(x, x)",
    "l.map(a, t + t + t + t).map(x, x + x).size() > 0",
    "l.map(a, t.replace('', t)).size() > 0",
    "l.map(a, t.findAll('a.*z|a')).size() > 0",
    "l.map(a, t.matches('(a?){50}a{50}$')).size() > 0",
    "l.map(a, sets.equivalent(l, l)).size() > 0",
    "l.map(a, l.map(b, l.map(c, l))).size() > 0",
    "l.map(a, '%s'.format([l])).size() > 0",
]


@pytest.mark.parametrize("expression", HEAVY)
def test_no_expression_runs_longer_than_its_budget(expression: str) -> None:
    declarations = Declarations({"l": list_of(INT), "t": STRING})
    bindings = {"l": list(range(2000)), "t": "a" * 100_000}
    program = compile(expression, declarations)
    found = evaluate(program, bindings, BUDGET)
    assert isinstance(found.error, BudgetExceeded), found.error
    assert found.cost <= BUDGET * 10  # what the last call costs is known when it is done
