"""Programs: compiled expressions, their cost, and one evaluation of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rayplane.control_plane.cel import costs, evaluator
from rayplane.control_plane.cel.checker import Declarations, check
from rayplane.control_plane.cel.errors import CelError, CompileError, EvaluationError, Issue
from rayplane.control_plane.cel.functions import Overload, Range
from rayplane.control_plane.cel.library import FUNCTIONS
from rayplane.control_plane.cel.parser import parse
from rayplane.control_plane.cel.syntax import Ident, Node, walk
from rayplane.control_plane.cel.types import Type


@dataclass(frozen=True)
class Program:
    """A compiled expression; immutable, and for any number of evaluations at once."""

    expression: str
    tree: Node = field(repr=False)
    step: evaluator.Step = field(repr=False, compare=False)

    @property
    def type(self) -> Type:
        """What an evaluation gives."""
        return self.tree.type

    @cached_property
    def cost(self) -> Range:
        """The least and the most that an evaluation can cost."""
        return costs.estimate(self.tree)

    @cached_property
    def names(self) -> frozenset[str]:
        """The variables that are looked at."""
        return frozenset(node.name for node in walk(self.tree) if isinstance(node, Ident))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One evaluation: its value, or why there is none, and what it has cost."""

    cost: int
    value: Any = None
    error: CelError | None = None


def compile(
    expression: str,
    declarations: Declarations,
    *,
    results: Sequence[Type] = (),
    functions: Mapping[str, Sequence[Overload]] = FUNCTIONS,
) -> Program:
    """Parse and check an expression, which must give one of `results` if there are any. Raises CompileError."""
    tree = parse(expression, binds=declarations.binds)
    check(expression, tree, declarations, functions)
    if results and tree.type.kind not in ("dyn", *(wanted.kind for wanted in results)):
        wanted = " or ".join(str(one) for one in results)
        raise CompileError(expression, [Issue(tree.position, f"must evaluate to {wanted}")])
    return Program(expression, tree, evaluator.build(tree))


def evaluate(
    program: Program, bindings: Mapping[str, Any], budget: int, *, running: list[evaluator.Frame] | None = None
) -> Outcome:
    """The value of a program for some variables, which costs no more than the budget.

    `running` has the evaluations under way: a variable that is itself evaluated when it is looked at finds there what
    those that look at it have cost so far.
    """
    frame = evaluator.Frame(dict(bindings), budget)
    if running is not None:
        running.append(frame)
    try:
        value = program.step(frame)
    except CelError as error:
        return Outcome(frame.cost, error=error)
    except (RecursionError, OverflowError, TypeError, AttributeError):
        # Values that are not what was declared, and numbers that Python cannot hold.
        return Outcome(frame.cost, error=EvaluationError("no such overload"))
    finally:
        if running is not None:
            running.pop()
    return Outcome(frame.cost, value)
