"""Devices of a slice: attributes, capacities and how they may be shared, counters, and where a device can be used."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from rayplane.control_plane.api.errors import forbidden, invalid, not_found, required, too_long, too_many
from rayplane.control_plane.api.kinds.metadata import NOT_NEGATIVE, Errors, checked
from rayplane.control_plane.api.kinds.pod_template.affinity import validate_node_selector
from rayplane.control_plane.api.kinds.pod_template.resources import STANDARD
from rayplane.control_plane.api.kinds.resource.fields import (
    TAINTS_MAX,
    distinct,
    each,
    validate_binding_conditions,
    validate_label,
    validate_qualified_name,
    validate_taint,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.quantity import Quantity, parse

LISTS: Final = ("bools", "ints", "strings", "versions")
"""The fields of an attribute that hold many values."""
_VALUES: Final = ("bool", "int", "string", "version", *LISTS)
_ATTRIBUTES_MAX, _ATTRIBUTE_VALUES_MAX, _TEXT_MAX_BYTES = 32, 48, 64
_COUNTERS_MAX, _CONSUMED_SETS_MAX, _OPTIONS_MAX = 32, 2, 10
_KEY_SHOWN_MAX: Final = 63 + 1 + 32
_INT64_MAX: Final = 2**63 - 1
_NANO: Final = 1_000_000_000
_NUMBER, _PRERELEASE = r"(0|[1-9]\d*)", r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_BUILD: Final = "[0-9a-zA-Z-]+"
_VERSION: Final = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PRERELEASE}(\.{_PRERELEASE})*)?(\+{_BUILD}(\.{_BUILD})*)?", re.ASCII
)

MapCheck = Callable[[Mapping[str, Any], str, Errors], None]


def validate_device(
    device: Mapping[str, Any], old: Mapping[str, Any] | None, path: str, errs: Errors, *, per_device_nodes: bool
) -> None:
    """Problems of a device; of `old`, the one of its name before, what stayed as it is is not looked at again."""
    validate_label(device.get("name") or "", f"{path}.name", errs)
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > _ATTRIBUTES_MAX:
        text = f"the total number of attributes and capacities must not exceed {_ATTRIBUTES_MAX}"
        errs.append(invalid(path, len(attributes) + len(capacity), text))
    values = sum(max(1, sum(len(one.get(field) or ()) for field in LISTS)) for one in attributes.values())
    if values > _ATTRIBUTE_VALUES_MAX:
        text = f"the total number of attribute values must not exceed {_ATTRIBUTE_VALUES_MAX}"
        errs.append(invalid(path, values, text))
    _map(attributes, f"{path}.attributes", errs, _attribute)
    if old is None or old.get("capacity") != device.get("capacity"):
        shared = bool(device.get("allowMultipleAllocations"))
        _map(capacity, f"{path}.capacity", errs, _shared_capacity if shared else _whole_capacity)
    if old is None or old.get("taints") != device.get("taints"):
        each(device.get("taints") or (), TAINTS_MAX, f"{path}.taints", errs, validate_taint)
    consumed, at = device.get("consumesCounters") or [], f"{path}.consumesCounters"
    if each(consumed, _CONSUMED_SETS_MAX, at, errs, _consumption):
        distinct((one.get("counterSet") or "" for one in consumed), at, errs)
    _nodes(device, path, errs, per_device=per_device_nodes)
    validate_binding_conditions(device, path, errs)
    _node_allocatable(device, path, errs)


def _map(values: Mapping[str, Any], path: str, errs: Errors, check: MapCheck) -> None:
    for key, value in values.items():
        validate_qualified_name(key, path, errs)
        check(value, f"{path}[{_shown(key)}]", errs)


def _shown(key: str) -> str:
    """A key too long for a message, without its middle."""
    if len(key) <= _KEY_SHOWN_MAX:
        return key
    rest = _KEY_SHOWN_MAX - len("...")
    return f"{key[: (rest + 1) // 2]}...{key[-(rest // 2) :]}"


# --- attributes ---------------------------------------------------------------------------------


def _attribute(attribute: Mapping[str, Any], path: str, errs: Errors) -> None:
    given = [field for field in _VALUES if attribute.get(field) is not None]
    if "string" in given:
        _text(attribute["string"], f"{path}.string", errs)
    if "version" in given:
        _version(attribute["version"], f"{path}.version", errs)
    for field in LISTS:
        if field not in given:
            continue
        if not attribute[field]:
            errs.append(invalid(f"{path}.{field}", attribute[field], "must not be empty if specified"))
        if check := _OF_TEXTS.get(field):
            for index, value in enumerate(attribute[field]):
                check(value, f"{path}.{field}[{index}]", errs)
    if len(given) != 1:
        errs.append(invalid(path, dict(attribute) if given else "", "exactly one value must be specified"))


def _text(value: str, path: str, errs: Errors) -> None:
    if len(value.encode()) > _TEXT_MAX_BYTES:
        errs.append(too_long(path, _TEXT_MAX_BYTES))


def _version(value: str, path: str, errs: Errors) -> None:
    if not _VERSION.fullmatch(value):
        errs.append(invalid(path, value, "must be a string compatible with semver.org spec 2.0.0"))
    _text(value, path, errs)


_OF_TEXTS: Final = {"strings": _text, "versions": _version}


# --- capacity -----------------------------------------------------------------------------------


def _whole_capacity(capacity: Mapping[str, Any], path: str, errs: Errors) -> None:
    if capacity.get("requestPolicy") is not None:
        errs.append(forbidden(f"{path}.requestPolicy", "allowMultipleAllocations must be true"))


def _shared_capacity(capacity: Mapping[str, Any], path: str, errs: Errors) -> None:
    policy = capacity.get("requestPolicy")
    if policy is None:
        return
    at, whole = f"{path}.requestPolicy", parse(capacity.get("value") or 0)
    values, span = policy.get("validValues") or [], policy.get("validRange")
    if values and span is not None:
        both = 'exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time'
        errs.append(forbidden(at, both))
        return
    for field, given in (("validValues", bool(values)), ("validRange", span is not None)):
        if given and policy.get("default") is None:
            errs.append(required(f"{at}.default", f"required when {field} is defined"))
            return
    if values:
        _options([parse(one) for one in values], parse(policy["default"]), whole, f"{at}.validValues", errs)
    elif span is not None:
        _range({**span, "default": policy["default"]}, whole, f"{at}.validRange", errs)


def _options(options: Sequence[Quantity], default: Quantity, whole: Quantity, path: str, errs: Errors) -> None:
    for index, (one, after) in enumerate(pairwise(options)):
        if one > after:
            text = "values must be sorted in ascending order"
            errs.append(invalid(f"{path}[{index + 1}]", str(after), text))

    def fits(option: Quantity, at: str, found: Errors) -> None:
        if option > whole:
            found.append(invalid(at, str(option), f"option is larger than capacity value: {whole}"))

    if each(options, _OPTIONS_MAX, path, errs, fits):
        distinct((one.nano for one in options), path, errs)
    if default not in options:
        errs.append(invalid(path, str(default), "default value is not valid according to the requestPolicy"))


def _range(span: Mapping[str, Any], whole: Quantity, path: str, errs: Errors) -> None:
    bounds = {field: parse(span[field]) for field in ("default", "min", "max", "step") if span.get(field) is not None}
    default, low, high, step = (bounds.get(field) for field in ("default", "min", "max", "step"))
    if low is None or default is None:
        errs.append(required(f"{path}.min", "required when validRange is defined"))
        return
    wrong = [
        (low > whole, "min", low, f"min is larger than capacity value: {whole}"),
        (default < low, "default", default, f"default is less than min: {low}"),
    ]
    if high is not None:
        wrong += [
            (low > high, "max", low, f"min is larger than max: {high}"),
            (high > whole, "max", high, f"max is larger than capacity value: {whole}"),
            (default > high, "default", default, f"default is more than max: {high}"),
        ]
    if step is not None and step.nano <= 0:
        wrong.append((True, "step", step, "must be greater than zero"))
    elif step is not None:
        one = low + step
        wrong.append((one > whole, "step", step, f"one step {one} is larger than capacity value: {whole}"))
        for field, bound in bounds.items():
            wrong.append((bound.nano < 0, field, bound, NOT_NEGATIVE))
            wrong.append((bound.nano > _INT64_MAX * _NANO, field, bound, f"must not be larger than {_INT64_MAX}"))
    errs += [invalid(f"{path}.{field}", str(value), text) for so, field, value, text in wrong if so]
    if step is not None and step.nano > 0:
        for value in (default, high):
            if value is not None and (value.nano - low.nano) % step.nano:
                text = f"value is not a multiple of a given step ({step}) from ({low})"
                errs.append(invalid(f"{path}.step", str(value), text))


# --- counters -----------------------------------------------------------------------------------


def validate_counters(counters: Mapping[str, Any] | None, path: str, errs: Errors) -> None:
    """Named amounts, of which devices that overlap take what they need."""
    if not counters:
        errs.append(required(path))
    elif len(counters) > _COUNTERS_MAX:
        errs.append(too_many(path, len(counters), _COUNTERS_MAX))
    else:
        for key in counters:
            validate_label(key, path, errs)


def _consumption(consumed: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not consumed.get("counterSet"):
        errs.append(required(f"{path}.counterSet"))
    else:
        validate_label(consumed["counterSet"], f"{path}.counterSet", errs)
    validate_counters(consumed.get("counters"), f"{path}.counters", errs)


# --- nodes --------------------------------------------------------------------------------------


def _nodes(device: Mapping[str, Any], path: str, errs: Errors, *, per_device: bool) -> None:
    """Where the device can be used: each says so where the slice leaves it to them, and none elsewhere."""
    fields = ("nodeName", "nodeSelector", "allNodes")
    given = [field for field in fields if device.get(field) is not None]
    if not per_device:
        if given:
            text = (
                "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true "
                "in the ResourceSlice spec"
            )
            errs.append(invalid(path, None, text))
        return
    set_fields = [field for field in given if device[field] not in ("", False)]
    for field in given:
        at, value = f"{path}.{field}", device[field]
        if field == "nodeName":
            problems = names.subdomain_errors(value) if value else ("must not be empty",)
            checked(problems, value, at, errs)
        elif field == "nodeSelector":
            validate_node_selector(value, at, errs)
        elif not value:
            errs.append(invalid(at, value, "must be either unset or set to true"))
    text = (
        "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to "
        "true in the ResourceSlice spec"
    )
    if not set_fields:
        errs.append(required(path, text))
    elif len(set_fields) > 1:
        errs.append(invalid(path, "{%s}" % ", ".join(f"`{field}`" for field in set_fields), text))  # noqa: UP031


def _node_allocatable(device: Mapping[str, Any], path: str, errs: Errors) -> None:
    """What a device takes of the node's own resources."""
    for resource, taken in (device.get("nodeAllocatableResources") or {}).items():
        at = f"{path}.nodeAllocatableResources[{resource}]"
        if resource not in STANDARD and not resource.startswith("hugepages-"):
            errs.append(invalid(at, resource, "must be a node allocatable resource name"))
        mapping, overhead = taken.get("mapping"), taken.get("overhead")
        if mapping is None and overhead is None:
            errs.append(required(at, "at least one of mapping or overhead must be set"))
        if mapping is not None:
            _mapping(mapping, device.get("capacity") or {}, f"{at}.mapping", errs)
        if overhead is not None:
            _overhead(overhead, f"{at}.overhead", errs)


