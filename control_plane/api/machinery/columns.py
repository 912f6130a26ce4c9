"""Columns of tables and the texts of cells: ages, lists of labels, "<none>"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.machinery.selectors import label_selector_text
from rayplane.control_plane.api.meta import Object, parse_time

NONE = "<none>"
UNKNOWN = "<unknown>"
UNSET = "<unset>"
Cell = str | int | bool | None
RowPrinter = Callable[[Object, datetime], list[Cell]]
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 24, 365


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
    """How objects of one kind become rows."""

    columns: tuple[Column, ...]
    row: RowPrinter


NAME = Column("Name", format="name", description="Name of the object, unique in its namespace.")
AGE = Column("Age", description="Time since the object was created.")
CREATED_AT = Column("Created At", "date", description="Time the object was created.")


def human_duration(span: timedelta) -> str:
    """A span in at most two units, coarser the longer it is: 5s, 3m20s, 2h, 3d4h, 1y20d."""
    seconds = int(span.total_seconds())
    if seconds < -1:
        return "<invalid>"
    if seconds < 2 * _MINUTE:
        return f"{max(0, seconds)}s"
    minutes, hours = seconds // _MINUTE, seconds // _HOUR
    if minutes < 10:
        return _two(minutes, "m", seconds % _MINUTE, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % _MINUTE, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // _DAY
    if days < 8:
        return _two(days, "d", hours % _DAY, "h")
    if days < 2 * _YEAR:
        return f"{days}d"
    if days < 8 * _YEAR:
        return _two(days // _YEAR, "y", days % _YEAR, "d")
    return f"{days // _YEAR}y"


def _two(large: int, unit: str, small: int, subunit: str) -> str:
    return f"{large}{unit}{small}{subunit}" if small else f"{large}{unit}"


def since(text: str | None, now: datetime) -> str:
    """The age of a time stamp, or `<unknown>`."""
    return human_duration(now - parse_time(text)) if text else UNKNOWN


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


def joined(values: Iterable[str], *, separator: str = ",") -> str:
    return separator.join(values)


def or_none(value: Any) -> str:
    return str(value) if value not in (None, "") else NONE


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


def template_spec(obj: Object) -> Mapping[str, Any]:
    spec = obj.get("spec") or {}
    return (spec.get("template") or {}).get("spec") or {}
