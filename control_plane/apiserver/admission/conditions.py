"""Match conditions: expressions that a request must meet to be a webhook's or a policy's business. Pure.

Source: admissionregistration.k8s.io/v1 MatchCondition, apiserver's plugin/webhook/matchconditions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.apiserver.admission.expressions import (
    Expression,
    Failed,
    Limits,
    OutOfBudget,
    Run,
    declarations,
)
from rayplane.control_plane.cel import BOOL


class Undecided(ValueError):
    """Conditions of which none is false and one has no value; it says which."""


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """Conditions of one webhook or policy, all of which must hold."""

    expressions: tuple[Expression, ...]

    @staticmethod
    def of(conditions: Iterable[Mapping[str, Any]], *, params: bool = False) -> "Conditions":
        """`params`: whether they may name them, as those of a policy that has some."""
        names = declarations(params=params)
        return Conditions(tuple(Expression.of((c.get("expression") or "").strip(), names, BOOL) for c in conditions))

    def hold(self, names: Mapping[str, Any], limits: Limits) -> bool:
        """Whether they hold, where names mean these values. Raises Undecided, or TooDear."""
        run, errors = Run(names, limits, limits.conditions), []
        for expression in self.expressions:
            try:
                if run.value(expression) is not True:
                    return False
            except Failed as e:
                errors.append(str(e))
            except OutOfBudget as e:
                raise Undecided(str(e)) from e
        if errors:
            raise Undecided(errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]")
        return True
