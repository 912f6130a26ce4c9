"""Events, in the form that is stored: what happened to an object."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import FieldError, invalid, required
from rayplane.control_plane.api.kinds.metadata import checked
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer, since
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, name

_MISMATCH = "does not match event.namespace"
# Where events about objects without a namespace are, of older clients and of newer ones.
_OF_THE_CLUSTER = ("", "default")
_OF_THE_CLUSTER_NOW = ("default", "kube-system")
_BYTES_MAX = {"reportingInstance": 128, "action": 128, "reason": 128, "message": 1024}
COLUMNS = (
    Column("Last Seen"), Column("Type"), Column("Reason"), Column("Object"),
    Column("Subobject", priority=1), Column("Source", priority=1), Column("Message"),
    Column("First Seen", priority=1), Column("Count", priority=1), NAME._replace(priority=1),
)  # fmt: skip


def _validate(obj: Object) -> list[FieldError]:
    """Problems of an Event in its core/v1 form: one with a time of its own, as newer clients write it, says who tells
    it."""
    space = (obj.get("involvedObject") or {}).get("namespace") or ""
    own = (obj.get("metadata") or {}).get("namespace") or ""
    errs: list[FieldError] = []
    if obj.get("eventTime") is None:
        if space != own and (space or own not in _OF_THE_CLUSTER):
            errs.append(invalid("involvedObject.namespace", space, _MISMATCH))
        return errs
    if not space and own not in _OF_THE_CLUSTER_NOW:
        errs.append(invalid("involvedObject.namespace", space, _MISMATCH))
    reporter = obj.get("reportingComponent") or ""
    if not reporter:
        errs.append(required("reportingController"))
    checked(names.qualified_name_errors(reporter), reporter, "reportingController", errs)
    for field, most in _BYTES_MAX.items():
        value = obj.get(field) or ""
        if not value and field != "message":
            errs.append(required(field))
        if len(value.encode()) > most:
            errs.append(invalid(field, "", f"can have at most {most} characters"))
    return errs


def event_row(obj: Object, now: datetime) -> list[Cell]:
    target = obj.get("involvedObject") or obj.get("regarding") or {}
    series = obj.get("series") or {}
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last = obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp")
    last = series.get("lastObservedTime") or last or first
    count = series.get("count") or obj.get("count") or obj.get("deprecatedCount") or 1
    kind = (target.get("kind") or "").lower()
    shown = f"{kind}/{target['name']}" if target.get("name") else kind
    message = (obj.get("message") or obj.get("note") or "").strip()
    return [
        since(last, now),
        obj.get("type") or "",
        obj.get("reason") or "",
        shown,
        target.get("fieldPath") or "",
        _source(obj),
        message,
        since(first, now),
        count,
        name(obj),
    ]


def _source(obj: Object) -> str:
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    component = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController")
    host = source.get("host") or obj.get("reportingInstance")
    return ", ".join(str(one) for one in (component, host) if one)


RULES = {
    "Event": replace(
        AS_WRITTEN,
        made_by_update=True,
        has_dependents=False,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=Printer(COLUMNS, event_row),
        fields=(
            "reason",
            "type",
            *METADATA_FIELDS,
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reportingComponent",
            "source",
        ),
    ),
}
