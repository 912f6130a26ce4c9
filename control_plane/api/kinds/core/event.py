"""Events, in the form that is stored: what happened to an object."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import FieldError, invalid, required
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer, since
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object, name

_MISMATCH = "does not match event.namespace"
# Where events about objects without a namespace are.
_OF_THE_CLUSTER = ("", "default")
COLUMNS = (
    Column("Last Seen"), Column("Type"), Column("Reason"), Column("Object"),
    Column("Subobject", priority=1), Column("Source", priority=1), Column("Message"),
    Column("First Seen", priority=1), Column("Count", priority=1), NAME._replace(priority=1),
)  # fmt: skip


def _validate(obj: Object) -> list[FieldError]:
    """Problems of an Event in its core/v1 form."""
    about = obj.get("involvedObject") or {}
    own = (obj.get("metadata") or {}).get("namespace") or ""
    space = about.get("namespace") or ""
    path = "involvedObject.namespace"
    errs: list[FieldError] = []
    if space != own and (space or own not in _OF_THE_CLUSTER):
        errs.append(invalid(path, space, _MISMATCH))
    kind = about.get("kind") or ""
    info = builtin_registry().by_kind(about.get("apiVersion") or "", kind)
    if info is None:
        return errs
    if info.namespaced and not space:
        errs.append(required(path, f"required for kind {kind}"))
    elif space and not info.namespaced:
        errs.append(invalid(path, space, f"not allowed for kind {kind}"))
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
