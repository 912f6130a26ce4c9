"""Device taint rules: an administrator's taint on devices that a driver published without it."""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api.errors import too_many
from rayplane.control_plane.api.kinds.conditions import validate_conditions
from rayplane.control_plane.api.kinds.metadata import Errors
from rayplane.control_plane.api.kinds.resource.fields import (
    validate_driver,
    validate_label,
    validate_pool,
    validate_taint,
)
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_UPDATE_RULES, Status
from rayplane.control_plane.api.machinery.columns import NAME_AND_AGE
from rayplane.control_plane.api.meta import Object

_CONDITIONS_MAX = 8


def _prepare_create(obj: Object) -> None:
    """A taint counts from when it was added."""
    taint = obj.setdefault("spec", {}).setdefault("taint", {})
    if taint.get("timeAdded") is None and (created := obj["metadata"].get("creationTimestamp")):
        taint["timeAdded"] = created


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    selector, at = spec.get("deviceSelector") or {}, "spec.deviceSelector"
    for field, check in (("driver", validate_driver), ("pool", validate_pool), ("device", validate_label)):
        if selector.get(field) is not None:
            check(selector[field], f"{at}.{field}", errs)
    validate_taint(spec.get("taint") or {}, "spec.taint", errs)
    return errs


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    conditions = (new.get("status") or {}).get("conditions") or []
    validate_conditions(conditions, "status.conditions", errs)
    if len(conditions) > _CONDITIONS_MAX:
        errs.append(too_many("status.conditions", len(conditions), _CONDITIONS_MAX))
    return errs


RULES = {
    "DeviceTaintRule": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        prepare_create=_prepare_create,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        validate_status_update=_validate_status,
        status=Status({}, metadata=frozenset()),
        generation=True,
        needs_version=True,
        printer=NAME_AND_AGE,
    ),
}
