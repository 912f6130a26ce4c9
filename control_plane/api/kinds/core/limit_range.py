"""Limit ranges: bounds and defaults of resources in a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.core.resource_quota import STANDARD_OF_QUOTAS
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.kinds.pod_template.resources import STANDARD, is_extended, validate_quantity
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT
from rayplane.control_plane.api.machinery.quantity import NANO, Quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import HUGE_PAGES

_TYPES = ("Pod", "Container", "PersistentVolumeClaim")
_PARTS = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")
# Of two amounts: the first must not be more than the second; under which of them it is said, what is shown, and how.
_ORDER = (
    ("min", "max", "min", 0, "min value {0} is greater than max value {1}"),
    ("min", "defaultRequest", "defaultRequest", 1, "min value {0} is greater than default request value {1}"),
    ("defaultRequest", "max", "defaultRequest", 0, "default request value {0} is greater than max value {1}"),
    (
        "defaultRequest",
        "default",
        "defaultRequest",
        0,
        "default request value {0} is greater than default limit value {1}",
    ),
    ("min", "default", "default", 0, "min value {0} is greater than default value {1}"),
    ("default", "max", "default", 1, "default value {0} is greater than max value {1}"),
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
        problems = names.qualified_name_errors(kind)
        checked(problems, kind, f"{at}.type", errs)
        if not problems and "/" not in kind and kind not in _TYPES:
            errs.append(invalid(f"{at}.type", kind, "must be a standard limit type or fully qualified"))
        if kind in seen:
            errs.append(duplicate(f"{at}.type", kind))
        seen.add(kind)
        parts = _parts(item, kind, at, errs)
        for resource in sorted({name for part in parts.values() for name in part}):
            _ordered({part: amounts.get(resource) for part, amounts in parts.items()}, resource, at, errs)
    return errs


def _parts(item: Mapping[str, Any], kind: str, path: str, errs: Errors) -> dict[str, dict[str, Quantity]]:
    """The amounts of an item by its parts; those of a pod have no defaults."""
    parts: dict[str, dict[str, Quantity]] = {part: {} for part in _PARTS}
    bounded = any("storage" in (item.get(bound) or ()) for bound in ("min", "max"))
    for part in _PARTS:
        if part == "maxLimitRequestRatio" and kind == "PersistentVolumeClaim" and not bounded:
            text = "either minimum or maximum storage value is required, but neither was provided"
            errs.append(required(f"{path}.limits", text))
        if kind == "Pod" and part in ("default", "defaultRequest"):
            if item.get(part):
                errs.append(forbidden(f"{path}.{part}", "may not be specified when `type` is 'Pod'"))
            continue
        for resource, value in (item.get(part) or {}).items():
            _resource_name(resource, kind, f"{path}.{part}[{resource}]", errs)
            quantity = validate_quantity(value, f"{path}.{part}[{resource}]", errs)
            if quantity is not None:
                parts[part][resource] = quantity
    return parts


def _resource_name(resource: str, kind: str, path: str, errs: Errors) -> None:
    problems = names.qualified_name_errors(resource)
    checked(problems, resource, path, errs)
    if problems or "/" in resource or resource.startswith(HUGE_PAGES):
        return
    if resource not in STANDARD_OF_QUOTAS | {"storage"}:
        errs.append(invalid(path, resource, "must be a standard resource type or fully qualified"))
    if kind in ("Pod", "Container") and resource not in STANDARD:
        errs.append(invalid(path, resource, "must be a standard resource for containers"))


def _ordered(amounts: Mapping[str, Quantity | None], resource: str, path: str, errs: Errors) -> None:
    for low, high, where, shown, text in _ORDER:
        one, other = amounts[low], amounts[high]
        if one is not None and other is not None and one > other:
            errs.append(invalid(f"{path}.{where}[{resource}]", str((one, other)[shown]), text.format(one, other)))
    _ratio(amounts, f"{path}.maxLimitRequestRatio[{resource}]", errs)
    default, request = amounts["default"], amounts["defaultRequest"]
    fixed = is_extended(resource) or resource.startswith(HUGE_PAGES)
    if fixed and default is not None and request is not None and default != request:
        text = f"default value {default} must equal to defaultRequest value {request} in {resource}"
        errs.append(invalid(f"{path}.defaultRequest[{resource}]", str(request), text))


def _ratio(amounts: Mapping[str, Quantity | None], path: str, errs: Errors) -> None:
    ratio, least, most = amounts["maxLimitRequestRatio"], amounts["min"], amounts["max"]
    if ratio is None:
        return
    if ratio.nano < NANO:
        errs.append(invalid(path, str(ratio), f"ratio {ratio} is less than 1"))
    if least is not None and most is not None and least.nano > 0 and ratio.nano * least.nano > most.nano * NANO:
        text = f"ratio {ratio} is greater than max/min = {most.nano / least.nano:f}"
        errs.append(invalid(path, str(ratio), text))


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
