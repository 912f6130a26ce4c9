"""Match conditions: expressions that a request must meet to be a webhook's or a policy's business.

Source: admissionregistration.k8s.io/v1 MatchCondition, apiserver's plugin/webhook/matchconditions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api.admission.reviews import Question
from rayplane.control_plane.cel import BOOL, DYN, CompileError, Declarations, Program, compile, evaluate

VARIABLES = Declarations({"object": DYN, "oldObject": DYN, "request": DYN})
#: What all conditions of one webhook may cost for one request: a quarter of what a policy may.
BUDGET = 2_500_000
CONDITIONS_MAX = 64


class Undecided(ValueError):
    """Conditions of which none is false and one has no value; it says which."""


def compiled(expression: str) -> Program:
    """Raises CompileError."""
    return compile(expression, VARIABLES, results=(BOOL,))


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """Conditions of one webhook, all of which must hold."""

    programs: tuple[tuple[str, Program | CompileError], ...]

    @staticmethod
    def of(conditions: Iterable[Mapping[str, Any]]) -> "Conditions":
        return Conditions(tuple((c["name"], _program(c["expression"])) for c in conditions))

    def hold(self, question: Question) -> bool:
        """Raises Undecided."""
        if not self.programs:
            return True
        errors, left, variables = [], BUDGET, _variables(question)
        for name, program in self.programs:
            if isinstance(program, CompileError):
                errors.append(f"{name}: {program}")
                continue
            outcome = evaluate(program, variables, left)
            left -= outcome.cost
            if outcome.error is not None:
                errors.append(f"{name}: {outcome.error}")
            elif outcome.value is not True:
                return False
        if errors:
            raise Undecided("; ".join(errors))
        return True


def _program(expression: str) -> Program | CompileError:
    try:
        return compiled(expression)
    except CompileError as e:
        # Stored by a server that knows more functions.
        return e


def _variables(question: Question) -> dict[str, Any]:
    request = question.review("v1")["request"]
    return {"object": request.pop("object"), "oldObject": request.pop("oldObject"), "request": request}
