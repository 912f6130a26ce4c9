"""Nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, unique
from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.kinds.pod_template.resources import validate_amount
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.addresses import block_of, cidr_errors
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
    _taints(spec.get("taints") or (), errs)
    _resources(obj.get("status") or {}, errs)
    _pod_blocks(spec.get("podCIDRs") or (), errs)
    return errs


def _taints(taints: Sequence[Mapping[str, Any]], errs: Errors) -> None:
    seen: set[tuple[Any, Any]] = set()
    for index, taint in enumerate(taints):
        # The paths are Kubernetes', which looks for taints below metadata.
        at, key = f"metadata.taints[{index}]", taint.get("key") or ""
        checked(names.qualified_name_errors(key), key, f"{at}.key", errs)
        value, effect = taint.get("value") or "", taint.get("effect")
        problems = names.label_value_errors(value)
        if problems:
            errs.append(invalid(f"{at}.value", value, ";".join(problems)))
        if not effect:
            errs.append(required(f"{at}.effect"))
        elif effect not in _EFFECTS:
            errs.append(not_supported(f"{at}.effect", effect, _EFFECTS))
        if (key, effect) in seen:
            text = "taints must be unique by key and effect pair"
            errs.append(FieldError(duplicate(at, dict(taint)).type, at, dict(taint), text))
        seen.add((key, effect))


def _resources(status: Mapping[str, Any], errs: Errors) -> None:
    for field in ("capacity", "allocatable"):
        for resource, amount in (status.get(field) or {}).items():
            validate_amount(resource, amount, f"status.{field}.{resource}", errs)


def _pod_blocks(blocks: Sequence[str], errs: Errors) -> None:
    """The pods' addresses on a node: at most one block of each family."""
    for index, block in enumerate(blocks):
        checked(cidr_errors(block), block, f"spec.podCIDRs[{index}]", errs)
    families = {one.version for one in map(block_of, blocks) if one is not None}
    if len(blocks) > 1 and (len(families) != 2 or len(blocks) > 2):
        text = "may specify no more than one CIDR for each IP family"
        errs.append(invalid("spec.podCIDRs", list(blocks), text))
    unique(blocks, "spec.podCIDRs", errs)


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    _resources(new.get("status") or {}, errs)
    _addresses(new, errs)
    blocks, had = spec.get("podCIDRs") or (), before.get("podCIDRs") or ()
    changed = 1 if len(blocks) != len(had) else sum(one != other for one, other in zip(blocks, had, strict=True))
    text = 'node updates may not change podCIDR except from "" to valid'
    errs += [forbidden("spec.podCIDRs", text)] * (changed if had else 0)
    if before.get("providerID") and spec.get("providerID") != before["providerID"]:
        text = 'node updates may not change providerID except from "" to valid'
        errs.append(forbidden("spec.providerID", text))
    if not had:
        _pod_blocks(blocks, errs)
    _taints(spec.get("taints") or (), errs)
    return errs


def _addresses(node: Object, errs: Errors) -> None:
    seen: set[tuple[Any, Any]] = set()
    for index, address in enumerate((node.get("status") or {}).get("addresses") or ()):
        one = address.get("type"), address.get("address")
        if one in seen:
            errs.append(duplicate(f"status.addresses[{index}]", address))
        seen.add(one)


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    _resources(new.get("status") or {}, errs)
    _addresses(new, errs)
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
        defaults_in_status=True,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        validate_status_update=_validate_status,
        status=Status(given_on_create=True),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=("metadata.name", "spec.unschedulable"),
    ),
}
