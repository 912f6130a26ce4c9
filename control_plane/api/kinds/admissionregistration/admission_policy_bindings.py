"""Bindings of mutating and validating admission policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import duplicate, invalid, not_supported, required
from rayplane.control_plane.api.kinds.admissionregistration.match_resources import (
    default_match,
    validate_match,
    validate_mutable,
    validate_parameters,
)
from rayplane.control_plane.api.kinds.metadata import Errors, checked
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
        validate_parameters(ref, "spec.paramRef", errs)
    if spec.get("matchResources") is not None:
        validate_match(spec["matchResources"], "spec.matchResources", errs)
    return errs


def _validate_mutating(obj: Object) -> Errors:
    errs = _validate(obj)
    validate_mutable((obj.get("spec") or {}).get("matchResources") or {}, "spec.matchResources", errs)
    return errs


def _validate_validating(obj: Object) -> Errors:
    errs = _validate(obj)
    path, actions = "spec.validationActions", (obj.get("spec") or {}).get("validationActions") or []
    seen: set[str] = set()
    for index, action in enumerate(actions):
        if action not in _ACTIONS:
            errs.append(not_supported(f"{path}[{index}]", action, _ACTIONS))
        if action in seen:
            errs.append(duplicate(f"{path}[{index}]", action))
        seen.add(action)
    if {"Deny", "Warn"} <= seen:
        errs.append(invalid(path, actions, f"must not contain both Deny and Warn ({_TWICE})"))
    if not seen:
        errs.append(required(path, "at least one validation action is required"))
    return errs


_TWICE = "repeating the same validation failure information in the API response and headers serves no purpose"

RULES = {
    "MutatingAdmissionPolicyBinding": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate_mutating,
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
