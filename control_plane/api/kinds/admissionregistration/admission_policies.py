"""Mutating and validating admission policies."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import not_supported, required
from rayplane.control_plane.api.kinds.admissionregistration.match_resources import default_match, validate_match
from rayplane.control_plane.api.kinds.metadata import Errors, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, NO_UPDATE_RULES, Status
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


def _parts(spec: dict[str, Any]) -> Errors:
    """What both kinds have: a policy for failures, the objects it is about, conditions with names of their own."""
    errs: Errors = []
    one_of(spec.get("failurePolicy"), ("Fail", "Ignore"), "spec.failurePolicy", errs)
    if spec.get("matchConstraints") is None:
        errs.append(required("spec.matchConstraints"))
    else:
        validate_match(spec["matchConstraints"], "spec.matchConstraints", errs)
        if not spec["matchConstraints"].get("resourceRules"):
            errs.append(required("spec.matchConstraints.resourceRules"))
    kind = spec.get("paramKind")
    for field in ("apiVersion", "kind"):
        if kind is not None and not kind.get(field):
            errs.append(required(f"spec.paramKind.{field}"))
    for index, condition in enumerate(spec.get("matchConditions") or ()):
        for field in ("name", "expression"):
            if not condition.get(field):
                errs.append(required(f"spec.matchConditions[{index}].{field}"))
    return errs


def _validate_validating(obj: Object) -> Errors:
    spec = obj.get("spec") or {}
    errs = _parts(spec)
    if not spec.get("validations") and not spec.get("auditAnnotations"):
        text = "validations or auditAnnotations must contain at least one item"
        errs += [required("spec.validations", text), required("spec.auditAnnotations", text)]
    for index, validation in enumerate(spec.get("validations") or ()):
        if not (validation.get("expression") or "").strip():
            errs.append(required(f"spec.validations[{index}].expression", "expression is not specified"))
    return errs


def _validate_mutating(obj: Object) -> Errors:
    spec = obj.get("spec") or {}
    errs = _parts(spec)
    if not spec.get("mutations"):
        errs.append(required("spec.mutations", "mutations must contain at least one item"))
    for index, mutation in enumerate(spec.get("mutations") or ()):
        at, kind = f"spec.mutations[{index}]", mutation.get("patchType") or ""
        if kind not in _PATCHES:
            errs.append(not_supported(f"{at}.patchType", kind, sorted(_PATCHES)))
        elif mutation.get(_PATCHES[kind]) is None:
            errs.append(required(f"{at}.{_PATCHES[kind]}", f"must be specified when patchType is {kind}"))
    one_of(spec.get("reinvocationPolicy"), ("IfNeeded", "Never"), "spec.reinvocationPolicy", errs)
    return errs


_PATCHES = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}


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
        status=Status({}, metadata=frozenset()),
        generation=True,
        printer=Printer((NAME, Column("Validations", "integer"), Column("ParamKind"), AGE), _validating_row),
    ),
}
