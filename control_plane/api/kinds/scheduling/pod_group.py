"""Pod groups: pods that are scheduled together, and how they fared.

Source: k8s.io/api scheduling/v1beta1; KEP-4671, KEP-5710.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from rayplane.control_plane.api.kinds.conditions import validate_conditions
from rayplane.control_plane.api.kinds.metadata import Errors, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.kinds.scheduling.fields import named, validate_group, validate_group_update
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, UNKNOWN, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, get_condition, name, spec, status

PROTECTION: Final = "scheduling.k8s.io/podgroup-protection"
"""Keeps a group while pods refer to it that are not done."""
INITIALLY_SCHEDULED: Final = "PodGroupInitiallyScheduled"
"""The condition that says whether a group's pods got their nodes once; True stays."""


def _default(obj: Object) -> None:
    own = obj.setdefault("spec", {})
    if own.get("disruptionMode") is None:
        own["disruptionMode"] = {"single": {}}


def _prepare_create(obj: Object) -> None:
    """Protected from the start (Kubernetes' admission plug-in PodGroupProtection)."""
    finalizers = obj["metadata"].get("finalizers") or []
    if PROTECTION not in finalizers:
        obj["metadata"]["finalizers"] = [*finalizers, PROTECTION]


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    origin = spec(obj).get("workloadRef")
    if origin is not None:
        named(origin.get("workloadName"), names.subdomain_errors, "spec.workloadRef.workloadName", errs)
        named(origin.get("templateName"), names.label_errors, "spec.workloadRef.templateName", errs)
    validate_group(spec(obj), "spec", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(spec(new).get("workloadRef"), spec(old).get("workloadRef"), "spec.workloadRef", errs)
    validate_group_update(spec(new), spec(old), "spec", errs)
    return errs


def _validate_status(new: Object, _old: Object) -> Errors:
    errs: Errors = []
    validate_conditions(status(new).get("conditions") or [], "status.conditions", errs)
    return errs


def _policy(obj: Object) -> str:
    policy = spec(obj).get("schedulingPolicy") or {}
    gang = policy.get("gang")
    return "Basic" if gang is None else f"Gang/{gang.get('minCount') or 0}"


def _row(obj: Object, now: datetime) -> list[Cell]:
    workload = (spec(obj).get("workloadRef") or {}).get("workloadName") or NONE
    scheduled = get_condition(obj, INITIALLY_SCHEDULED) or {}
    return [name(obj), _policy(obj), workload, scheduled.get("status") or UNKNOWN, age(obj, now)]


_COLUMNS = (NAME, Column("Policy"), Column("Workload"), Column("Scheduled"), AGE)
RULES = {
    "PodGroup": replace(
        AS_WRITTEN,
        defaults=_default,
        prepare_create=_prepare_create,
        validate=_validate,
        validate_update=_validate_update,
        validate_status_update=_validate_status,
        status=Status({}, metadata=frozenset()),
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
