"""`meta.k8s.io/v1` Table and PartialObjectMetadata forms of objects.

Custom resources get the columns their definition lists, other kinds those of their printer.
Source: Kubernetes API concepts, "Receiving resources as Tables".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import orjson

from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Printer, RowConditions, age, since
from rayplane.control_plane.api.machinery.jsonpath import JsonPathError, find
from rayplane.control_plane.api.meta import Object, name

IncludeObject = Literal["Metadata", "Object", "None"]
API_VERSION = "meta.k8s.io/v1"


def partial_metadata(obj: Object) -> Object:
    """The PartialObjectMetadata of an object; shares its metadata."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": API_VERSION,
        "metadata": obj.get("metadata") or {},
    }


def to_table(
    printer: Printer,
    objs: Sequence[Object],
    *,
    now: datetime,
    include_object: str = "Metadata",
    metadata: Mapping[str, Any] | None = None,
    columns: Sequence[Mapping[str, Any]] | None = None,
    header: bool = True,
) -> Object:
    """A Table of `objs`, all of the kind that `printer` is for.

    `metadata` is that of the list (resourceVersion, continue); a single object's own is used when
    it is left out. `columns` are a custom resource's additionalPrinterColumns. In a watch, only
    the first event of a stream has a `header`.
    """
    if printer.order is not None:
        objs = sorted(objs, key=printer.order)
    if columns is not None:
        definitions, rows = _custom(objs, columns, now)
    else:
        definitions = [column.definition() for column in printer.columns]
        rows = [printer.row(obj, now) for obj in objs]
    if metadata is None:
        own = (objs[0].get("metadata") or {}).get("resourceVersion") if objs else None
        metadata = {"resourceVersion": own} if own else {}
    return {
        "kind": "Table",
        "apiVersion": API_VERSION,
        "metadata": dict(metadata),
        "columnDefinitions": definitions if header else None,
        "rows": [
            _row(obj, cells, include_object=include_object, conditions=printer.conditions)
            for obj, cells in zip(objs, rows, strict=True)
        ],
    }


def _row(obj: Object, cells: list[Cell], *, include_object: str, conditions: RowConditions | None) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": cells}
    found = conditions(obj) if conditions is not None else None
    if found:
        row["conditions"] = found
    if include_object == "Object":
        row["object"] = obj
    elif include_object == "None":
        row["object"] = None
    else:
        row["object"] = partial_metadata(obj)
    return row


# --- custom resources ---------------------------------------------------------------------------


_NOT_DESCRIBED = "Custom resource definition column (in JSONPath format)"


def _custom(
    objs: Sequence[Object], columns: Sequence[Mapping[str, Any]], now: datetime
) -> tuple[list[dict[str, Any]], list[list[Cell]]]:
    definitions = [NAME.definition()]
    if not columns:
        # Where a definition names no columns it gets this one, of a type of its own.
        definitions.append(AGE._replace(type="date").definition())
        return definitions, [[name(obj), age(obj, now)] for obj in objs]
    for column in columns:
        definitions.append(
            {
                "name": column.get("name") or "",
                "type": column.get("type") or "string",
                "format": column.get("format") or "",
                "description": column.get("description") or f"{_NOT_DESCRIBED}: {column.get('jsonPath') or ''}",
                "priority": column.get("priority") or 0,
            }
        )
    rows = [[name(obj), *(_custom_cell(obj, column, now) for column in columns)] for obj in objs]
    return definitions, rows


def _custom_cell(obj: Object, column: Mapping[str, Any], now: datetime) -> Cell:
    """The value at the column's path; None when there is none or it is of another type."""
    try:
        found = find(obj, column.get("jsonPath") or "")
    except JsonPathError:
        return None
    if not found:
        return None
    value, kind = found[0], column.get("type")
    if kind == "date":
        return _date_cell(value, now)
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return int(value) if kind == "integer" else value  # type: ignore[return-value]
    return _text(value)


def _text(value: Any) -> Cell:
    """The first value of a path as text: as JSON where it has parts, else as Go prints it."""
    if isinstance(value, (dict, list)):
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _date_cell(value: Any, now: datetime) -> Cell:
    if not isinstance(value, str):
        return None
    try:
        return since(value, now)
    except ValueError:
        return "<invalid>"
