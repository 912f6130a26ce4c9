"""Columns of tables and the texts of cells: ages, lists of labels, "<none>"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.machinery.selectors import label_selector_text
from rayplane.control_plane.api.meta import Object, parse_time
from rayplane.control_plane.durations import human_duration

NONE = "<none>"
UNKNOWN = "<unknown>"
UNSET = "<unset>"
SHOWN = 3
"""How many of a list are shown in a cell."""
Cell = str | int | bool | None
RowConditions = Callable[[Object], list[dict[str, str]]]
RowPrinter = Callable[[Object, datetime], list[Cell]]


class Column(NamedTuple):
    """One TableColumnDefinition; priority 0 is always shown, 1 only in wide output."""

    name: str
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""

    def definition(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description or f"{self.name} of the object.",
            "priority": self.priority,
        }


class Printer(NamedTuple):
    """The printer of one kind: it makes objects into rows of a table."""

    columns: tuple[Column, ...]
    row: RowPrinter
    conditions: RowConditions | None = None
    """Conditions of the row itself: whether the object is done with."""
    order: Callable[[Object], Any] | None = None
    """What rows are sorted by, where that is not how objects are listed."""


NAME = Column("Name", format="name", description="Name of the object, unique in its namespace.")
AGE = Column("Age", description="Time since the object was created.")
CREATED_AT = Column("Created At", "date", description="Time the object was created.")


def _created(obj: Object, now: datetime) -> list[Cell]:
    metadata = obj.get("metadata") or {}
    return [metadata.get("name") or "", metadata.get("creationTimestamp")]


def _aged(obj: Object, now: datetime) -> list[Cell]:
    return [(obj.get("metadata") or {}).get("name") or "", age(obj, now)]


NAME_AND_CREATED_AT = Printer((NAME, CREATED_AT), _created)
NAME_AND_AGE = Printer((NAME, AGE), _aged)


def since(text: str | None, now: datetime) -> str:
    """The age of a time stamp, or `<unknown>`."""
    return human_duration((now - parse_time(text)).total_seconds()) if text else UNKNOWN


def age(obj: Object, now: datetime) -> str:
    return since((obj.get("metadata") or {}).get("creationTimestamp"), now)


def labels_text(labels: Mapping[str, str] | None) -> str:
    """`a=b,c=d` in the order of keys, or `<none>`."""
    if not labels:
        return NONE
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels))


def selector_text(selector: Mapping[str, Any] | None) -> str:
    try:
        return label_selector_text(selector) or NONE
    except BadRequest:
        return "<error>"


def go_selector_text(selector: Mapping[str, Any]) -> str:
    """A LabelSelector as Go prints one."""
    labels = selector.get("matchLabels") or {}
    wanted = "".join(f"{key}: {labels[key]}," for key in sorted(labels))
    rules = "".join(
        f"LabelSelectorRequirement{{Key:{one.get('key') or ''},Operator:{one.get('operator') or ''},"
        f"Values:[{' '.join(one.get('values') or ())}],}},"
        for one in selector.get("matchExpressions") or ()
    )
    expressions = f"[]LabelSelectorRequirement{{{rules}}}"
    return f"&LabelSelector{{MatchLabels:map[string]string{{{wanted}}},MatchExpressions:{expressions},}}"


def joined(values: Iterable[str]) -> str:
    return ",".join(values)


def at_most(values: Sequence[str], count: int) -> str:
    """The first `count` values and how many more there are."""
    text = ",".join(values[:count])
    if len(values) > count:
        text += f" + {len(values) - count} more..."
    return text


def containers_and_images(pod_spec: Mapping[str, Any]) -> tuple[str, str]:
    found = pod_spec.get("containers") or ()
    return (
        ",".join(one.get("name") or "" for one in found),
        ",".join(one.get("image") or "" for one in found),
    )


WIDE = (Column("Containers", priority=1), Column("Images", priority=1))
WIDE_SELECTOR = (*WIDE, Column("Selector", priority=1))
COUNTS = (Column("Desired", "integer"), Column("Current", "integer"), Column("Ready", "integer"))
"""Columns of the kinds that make pods."""


def spec_and_status(obj: Object) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return obj.get("spec") or {}, obj.get("status") or {}


def template_spec(obj: Object) -> Mapping[str, Any]:
    spec = obj.get("spec") or {}
    return (spec.get("template") or {}).get("spec") or {}
