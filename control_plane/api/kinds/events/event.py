"""Events of `events.k8s.io`: the same objects as those of the core group, in another form, and stricter rules for them.

They are checked in the form they are stored in, that of the core group, whose names of fields errors have.
"""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.core.event import RULES as CORE
from rayplane.control_plane.api.kinds.metadata import Errors, immutable
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object

_REGARDING = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_OF_OLDER_CLIENTS = ("firstTimestamp", "lastTimestamp", "count", "source")
# All but the series, by which an event is told to go on.
_KEPT = (
    "involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type", "eventTime",
    "action", "related", "reportingComponent", "reportingInstance",
)  # fmt: skip
_CALLED = {"reportingComponent": "reportingController"}
_COUNT_MIN = 2


def _validate(obj: Object) -> Errors:
    """What a new one must have beside what those of the core group have."""
    errs = _series(obj)
    if obj.get("eventTime") is None:
        errs.append(required("eventTime"))
    kind = obj.get("type") or ""
    if kind not in ("Normal", "Warning"):
        errs.append(invalid("type", "", f"has invalid value: {kind}"))
    errs += [invalid(field, "", "needs to be unset") for field in _OF_OLDER_CLIENTS if obj.get(field)]
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs = _series(new) if new.get("series") != old.get("series") else []
    for field in _KEPT:
        immutable(new.get(field), old.get(field), _CALLED.get(field, field), errs)
    return errs


def _series(obj: Object) -> Errors:
    errs: Errors = []
    series = obj.get("series")
    if series is not None:
        if (series.get("count") or 0) < _COUNT_MIN:
            errs.append(invalid("series.count", "", f"should be at least {_COUNT_MIN}"))
        if series.get("lastObservedTime") is None:
            errs.append(required("series.lastObservedTime"))
    return errs


RULES = {
    "Event": replace(
        CORE["Event"],
        validate=_validate,
        validate_update=_validate_update,
        fields=(
            *METADATA_FIELDS,
            "reason",
            "type",
            *(f"regarding.{field}" for field in _REGARDING),
            "reportingController",
        ),
    ),
}
