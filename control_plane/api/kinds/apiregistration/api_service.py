"""API services: groups and versions that another server answers for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_UPDATE_RULES, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, get_condition, name


def _default(obj: Object) -> None:
    target = (obj.get("spec") or {}).get("service")
    if target is not None and not target.get("port"):
        target["port"] = 443


def _row(obj: Object, now: datetime) -> list[Cell]:
    target = (obj.get("spec") or {}).get("service")
    where = f"{target.get('namespace')}/{target.get('name')}" if target else "Local"
    available = get_condition(obj, "Available") or {}
    state: str = available.get("status") or "Unknown"
    if state != "True" and available.get("reason"):
        state = f"{state} ({available['reason']})"
    return [name(obj), where, state, age(obj, now)]


def _prepare_create(obj: Object) -> None:
    if (obj.get("spec") or {}).get("service") is None:
        # It is the servers' own, and so are they.
        available = {"reason": "Local", "message": "Local APIServices are always available"}
        stamp = obj["metadata"].get("creationTimestamp")
        obj["status"] = {
            "conditions": [{"type": "Available", "status": "True", "lastTransitionTime": stamp, **available}]
        }


_GROUP_PRIORITY_MAX, _VERSION_PRIORITY_MAX = 20_000, 1_000


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec, own = obj.get("spec") or {}, name(obj)
    group, version = spec.get("group") or "", spec.get("version") or ""
    if own and own != f"{version}.{group}":
        text = f'must be `spec.version+"."+spec.group`: "{version}.{group}"'
        errs.append(invalid("metadata.name", own, text))
    if not group and version != "v1":
        errs.append(required("spec.group", "only v1 may have an empty group and it better be legacy kube"))
    if group:
        checked(names.subdomain_errors(group), group, "spec.group", errs)
    checked(names.dns1035_errors(version), version, "spec.version", errs)
    for field, most in (("groupPriorityMinimum", _GROUP_PRIORITY_MAX), ("versionPriority", _VERSION_PRIORITY_MAX)):
        value = spec.get(field) or 0
        if not 0 < value <= most:
            errs.append(invalid(f"spec.{field}", value, f"must be positive and less than {most}"))
    _target(spec, errs)
    return errs


def _target(spec: Mapping[str, Any], errs: Errors) -> None:
    target = spec.get("service")
    if target is None:
        if spec.get("caBundle"):
            size = len(spec["caBundle"]) * 3 // 4 - spec["caBundle"].count("=")
            errs.append(invalid("spec.caBundle", f"{size} bytes", "local APIServices may not have a caBundle"))
        if spec.get("insecureSkipTLSVerify"):
            text = "local APIServices may not have insecureSkipTLSVerify"
            errs.append(invalid("spec.insecureSkipTLSVerify", True, text))
        return
    for field in ("namespace", "name"):
        if not target.get(field):
            errs.append(required(f"spec.service.{field}"))
    port = target.get("port")
    if port is not None and not 1 <= port <= 65535:
        errs.append(invalid("spec.service.port", port, "port is not valid: must be between 1 and 65535, inclusive"))
    if spec.get("insecureSkipTLSVerify") and spec.get("caBundle"):
        text = "may not be true if caBundle is present"
        errs.append(invalid("spec.insecureSkipTLSVerify", True, text))


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    for index, condition in enumerate((new.get("status") or {}).get("conditions") or ()):
        one_of(condition.get("status"), ("True", "False", "Unknown"), f"status.conditions[{index}].status", errs)
    return errs


RULES = {
    "APIService": replace(
        AS_WRITTEN,
        name=names.path_segment_errors,
        defaults=_default,
        prepare_create=_prepare_create,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        validate_status_update=_validate_status,
        status=Status({}, metadata=frozenset()),
        generation=False,
        printer=Printer((NAME, Column("Service"), Column("Available"), AGE), _row),
    ),
}
