"""Mutating and validating admission policies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import duplicate, invalid, not_supported, required
from rayplane.control_plane.api.kinds.admissionregistration.match_resources import (
    default_match,
    validate_conditions,
    validate_match,
    validate_mutable,
    validate_parameters_kind,
)
from rayplane.control_plane.api.kinds.conditions import validate_conditions as validate_status_conditions
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, NO_UPDATE_RULES, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import (
    AGE,
    NAME,
    UNSET,
    Cell,
    Column,
    Printer,
    age,
)
from rayplane.control_plane.api.meta import Object, name


def _validating_row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    return [name(obj), len(spec.get("validations") or ()), _param_kind(spec), age(obj, now)]


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("failurePolicy"):
        spec["failurePolicy"] = "Fail"
    if spec.get("matchConstraints") is not None:
        default_match(spec["matchConstraints"])


def _parts(spec: dict[str, Any], *, mutable: bool = False) -> Errors:
    """What both kinds have: a policy for failures, the objects it is about, conditions and variables with names."""
    errs: Errors = []
    one_of(spec.get("failurePolicy"), ("Fail", "Ignore"), "spec.failurePolicy", errs)
    if spec.get("paramKind") is not None:
        validate_parameters_kind(spec["paramKind"], "spec.paramKind", errs)
    match = spec.get("matchConstraints")
    if match is None:
        errs.append(required("spec.matchConstraints"))
    else:
        validate_match(match, "spec.matchConstraints", errs)
        if not match.get("resourceRules"):
            errs.append(required("spec.matchConstraints.resourceRules"))
        if mutable:
            validate_mutable(match, "spec.matchConstraints", errs)
    validate_conditions(spec.get("matchConditions") or (), "spec.matchConditions", errs)
    for index, variable in enumerate(spec.get("variables") or ()):
        at, own = f"spec.variables[{index}]", variable.get("name") or ""
        if not own.strip():
            errs.append(required(f"{at}.name", "name is not specified"))
        elif not _IDENTIFIER.fullmatch(own) or own in _RESERVED:
            errs.append(invalid(f"{at}.name", own, "name is not a valid CEL identifier"))
        _expression(variable, "expression", at, errs)
    return errs


_IDENTIFIER = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_WORDS = (
    "true false null in as break const continue else for function if import let loop package namespace return var void"
)
_RESERVED = frozenset((*_WORDS.split(), "while"))


def _expression(holder: Mapping[str, Any], field: str, path: str, errs: Errors) -> None:
    if not (holder.get(field) or "").strip():
        errs.append(required(f"{path}.{field}", f"{field} is not specified"))


def _validate_validating(obj: Object) -> Errors:
    spec = obj.get("spec") or {}
    errs = _parts(spec)
    annotations = spec.get("auditAnnotations") or []
    if not spec.get("validations") and not annotations:
        text = "validations or auditAnnotations must contain at least one item"
        errs += [required("spec.validations", text), required("spec.auditAnnotations", text)]
        return errs
    for index, validation in enumerate(spec.get("validations") or ()):
        _validation(validation, f"spec.validations[{index}]", errs)
    if len(annotations) > _ANNOTATIONS_MAX:
        text = f"must not have more than {_ANNOTATIONS_MAX} auditAnnotations"
        errs.append(invalid("spec.auditAnnotations", annotations, text))
    seen: set[str] = set()
    own = (obj.get("metadata") or {}).get("name") or ""
    for index, annotation in enumerate(annotations):
        at, key = f"spec.auditAnnotations[{index}]", annotation.get("key") or ""
        if own:
            checked(names.qualified_name_errors(f"{own}/{key}"), f"{own}/{key}", f"{at}.key", errs)
        else:
            errs.append(invalid(f"{at}.key", key, "requires metadata.name be non-empty"))
        _expression(annotation, "valueExpression", at, errs)
        if len((annotation.get("valueExpression") or "").strip().encode()) > _VALUE_BYTES_MAX:
            errs.append(required(f"{at}.valueExpression", f"must not exceed {_VALUE_BYTES_MAX} bytes in length"))
        if key in seen:
            errs.append(duplicate(f"{at}.key", key))
        seen.add(key)
    return errs


_ANNOTATIONS_MAX = 20
_VALUE_BYTES_MAX = 5 * 1024
_REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge")


def _validation(validation: Mapping[str, Any], path: str, errs: Errors) -> None:
    _expression(validation, "expression", path, errs)
    telling, message = validation.get("messageExpression") or "", validation.get("message") or ""
    if telling and not telling.strip():
        errs.append(invalid(f"{path}.messageExpression", telling, "must be non-empty if specified"))
    if message and not message.strip():
        errs.append(invalid(f"{path}.message", message, "message must be non-empty if specified"))
    elif not {"\n", "\r"}.isdisjoint(message.strip()):
        errs.append(invalid(f"{path}.message", message, "message must not contain line breaks"))
    if validation.get("reason") is not None:
        one_of(validation["reason"], _REASONS, f"{path}.reason", errs)


def _validate_mutating(obj: Object) -> Errors:
    spec = obj.get("spec") or {}
    errs = _parts(spec, mutable=True)
    if not spec.get("mutations"):
        errs.append(required("spec.mutations", "mutations must contain at least one item"))
    for index, mutation in enumerate(spec.get("mutations") or ()):
        _mutation(mutation, f"spec.mutations[{index}]", errs)
    if not spec.get("reinvocationPolicy"):
        errs.append(required("spec.reinvocationPolicy"))
    else:
        one_of(spec["reinvocationPolicy"], ("IfNeeded", "Never"), "spec.reinvocationPolicy", errs)
    return errs


_PATCHES = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}


def _mutation(mutation: Mapping[str, Any], path: str, errs: Errors) -> None:
    kind = mutation.get("patchType") or ""
    if not kind:
        errs.append(required(f"{path}.patchType"))
        return
    if kind not in _PATCHES:
        errs.append(not_supported(f"{path}.patchType", kind, sorted(_PATCHES)))
        return
    own = _PATCHES[kind]
    patch = mutation.get(own)
    if patch is None:
        errs.append(required(f"{path}.{own}", f"must be specified when patchType is {kind}"))
    elif not (patch.get("expression") or "").strip():
        errs.append(required(f"{path}.{own}.expression"))
    for other in _PATCHES.values():
        if other != own and mutation.get(other) is not None:
            text = f"must not be specified when patchType is {kind}"
            errs.append(invalid(f"{path}.{other}", f"{{{other}}}", text))


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    status = new.get("status") or {}
    for index, warning in enumerate((status.get("typeChecking") or {}).get("expressionWarnings") or ()):
        at = f"status.typeChecking.expressionWarnings[{index}]"
        errs += [required(f"{at}.{f}") for f in ("warning", "fieldRef") if not (warning.get(f) or "").strip()]
    validate_status_conditions(status.get("conditions") or (), "status.conditions", errs)
    return errs


def _mutating_row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    return [name(obj), len(spec.get("mutations") or ()), _param_kind(spec), age(obj, now)]


def _param_kind(spec: dict[str, Any]) -> str:
    kind = spec.get("paramKind")
    return f"{kind.get('apiVersion')}/{kind.get('kind')}" if kind else UNSET


RULES = {
    "MutatingAdmissionPolicy": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate_mutating,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Mutations", "integer"), Column("ParamKind"), AGE), _mutating_row),
    ),
    "ValidatingAdmissionPolicy": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate_validating,
        validate_update=NO_UPDATE_RULES,
        validate_status_update=_validate_status,
        status=Status({}, metadata=frozenset()),
        generation=True,
        printer=Printer((NAME, Column("Validations", "integer"), Column("ParamKind"), AGE), _validating_row),
    ),
}
