"""Nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, UNKNOWN, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, get_condition, labels, name
from rayplane.control_plane.api.taints import NO_EXECUTE, NO_SCHEDULE, PREFER_NO_SCHEDULE

_EFFECTS = (NO_SCHEDULE, PREFER_NO_SCHEDULE, NO_EXECUTE)
_ROLE_PREFIX = "node-role.kubernetes.io/"


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    # The same said twice: old clients know only the first block, and it is what counts.
    block, blocks = spec.get("podCIDR"), spec.get("podCIDRs")
    if block and (not blocks or blocks[0] != block):
        spec["podCIDRs"] = [block]
    elif blocks:
        spec["podCIDR"] = blocks[0]
    status = obj.get("status")
    if status:
        canonical_resources(status.get("capacity"))
        if status.get("allocatable") is None and status.get("capacity"):
            status["allocatable"] = dict(status["capacity"])
        canonical_resources(status.get("allocatable"))


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    seen: set[tuple[Any, Any]] = set()
    for index, taint in enumerate(spec.get("taints") or ()):
        at, key = f"spec.taints[{index}]", taint.get("key") or ""
        checked(names.qualified_name_errors(key), key, f"{at}.key", errs)
        value = taint.get("value") or ""
        checked(names.label_value_errors(value), value, f"{at}.value", errs)
        effect = taint.get("effect")
        if not effect:
            errs.append(required(f"{at}.effect"))
        elif effect not in _EFFECTS:
            errs.append(not_supported(f"{at}.effect", effect, _EFFECTS))
        pair = key, effect
        if pair in seen:
            duplicated = duplicate(at, dict(taint))
            text = "taints must be unique by key and effect pair"
            errs.append(FieldError(duplicated.type, at, duplicated.bad_value, text))
        seen.add(pair)
    _pod_blocks(spec.get("podCIDRs") or (), errs)
    return errs


def _pod_blocks(blocks: Sequence[str], errs: Errors) -> None:
    """The pods' addresses on a node: at most one block of each family."""
    families: set[bool] = set()
    for index, block in enumerate(blocks):
        if not names.is_cidr(block):
            text = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            errs.append(invalid(f"spec.podCIDRs[{index}]", block, text))
            return
        families.add(":" in block)
    if len(blocks) > len(families):
        text = "may specify no more than one CIDR for each IP family"
        errs.append(invalid("spec.podCIDRs", list(blocks), text))


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    for field in ("podCIDRs", "providerID"):
        if before.get(field) and spec.get(field) != before[field]:
            text = f'node updates may not change {field} except from "" to valid'
            errs.append(forbidden(f"spec.{field}", text))
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ready = get_condition(obj, "Ready")
    state = "Unknown"
    if ready is not None:
        state = "Ready" if ready.get("status") == "True" else "NotReady"
    if spec.get("unschedulable"):
        state += ",SchedulingDisabled"
    info = status.get("nodeInfo") or {}
    addresses = {one.get("type"): one.get("address") for one in reversed(status.get("addresses") or ())}
    return [
        name(obj),
        state,
        ",".join(_roles(obj)) or NONE,
        age(obj, now),
        info.get("kubeletVersion") or "",
        addresses.get("InternalIP") or NONE,
        addresses.get("ExternalIP") or NONE,
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


def _roles(obj: Object) -> list[str]:
    found = set()
    for key, value in labels(obj).items():
        if key.startswith(_ROLE_PREFIX) and key != _ROLE_PREFIX:
            found.add(key[len(_ROLE_PREFIX) :])
        elif key == "kubernetes.io/role" and value:
            found.add(value)
    return sorted(found)


_COLUMNS = (
    NAME, Column("Status"), Column("Roles"), AGE, Column("Version"),
    Column("Internal-IP", priority=1), Column("External-IP", priority=1),
    Column("OS-Image", priority=1), Column("Kernel-Version", priority=1),
    Column("Container-Runtime", priority=1),
)  # fmt: skip


RULES = {
    "Node": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        status=Status(given_on_create=True),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=("metadata.name", "spec.unschedulable"),
    ),
}
