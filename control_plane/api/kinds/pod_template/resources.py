"""Validation of resource names and quantities: containers, quotas, claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.errors import FieldError, invalid, required
from rayplane.control_plane.api.kinds.metadata import NOT_NEGATIVE, checked
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.quantity import Quantity, QuantityError, parse

STANDARD = frozenset({"cpu", "memory", "ephemeral-storage"})
_STANDARD_NAME = "must be a standard resource type or fully qualified"
_NOT_CONTAINER = "must be a standard resource for containers"
_NANO = 1_000_000_000
_NATIVE_DOMAIN = "kubernetes.io/"


def is_extended(name: str) -> bool:
    """Counted by whole units and not overcommitted: a qualified name outside kubernetes.io."""
    if "/" not in name or name.startswith("requests."):
        return False
    return _NATIVE_DOMAIN not in name.partition("/")[0] + "/"


def validate_quantity(value: Any, path: str, errs: list[FieldError], *, least: int | None = 0) -> Quantity | None:
    """A quantity that is not negative, if `least` is zero; None (and an error) when it is none."""
    try:
        quantity = parse(value)
    except QuantityError as error:
        errs.append(invalid(path, value, str(error)))
        return None
    if least is not None and quantity.nano < least:
        errs.append(invalid(path, str(quantity), NOT_NEGATIVE))
    return quantity


_COUNTED = frozenset(
    {
        "pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps",
        "persistentvolumeclaims", "services.nodeports", "services.loadbalancers",
    }
)  # fmt: skip


def validate_amount(resource: str, value: Any, path: str, errs: list[FieldError]) -> None:
    """An amount of a resource, whole where it is counted."""
    quantity = validate_quantity(value, path, errs)
    if quantity is not None and (resource in _COUNTED or is_extended(resource)) and quantity.nano % _NANO:
        errs.append(invalid(path, str(quantity), "must be an integer"))


def _name(name: str, path: str, errs: list[FieldError]) -> None:
    if name in STANDARD or name.startswith("hugepages-"):
        return
    problems = names.qualified_name_errors(name)
    checked(problems, name, path, errs)
    if not problems and "/" not in name:
        errs.append(invalid(path, name, _STANDARD_NAME))
        errs.append(invalid(path, name, _NOT_CONTAINER))


def _amounts(amounts: Mapping[str, Any] | None, path: str, errs: list[FieldError]) -> dict[str, Quantity]:
    found: dict[str, Quantity] = {}
    for name, value in (amounts or {}).items():
        at = f"{path}[{name}]"
        if name not in STANDARD:
            _name(name, at, errs)
        quantity = validate_quantity(value, at, errs)
        if quantity is None:
            continue
        found[name] = quantity
        if is_extended(name) and quantity.nano % _NANO:
            errs.append(invalid(at, str(quantity), "must be an integer"))
    return found


def validate_requirements(resources: Mapping[str, Any], path: str, errs: list[FieldError]) -> None:
    """Limits and requests of a container or pod; requests may not exceed limits."""
    limits = _amounts(resources.get("limits"), f"{path}.limits", errs)
    requests = _amounts(resources.get("requests"), f"{path}.requests", errs)
    for name, request in requests.items():
        limit = limits.get(name)
        fixed = is_extended(name) or name.startswith("hugepages-")
        if limit is None:
            if fixed:
                text = "Limit must be set for non overcommitable resources"
                errs.append(required(f"{path}.limits", text))
            continue
        if fixed and request != limit:
            text = f"must be equal to {name} limit of {limit}"
        elif not fixed and request > limit:
            text = f"must be less than or equal to {name} limit of {limit}"
        else:
            continue
        errs.append(invalid(f"{path}.requests", str(request), text))
