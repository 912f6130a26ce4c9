"""Resource quotas."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import invalid
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.kinds.pod_template.resources import validate_quantity
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _default(obj: Object) -> None:
    canonical_resources((obj.get("spec") or {}).get("hard"))
    status = obj.get("status") or {}
    canonical_resources(status.get("hard"))
    canonical_resources(status.get("used"))


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    for resource, value in (spec.get("hard") or {}).items():
        at = f"spec.hard[{resource}]"
        checked(names.qualified_name_errors(resource), resource, at, errs)
        quantity = validate_quantity(value, at, errs)
        if quantity is not None and _countable(resource) and quantity.nano % 1_000_000_000:
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


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    scopes, before = (new.get("spec") or {}).get("scopes"), (old.get("spec") or {}).get("scopes")
    immutable(sorted(scopes or ()), sorted(before or ()), "spec.scopes", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    status = obj.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    requests: list[str] = []
    limits: list[str] = []
    for resource in sorted(hard):
        text = f"{resource}: {used.get(resource, 0)}/{hard[resource]}"
        (limits if resource.startswith("limits.") else requests).append(text)
    return [name(obj), ", ".join(requests), ", ".join(limits), age(obj, now)]


RULES = {
    "ResourceQuota": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        status=Status({}),
        generation=False,
        printer=Printer((NAME, Column("Request"), Column("Limit"), AGE), _row),
    ),
}
