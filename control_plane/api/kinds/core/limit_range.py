"""Limit ranges: bounds and defaults of resources in a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors
from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.kinds.pod_template.resources import STANDARD, validate_quantity
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT
from rayplane.control_plane.api.machinery.quantity import Quantity
from rayplane.control_plane.api.meta import Object

_ORDER = (
    ("min", "max", "min value {0} is greater than max value {1}"),
    ("min", "defaultRequest", "min value {0} is greater than default request value {1}"),
    ("defaultRequest", "max", "default request value {0} is greater than max value {1}"),
    (
        "defaultRequest",
        "default",
        "default request value {0} is greater than default limit value {1}",
    ),
    ("default", "max", "default value {0} is greater than max value {1}"),
)


def _default(obj: Object) -> None:
    """For containers: default limits from max, default requests from default limits, else min."""
    for item in (obj.get("spec") or {}).get("limits") or ():
        for part in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"):
            canonical_resources(item.get(part))
        if item.get("type") != "Container":
            continue
        limits = item.setdefault("default", {})
        for name, amount in (item.get("max") or {}).items():
            limits.setdefault(name, amount)
        requests = item.setdefault("defaultRequest", {})
        for source in (limits, item.get("min") or {}):
            for name, amount in source.items():
                requests.setdefault(name, amount)
        for part in ("default", "defaultRequest"):
            if not item[part]:
                del item[part]


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    seen: set[str] = set()
    for index, item in enumerate((obj.get("spec") or {}).get("limits") or ()):
        at, kind = f"spec.limits[{index}]", item.get("type") or ""
        if not kind:
            errs.append(required(f"{at}.type"))
        elif kind in seen:
            errs.append(duplicate(f"{at}.type", kind))
        seen.add(kind)
        parts: dict[str, dict[str, Quantity]] = {}
        for part in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"):
            parts[part] = {}
            for name, value in (item.get(part) or {}).items():
                if name not in STANDARD and name != "storage" and "/" not in name:
                    text = "must be a standard resource type or fully qualified"
                    errs.append(invalid(f"{at}.{part}[{name}]", name, text))
                quantity = validate_quantity(value, f"{at}.{part}[{name}]", errs)
                if quantity is not None:
                    parts[part][name] = quantity
        if kind == "Pod":
            for part in ("default", "defaultRequest"):
                if item.get(part):
                    text = "may not be specified when `type` is 'Pod'"
                    errs.append(forbidden(f"{at}.{part}", text))
        _ordered(parts, at, errs)
    return errs


def _ordered(parts: Mapping[str, Mapping[str, Quantity]], path: str, errs: Errors) -> None:
    for low, high, text in _ORDER:
        for name, quantity in parts[low].items():
            bound = parts[high].get(name)
            if bound is not None and quantity > bound:
                field = "min" if low == "min" else low
                detail = text.format(quantity, bound)
                errs.append(invalid(f"{path}.{field}[{name}]", str(quantity), detail))


RULES = {
    "LimitRange": replace(
        AS_WRITTEN,
        made_by_update=True,
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=NAME_AND_CREATED_AT,
    ),
}