def _mapping(mapping: Mapping[str, Any], capacity: Mapping[str, Any], path: str, errs: Errors) -> None:
    key, multiplier = mapping.get("capacityKey"), mapping.get("capacityMultiplier")
    if key is not None:
        if not key:
            errs.append(invalid(f"{path}.capacityKey", "", "capacityKey must not be an empty string"))
        elif key not in capacity:
            errs.append(not_found(f"{path}.capacityKey", key))
        if multiplier is None:
            text = "capacityMultiplier is required when capacityKey is set"
            errs.append(required(f"{path}.capacityMultiplier", text))
    elif multiplier is not None:
        errs.append(required(f"{path}.capacityKey", "capacityKey is required when capacityMultiplier is set"))
    for field, value in (("capacityMultiplier", multiplier), ("deviceMultiplier", mapping.get("deviceMultiplier"))):
        if value is not None and parse(value).nano <= 0:
            errs.append(invalid(f"{path}.{field}", str(parse(value)), "must be positive"))


def _overhead(overhead: Mapping[str, Any], path: str, errs: Errors) -> None:
    given = {field: overhead[field] for field in ("perPod", "perContainer") if overhead.get(field) is not None}
    if not given:
        errs.append(invalid(path, "", "at least one of perPod or perContainer must be set"))
    for field, value in given.items():
        if parse(value).nano < 0:
            errs.append(invalid(f"{path}.{field}", str(parse(value)), "must be non-negative"))
