"""Errors of expressions: what cannot be compiled, what fails when it is evaluated, and what would cost too much."""

from __future__ import annotations

from dataclasses import dataclass


class CelError(ValueError):
    """Root of what can be wrong with an expression."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding of the compiler, at an offset of the source."""

    position: int
    message: str


class CompileError(CelError):
    """An expression that is no expression, or of the wrong types; the text is laid out as cel-go lays it out."""

    def __init__(self, source: str, issues: list[Issue]) -> None:
        self.issues = tuple(issues)
        super().__init__("\n".join(_shown(source, issue) for issue in issues))


class EvaluationError(CelError):
    """An evaluation that has no value: no such key, no such overload, division by zero."""


class BudgetExceeded(CelError):
    """An evaluation that was ended since it has cost what it may."""

    def __init__(self) -> None:
        super().__init__("operation cancelled: actual cost limit exceeded")


def _shown(source: str, issue: Issue) -> str:
    line = source.count("\n", 0, issue.position) + 1
    start = source.rfind("\n", 0, issue.position) + 1
    column = issue.position - start
    end = source.find("\n", start)
    text = source[start : end if end >= 0 else len(source)].replace("\t", " ")
    return f"ERROR: <input>:{line}:{column + 1}: {issue.message}\n | {text}\n | {'.' * column}^"
