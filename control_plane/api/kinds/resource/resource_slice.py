"""Resource slices: devices that a driver has, of one pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.pod_template.affinity import validate_node_selector
from rayplane.control_plane.api.kinds.resource.devices import LISTS, validate_counters, validate_device
from rayplane.control_plane.api.kinds.resource.fields import (
    distinct,
    each,
    validate_driver,
    validate_full_name,
    validate_label,
    validate_pool,
    validate_skipped,
)
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, name

_DEVICES_MAX, _COSTLY_DEVICES_MAX, _COUNTER_SETS_MAX = 128, 64, 8
_ONE_OF_NODES: Final = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"


def _prepare_create(obj: Object) -> None:
    """Taints count from when they were added."""
    for device in (obj.get("spec") or {}).get("devices") or ():
        for taint in device.get("taints") or ():
            if taint.get("timeAdded") is None and (created := obj["metadata"].get("creationTimestamp")):
                taint["timeAdded"] = created


def _validate(obj: Object) -> Errors:
    return _problems(obj.get("spec") or {}, {})


def _validate_update(new: Object, old: Object) -> Errors:
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    errs = _problems(spec, {one.get("name") or "": one for one in before.get("devices") or ()})
    immutable((spec.get("pool") or {}).get("name"), (before.get("pool") or {}).get("name"), "spec.pool.name", errs)
    for field in ("driver", "nodeName"):
        immutable(spec.get(field), before.get(field), f"spec.{field}", errs)
    return errs


def _problems(spec: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]]) -> Errors:
    """Problems of a slice whose devices were `before` the change; empty for a new one."""
    errs: Errors = []
    validate_driver(spec.get("driver") or "", "spec.driver", errs)
    _pool(spec.get("pool") or {}, errs)
    _nodes(spec, errs)
    devices, counters = spec.get("devices"), spec.get("sharedCounters")
    if devices is not None and counters is not None:
        errs.append(invalid("spec", "", "only one of `sharedCounters` or `devices` is allowed"))

    def device(one: Mapping[str, Any], path: str, found: Errors) -> None:
        old = before.get(one.get("name") or "")
        validate_device(one, old, path, found, per_device_nodes=bool(spec.get("perDeviceNodeSelection")))

    maximum = _COSTLY_DEVICES_MAX if any(map(_is_costly, devices or ())) else _DEVICES_MAX
    if each(devices or (), maximum, "spec.devices", errs, device):
        distinct((one.get("name") or "" for one in devices or ()), "spec.devices", errs)
    if each(counters or (), _COUNTER_SETS_MAX, "spec.sharedCounters", errs, _counter_set):
        distinct((one.get("name") or "" for one in counters or ()), "spec.sharedCounters", errs)
    if spec.get("partitionTypeAttribute") is not None:
        _partition_type(spec["partitionTypeAttribute"], spec, errs)
    validate_skipped(spec.get("skipNodeOperations") or (), "spec.skipNodeOperations", errs)
    return errs


def _is_costly(device: Mapping[str, Any]) -> bool:
    """Whether allocation has more to look at than attributes of one value."""
    if device.get("taints") or device.get("consumesCounters"):
        return True
    attributes = (device.get("attributes") or {}).values()
    return any(one.get(field) is not None for one in attributes for field in LISTS)


def _pool(pool: Mapping[str, Any], errs: Errors) -> None:
    validate_pool(pool.get("name") or "", "spec.pool.name", errs)
    count, generation = pool.get("resourceSliceCount") or 0, pool.get("generation") or 0
    if count <= 0:
        errs.append(invalid("spec.pool.resourceSliceCount", count, "must be greater than zero"))
    if generation < 0:
        errs.append(invalid("spec.pool.generation", generation, "must be greater than or equal to zero"))


def _nodes(spec: Mapping[str, Any], errs: Errors) -> None:
    """Where the devices can be used."""
    chosen: list[str] = []
    node, selector = spec.get("nodeName"), spec.get("nodeSelector")
    if node is not None:
        problems = names.subdomain_errors(node) if node else ("must be either unset or set to a non-empty string",)
        checked(problems, node, "spec.nodeName", errs)
        chosen += ["`nodeName`"] if node else []
    if selector is not None:
        validate_node_selector(selector, "spec.nodeSelector", errs)
        terms = selector.get("nodeSelectorTerms") or []
        if len(terms) != 1:
            text = "must have exactly one node selector term"
            errs.append(invalid("spec.nodeSelector.nodeSelectorTerms", terms, text))
        chosen.append("`nodeSelector`")
    for field in ("allNodes", "perDeviceNodeSelection"):
        if spec.get(field):
            chosen.append(f"`{field}`")
        elif spec.get(field) is not None:
            errs.append(invalid(f"spec.{field}", False, "must be either unset or set to true"))
    if not chosen:
        errs.append(required("spec", _ONE_OF_NODES))
    elif len(chosen) > 1:
        listed = "{" + ", ".join(chosen) + "}"
        errs.append(invalid("spec", listed, f"{_ONE_OF_NODES}, but multiple fields are set"))


def _counter_set(counters: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not counters.get("name"):
        errs.append(required(f"{path}.name"))
    else:
        validate_label(counters["name"], f"{path}.name", errs)
    validate_counters(counters.get("counters"), f"{path}.counters", errs)


def _partition_type(attribute: str, spec: Mapping[str, Any], errs: Errors) -> None:
    """The attribute that says of what type each part of a device is: all parts have it."""
    problems: Errors = []
    validate_full_name(attribute, "spec.partitionTypeAttribute", problems)
    parts = [(index, one) for index, one in enumerate(spec.get("devices") or ()) if one.get("consumesCounters")]
    if not parts:
        text = "may only be set on a slice which declares devices that consume counters"
        problems.append(invalid("spec.partitionTypeAttribute", attribute, text))
    errs += problems
    if problems:
        return
    # A name of the driver's own domain may also be written without it.
    bare = attribute.removeprefix(f"{spec.get('driver') or ''}/")
    for index, device in parts:
        path = f"spec.devices[{index}].attributes[{attribute}]"
        attributes = device.get("attributes") or {}
        value = attributes.get(attribute) or attributes.get(bare)
        if value is None:
            text = "device consumes counters and `partitionTypeAttribute` names this attribute, so it must be set"
            errs.append(required(path, text))
        elif value.get("string") is None:
            text = "must be a string value because `partitionTypeAttribute` names this attribute"
            errs.append(invalid(path, value, text))


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    pool = (spec.get("pool") or {}).get("name") or ""
    return [name(obj), spec.get("nodeName") or "", spec.get("driver") or "", pool, age(obj, now)]


RULES = {
    "ResourceSlice": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        prepare_create=_prepare_create,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Node"), Column("Driver"), Column("Pool"), AGE), _row),
        fields=(*METADATA_FIELDS, "spec.nodeName", "spec.driver", "spec.pool.name"),
    ),
}
