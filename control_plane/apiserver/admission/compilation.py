"""Findings on the expressions of webhooks and policies that are to be stored. Pure.

Source: Kubernetes' `pkg/apis/admissionregistration/validation`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rayplane.control_plane.api.admission.matching import GROUP
from rayplane.control_plane.api.errors import FieldError, invalid
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission import mutations
from rayplane.control_plane.apiserver.admission.conditions import Conditions
from rayplane.control_plane.apiserver.admission.expressions import Expression
from rayplane.control_plane.apiserver.admission.policies import Compiled

_Found = Iterator[tuple[str, str, Expression | None]]
"""Paths of expressions, as they are written and compiled."""


def errors_of(o: Object, info: ResourceInfo) -> list[FieldError]:
    """Problems of what has expressions; one that is missing or blank is none of them."""
    if info.group != GROUP:
        return []
    found = _OF_POLICIES[info.kind](o.get("spec") or {}) if info.kind in _OF_POLICIES else _of_webhooks(o)
    return [
        invalid(path, text, expression.problem)
        for path, text, expression in found
        if expression is not None and expression.problem and text.strip()
    ]


def _of_webhooks(o: Object) -> _Found:
    for index, webhook in enumerate(o.get("webhooks") or ()):
        conditions = webhook.get("matchConditions") or ()
        yield from _of_conditions(f"webhooks[{index}]", conditions, Conditions.of(conditions))


def _of_conditions(path: str, written: Any, compiled: Conditions) -> _Found:
    for index, expression in enumerate(compiled.expressions):
        yield f"{path}.matchConditions[{index}].expression", written[index].get("expression") or "", expression


def _of_policy(spec: Mapping[str, Any]) -> _Found:
    compiled = Compiled(spec)
    yield from _of_parts(spec, compiled.conditions, compiled.variables)
    for index, (validation, made_of) in enumerate(
        zip(spec.get("validations") or (), compiled.validations, strict=True)
    ):
        path = f"spec.validations[{index}]"
        yield f"{path}.expression", validation.get("expression") or "", made_of.expression
        yield f"{path}.messageExpression", validation.get("messageExpression") or "", made_of.message_expression
    for index, (annotation, (_, value)) in enumerate(
        zip(spec.get("auditAnnotations") or (), compiled.annotations, strict=True)
    ):
        yield f"spec.auditAnnotations[{index}].valueExpression", annotation.get("valueExpression") or "", value


def _of_parts(spec: Mapping[str, Any], conditions: Conditions, variables: Mapping[str, Expression]) -> _Found:
    yield from _of_conditions("spec", spec.get("matchConditions") or (), conditions)
    for index, variable in enumerate(spec.get("variables") or ()):
        made = variables[variable.get("name") or ""]
        yield f"spec.variables[{index}].expression", variable.get("expression") or "", made


def _of_mutating(spec: Mapping[str, Any]) -> _Found:
    compiled = mutations.Compiled(spec)
    yield from _of_parts(spec, compiled.conditions, compiled.variables)
    for mutation in compiled.mutations:
        yield mutation.path, mutation.expression.text, mutation.expression


_OF_POLICIES = {"ValidatingAdmissionPolicy": _of_policy, "MutatingAdmissionPolicy": _of_mutating}
