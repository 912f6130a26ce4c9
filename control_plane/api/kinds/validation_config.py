"""Validation of configuration and cluster kinds: config maps, secrets, quotas, nodes, leases."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import (
    FieldError,
    duplicate,
    forbidden,
    invalid,
    not_supported,
    required,
    too_long,
)
from rayplane.control_plane.api.kinds.metadata import checked, immutable, one_of
from rayplane.control_plane.api.kinds.pod_template.resources import STANDARD, validate_quantity
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.quantity import Quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.taints import NO_EXECUTE, NO_SCHEDULE, PREFER_NO_SCHEDULE

Errors = list[FieldError]
DATA_MAX_BYTES = 1024 * 1024
_HIGHEST_USER_PRIORITY = 1_000_000_000
_SECRET_KEYS: Mapping[str, tuple[str, ...]] = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_EFFECTS = (NO_SCHEDULE, PREFER_NO_SCHEDULE, NO_EXECUTE)
_FIXED = "field is immutable when `immutable` is set"


def config_map(obj: Object) -> Errors:
    errs: Errors = []
    size = 0
    binary = obj.get("binaryData") or {}
    for key, value in (obj.get("data") or {}).items():
        checked(names.config_key_errors(key), key, f"data[{key}]", errs)
        if key in binary:
            text = "duplicate of key present in binaryData"
            errs.append(invalid(f"data[{key}]", key, text))
        size += len(value or "")
    for key, value in binary.items():
        checked(names.config_key_errors(key), key, f"binaryData[{key}]", errs)
        size += len(value or "") * 3 // 4
    if size > DATA_MAX_BYTES:
        errs.append(too_long("", DATA_MAX_BYTES))
    return errs


def config_map_update(new: Object, old: Object) -> Errors:
    return _fixed_data(new, old, ("data", "binaryData"))


def _fixed_data(new: Object, old: Object, fields: tuple[str, ...]) -> Errors:
    errs: Errors = []
    if not old.get("immutable"):
        return errs
    if not new.get("immutable"):
        errs.append(forbidden("immutable", _FIXED))
    for field in fields:
        if (new.get(field) or {}) != (old.get(field) or {}):
            errs.append(forbidden(field, _FIXED))
    return errs


def secret(obj: Object) -> Errors:
    errs: Errors = []
    data = obj.get("data") or {}
    size = 0
    for key, value in data.items():
        checked(names.config_key_errors(key), key, f"data[{key}]", errs)
        try:
            size += len(base64.b64decode(value or "", validate=True))
        except (binascii.Error, ValueError):
            text = "must be base64 (RFC 4648); use stringData for plain text"
            errs.append(invalid(f"data[{key}]", "<redacted>", text))
    if size > DATA_MAX_BYTES:
        errs.append(too_long("data", DATA_MAX_BYTES))
    kind = obj.get("type") or ""
    for key in _SECRET_KEYS.get(kind, ()):
        if key not in data:
            errs.append(required(f"data[{key}]"))
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        errs.append(required("data[username]"))
        errs.append(required("data[password]"))
    if kind == "kubernetes.io/service-account-token":
        account = "kubernetes.io/service-account.name"
        if not ((obj.get("metadata") or {}).get("annotations") or {}).get(account):
            errs.append(required(f"metadata.annotations[{account}]"))
    return errs


def secret_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("type"), old.get("type"), "type", errs)
    return errs + _fixed_data(new, old, ("data",))


def namespace(obj: Object) -> Errors:
    errs: Errors = []
    for finalizer in (obj.get("spec") or {}).get("finalizers") or ():
        checked(names.qualified_name_errors(finalizer), finalizer, "spec.finalizers", errs)
        if "/" not in finalizer and finalizer not in ("kubernetes",):
            text = "name is neither a standard finalizer name nor is it fully qualified"
            errs.append(invalid("spec.finalizers", finalizer, text))
    return errs


# --- quotas and limits --------------------------------------------------------------------------


def resource_quota(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    for name, value in (spec.get("hard") or {}).items():
        at = f"spec.hard[{name}]"
        checked(names.qualified_name_errors(name), name, at, errs)
        quantity = validate_quantity(value, at, errs)
        if quantity is not None and _countable(name) and quantity.nano % 1_000_000_000:
            errs.append(invalid(at, str(quantity), "must be an integer"))
    return errs


def _countable(name: str) -> bool:
    return name in (
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ) or name.startswith("count/")


def resource_quota_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    scopes, before = (new.get("spec") or {}).get("scopes"), (old.get("spec") or {}).get("scopes")
    immutable(sorted(scopes or ()), sorted(before or ()), "spec.scopes", errs)
    return errs


def limit_range(obj: Object) -> Errors:
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


def _ordered(parts: Mapping[str, Mapping[str, Quantity]], path: str, errs: Errors) -> None:
    for low, high, text in _ORDER:
        for name, quantity in parts[low].items():
            bound = parts[high].get(name)
            if bound is not None and quantity > bound:
                field = "min" if low == "min" else low
                detail = text.format(quantity, bound)
                errs.append(invalid(f"{path}.{field}[{name}]", str(quantity), detail))


# --- cluster ------------------------------------------------------------------------------------


def node(obj: Object) -> Errors:
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


def node_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    for field in ("podCIDRs", "providerID"):
        if before.get(field) and spec.get(field) != before[field]:
            text = f'node updates may not change {field} except from "" to valid'
            errs.append(forbidden(f"spec.{field}", text))
    return errs


def lease(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    seconds, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if seconds is not None and seconds <= 0:
        errs.append(invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
    if transitions is not None and transitions < 0:
        text = "must be greater than or equal to 0"
        errs.append(invalid("spec.leaseTransitions", transitions, text))
    return errs


def priority_class(obj: Object) -> Errors:
    errs: Errors = []
    own = (obj.get("metadata") or {}).get("name") or ""
    value = obj.get("value") or 0
    if own.startswith("system-"):
        known = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
        if known.get(own) != value:
            text = "priority class names with 'system-' prefix are reserved for system use only"
            errs.append(forbidden("metadata.name", text))
    elif value > _HIGHEST_USER_PRIORITY:
        text = f"maximum allowed value of a user defined priority is {_HIGHEST_USER_PRIORITY}"
        errs.append(forbidden("value", text))
    policy = obj.get("preemptionPolicy")
    one_of(policy, ("Never", "PreemptLowerPriority"), "preemptionPolicy", errs)
    return errs


def priority_class_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    if (new.get("value") or 0) != (old.get("value") or 0):
        errs.append(forbidden("value", "may not be changed in an update."))
    immutable(new.get("preemptionPolicy"), old.get("preemptionPolicy"), "preemptionPolicy", errs)
    return errs
