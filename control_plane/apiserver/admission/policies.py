"""Validating admission policies: expressions that judge what is written. Pure.

Source: apiserver's plugin/policy/validating (`validator.go`, `policy_decision.go`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from rayplane.control_plane.api.admission.matching import Matching
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.apiserver.admission.conditions import Conditions, Undecided
from rayplane.control_plane.apiserver.admission.expressions import (
    Expression,
    Failed,
    Limits,
    OutOfBudget,
    Run,
    declarations,
    variables_of,
)
from rayplane.control_plane.cel import BOOL, STRING, Declarations
from rayplane.control_plane.cel.types import NULL

_MESSAGE_BYTES_MAX: Final = 5 * 1024
_EVERYTHING: Final = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}


@dataclass(frozen=True, slots=True)
class Denial:
    """A validation that did not hold or has no value. `index`: its place among the policy's."""

    message: str
    reason: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The findings of a policy on a request, once for each of its parameters."""

    denials: Sequence[Denial] = ()
    annotations: Sequence[tuple[str, str]] = ()
    """What the audit log is told, by key."""
    failures: Sequence[str] = ()
    """Annotations without a value, which refuse a request whatever a binding says."""


@dataclass(frozen=True, slots=True)
class Validation:
    """One expression that must be true, and what is said when it is not."""

    expression: Expression
    message: str
    message_expression: Expression | None
    reason: str


class AnyPolicy:
    """A policy of either kind; its expressions are compiled when the first request meets it."""

    def __init__(self, o: Object) -> None:
        self.name = name(o)
        self.spec: Mapping[str, Any] = o.get("spec") or {}
        self.matching = Matching.of(self.spec.get("matchConstraints") or {})
        self.fails = self.spec.get("failurePolicy") != "Ignore"
        kind = self.spec.get("paramKind")
        self.param_kind: tuple[str, str] | None = (kind["apiVersion"], kind["kind"]) if kind else None


class Policy(AnyPolicy):
    """A policy as it is stored."""

    @cached_property
    def compiled(self) -> Compiled:
        return Compiled(self.spec)

    def judge(self, names: Mapping[str, Any], limits: Limits) -> Judgement:
        """What it finds where names mean these values: what fails refuses, or is ignored, as the policy says.

        Raises TooDear.
        """
        compiled = self.compiled
        try:
            if compiled.conditions.expressions and not compiled.conditions.hold(names, limits):
                return Judgement()
            denials = list(self._denials(names, limits))
            annotations, failures = self._annotations(names, limits)
        except (Undecided, OutOfBudget) as e:
            return Judgement([Denial(str(e))] if self.fails else [])
        return Judgement(denials, annotations, failures)

    def _denials(self, names: Mapping[str, Any], limits: Limits) -> Iterator[Denial]:
        """Raises OutOfBudget."""
        run = Run(names, limits, limits.policy, self.compiled.variables)
        found: list[tuple[int, Validation, str]] = []
        for index, validation in enumerate(self.compiled.validations):
            try:
                if run.value(validation.expression) is not True:
                    found.append((index, validation, ""))
            except Failed as e:
                if self.fails:
                    found.append((index, validation, str(e)))
        messages = Run(names, limits, run.left, self.compiled.variables)
        for index, validation, error in found:
            if error:
                yield Denial(error, index=index)
                continue
            try:
                yield Denial(_message(validation, messages), validation.reason, index)
            except OutOfBudget as e:
                if self.fails:
                    yield Denial(f"failed messageExpression: {e}", index=index)

    def _annotations(self, names: Mapping[str, Any], limits: Limits) -> tuple[list[tuple[str, str]], list[str]]:
        """Raises OutOfBudget."""
        found, failures = [], []
        run = Run(names, limits, limits.policy, self.compiled.variables)
        for key, expression in self.compiled.annotations:
            try:
                value = run.value(expression)
            except Failed as e:
                if self.fails:
                    failures.append(str(e))
                continue
            if isinstance(value, str) and value.strip():
                found.append((key, value.strip()))
        return found, failures


class Compiled:
    """The expressions of a policy."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        params = bool(spec.get("paramKind"))
        self.conditions = Conditions.of(spec.get("matchConditions") or (), params=params)
        self.variables, types = variables_of(spec, params=params)
        known = types if self.variables else None
        names = declarations(params=params, variables=known)
        # Whoever is refused is told nothing that only the authorizer knows.
        telling = declarations(params=params, variables=known, authorizer=False)
        self.validations = tuple(
            Validation(
                expression=Expression.of(v.get("expression") or "", names, BOOL),
                message=(v.get("message") or "").strip(),
                message_expression=_optional(v.get("messageExpression"), telling),
                reason=v.get("reason") or "",
            )
            for v in spec.get("validations") or ()
        )
        self.annotations = tuple(
            (a.get("key") or "", Expression.of((a.get("valueExpression") or "").strip(), names, STRING, NULL))
            for a in spec.get("auditAnnotations") or ()
        )

    def names(self, variable: str) -> bool:
        """Whether an expression looks at a variable, as `namespaceObject`."""
        messages = (v.message_expression for v in self.validations if v.message_expression is not None)
        every = (
            *self.variables.values(),
            *(v.expression for v in self.validations),
            *messages,
            *(expression for _, expression in self.annotations),
        )
        return any(expression.uses(variable) for expression in every)

    @cached_property
    def needs_namespace(self) -> bool:
        return self.names("namespaceObject")


def _optional(text: str | None, names: Declarations) -> Expression | None:
    return Expression.of(text, names, STRING) if text else None


class Binding:
    """A binding: where a policy is in force, with which parameters, and what comes of its denials."""

    def __init__(self, o: Object) -> None:
        spec = o.get("spec") or {}
        self.name = name(o)
        self.policy: str = spec.get("policyName") or ""
        self.actions: tuple[str, ...] = tuple(spec.get("validationActions") or ())
        self.param_ref: Mapping[str, Any] | None = spec.get("paramRef")
        match = spec.get("matchResources") or {}
        self.matching = Matching.of({**match, "resourceRules": match.get("resourceRules") or [_EVERYTHING]})


def _message(validation: Validation, run: Run) -> str:
    """Raises OutOfBudget."""
    message = ""
    if validation.message_expression is not None:
        try:
            message = run.value(validation.message_expression).strip()
        except (Failed, AttributeError):
            # It has no value, or one that is no text: the policy's other words are said.
            message = ""
        if len(message.encode(errors="replace")) > _MESSAGE_BYTES_MAX or "\n" in message:
            message = ""
    return message or validation.message or f"failed expression: {validation.expression.text.strip()}"
