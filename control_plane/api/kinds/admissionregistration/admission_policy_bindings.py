"""Bindings of mutating and validating admission policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import not_supported, required
from rayplane.control_plane.api.kinds.admissionregistration.match_resources import default_match, validate_match
from rayplane.control_plane.api.kinds.metadata import Errors, checked, validate_selector
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, UNSET, Cell, Column, Printer, age, go_selector_text
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    return [name(obj), spec.get("policyName") or "", _parameters(spec.get("paramRef") or {}), age(obj, now)]


def _parameters(ref: Mapping[str, Any]) -> str:
    """Which parameters: whether they are of a namespace cannot be told from here."""
    if ref.get("name"):
        return f"{ref.get('namespace') or '*'}/{ref['name']}"
    return UNSET if ref.get("selector") is None else go_selector_text(ref["selector"])


_ACTIONS = ("Audit", "Deny", "Warn")


def _default(obj: Object) -> None:
    match = (obj.get("spec") or {}).get("matchResources")
    if match is not None:
        default_match(match)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    policy, ref = spec.get("policyName") or "", spec.get("paramRef")
    if not policy:
        errs.append(required("spec.policyName"))
    else:
        checked(names.subdomain_errors(policy), policy, "spec.policyName", errs)
    if ref is not None:
        if bool(ref.get("name")) == (ref.get("selector") is not None):
            errs.append(required("spec.paramRef", "one of name or selector must be specified"))
        validate_selector(ref.get("selector"), "spec.paramRef.selector", errs)
        if ref.get("parameterNotFoundAction") not in ("Allow", "Deny"):
            errs.append(required("spec.paramRef.parameterNotFoundAction"))
    if spec.get("matchResources") is not None:
        validate_match(spec["matchResources"], "spec.matchResources", errs)
    return errs


def _validate_validating(obj: Object) -> Errors:
    errs = _validate(obj)
    actions = (obj.get("spec") or {}).get("validationActions") or ()
    if not actions:
        errs.append(required("spec.validationActions", "at least one validation action is required"))
    for action in actions:
        if action not in _ACTIONS:
            errs.append(not_supported("spec.validationActions", action, _ACTIONS))
    return errs


RULES = {
    "MutatingAdmissionPolicyBinding": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("PolicyName"), Column("ParamRef"), AGE), _row),
    ),
    "ValidatingAdmissionPolicyBinding": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate_validating,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("PolicyName"), Column("ParamRef"), AGE), _row),
    ),
}
