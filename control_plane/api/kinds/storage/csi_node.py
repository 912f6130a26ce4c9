"""CSI nodes: the drivers on a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import duplicate, invalid, required, too_long
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable, not_negative
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), len((obj.get("spec") or {}).get("drivers") or ()), age(obj, now)]


_DRIVER_NAME_MAX = 63
_NODE_ID_MAX = 256


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    seen: set[str] = set()
    for index, driver in enumerate((obj.get("spec") or {}).get("drivers") or ()):
        at, own = f"spec.drivers[{index}]", driver.get("name") or ""
        _driver(driver, own, at, errs)
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
        _topology(driver.get("topologyKeys") or (), at, errs)
    return errs


def _driver(driver: Mapping[str, Any], own: str, path: str, errs: Errors) -> None:
    validate_driver_name(own, f"{path}.name", errs)
    node = driver.get("nodeID") or ""
    if not node:
        errs.append(required(f"{path}.nodeID"))
    if len(node) > _NODE_ID_MAX:
        errs.append(invalid(f"{path}.nodeID", node, f"must be {_NODE_ID_MAX} characters or less"))
    not_negative((driver.get("allocatable") or {}).get("count"), f"{path}.allocatable.count", errs)


def validate_driver_name(own: str, path: str, errs: Errors) -> None:
    if not own:
        errs.append(required(path))
        return
    if len(own.encode()) > _DRIVER_NAME_MAX:
        errs.append(too_long(path, _DRIVER_NAME_MAX))
    checked(names.subdomain_errors(own.lower()), own, path, errs)


def _topology(keys: Sequence[str], path: str, errs: Errors) -> None:
    seen: set[str] = set()
    for key in keys:
        if not key:
            errs.append(required(path))
        if key in seen:
            errs.append(duplicate(path, key))
        seen.add(key)
        checked(names.qualified_name_errors(key), key, path, errs)


def _validate_update(new: Object, old: Object) -> Errors:
    """A driver that is there keeps its identity and topology; what fits on the node may change."""
    errs: Errors = []
    before = {one.get("name"): _fixed(one) for one in (old.get("spec") or {}).get("drivers") or ()}
    for driver in (new.get("spec") or {}).get("drivers") or ():
        if driver.get("name") in before:
            immutable(_fixed(driver), before[driver["name"]], "spec.drivers", errs)
    return errs


def _fixed(driver: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in driver.items() if field != "allocatable"}


RULES = {
    "CSINode": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=Status(),
        generation=False,
        printer=Printer((NAME, Column("Drivers", "integer"), AGE), _row),
    ),
}
