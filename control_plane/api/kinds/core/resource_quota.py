"""Resource quotas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import IMMUTABLE, Errors, checked
from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.kinds.pod_template.resources import validate_amount
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.api.pods.resources import HUGE_PAGES

_COUNTS = frozenset(
    {
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    }
)
_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_COMPUTE = frozenset(f"{part}{resource}" for part in ("", "requests.", "limits.") for resource in _RESOURCES)
STANDARD_OF_QUOTAS = _COUNTS | _COMPUTE | {"requests.storage"}
_OF_PODS = frozenset({"pods"} | {resource for resource in _COMPUTE if not resource.endswith("ephemeral-storage")})
_SCOPES = {
    "Terminating": _OF_PODS,
    "NotTerminating": _OF_PODS,
    "BestEffort": frozenset({"pods"}),
    "NotBestEffort": _OF_PODS,
    "PriorityClass": _OF_PODS,
    "CrossNamespacePodAffinity": _OF_PODS,
    "VolumeAttributesClass": frozenset({"persistentvolumeclaims", "requests.storage"}),
}
"""Scopes, and the resources of those that Kubernetes knows which each can be applied to."""
_ONLY_THERE = _SCOPES.keys() - {"PriorityClass", "VolumeAttributesClass"}
_MUST_EXIST = (
    "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
    "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"
)


def _default(obj: Object) -> None:
    canonical_resources((obj.get("spec") or {}).get("hard"))
    status = obj.get("status") or {}
    canonical_resources(status.get("hard"))
    canonical_resources(status.get("used"))


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    hard = spec.get("hard") or {}
    _amounts(hard, "spec.hard", errs)
    _scopes(spec, hard, errs)
    _scope_selector(spec, hard, errs)
    return errs


def _amounts(amounts: Mapping[str, Any], path: str, errs: Errors) -> None:
    for resource, value in amounts.items():
        at = f"{path}[{resource}]"
        problems = names.qualified_name_errors(resource)
        checked(problems, resource, at, errs)
        if "/" not in resource:
            known = _is_standard(resource)
            if not problems and not known and resource != "storage":
                errs.append(invalid(at, resource, "must be a standard resource type or fully qualified"))
            if not known:
                errs.append(invalid(at, resource, "must be a standard resource for quota"))
        validate_amount(resource, value, at, errs)


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    for field in ("hard", "used"):
        _amounts((new.get("status") or {}).get(field) or {}, f"status.{field}", errs)
    return errs


def _scopes(spec: Mapping[str, Any], hard: Iterable[str], errs: Errors) -> None:
    scopes = spec.get("scopes") or []
    for scope in scopes:
        if scope not in _SCOPES:
            errs.append(invalid("spec.scopes", scopes, "unsupported scope"))
        _applied(scope, hard, "spec.scopes", scopes, errs)
    _not_both(scopes, "spec.scopes", scopes, errs)


def _scope_selector(spec: Mapping[str, Any], hard: Iterable[str], errs: Errors) -> None:
    selector, at = spec.get("scopeSelector") or {}, "spec.scopeSelector.matchExpressions"
    terms = selector.get("matchExpressions") or ()
    for term in terms:
        scope, operator, values = term.get("scopeName") or "", term.get("operator") or "", term.get("values") or []
        if scope not in _SCOPES:
            errs.append(invalid(f"{at}.scopeName", scope, "unsupported scope"))
        _applied(scope, hard, at, selector, errs)
        if scope in _ONLY_THERE and operator != "Exists":
            errs.append(invalid(f"{at}.operator", operator, _MUST_EXIST))
        if operator in ("In", "NotIn"):
            if not values:
                text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
                errs.append(required(f"{at}.values", text))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
                errs.append(invalid(f"{at}.values", values, text))
        else:
            errs.append(invalid(f"{at}.operator", operator, "not a valid selector operator"))
    _not_both([term.get("scopeName") for term in terms], at, spec.get("scopes"), errs)


def _applied(scope: str, hard: Iterable[str], path: str, value: Any, errs: Errors) -> None:
    """A scope must make sense for each of the resources that Kubernetes knows."""
    fitting = _SCOPES.get(scope)
    if fitting is None:
        return
    for resource in sorted(hard):
        if _is_standard(resource) and resource not in fitting:
            errs.append(invalid(path, value, "unsupported scope applied to resource"))


def _not_both(scopes: Sequence[Any], path: str, value: Any, errs: Errors) -> None:
    for one, other in (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")):
        if one in scopes and other in scopes:
            errs.append(invalid(path, value, "conflicting scopes"))


def _is_standard(resource: str) -> bool:
    return resource in STANDARD_OF_QUOTAS or resource.removeprefix("requests.").startswith(HUGE_PAGES)


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    scopes, before = (new.get("spec") or {}).get("scopes"), (old.get("spec") or {}).get("scopes")
    if set(scopes or ()) != set(before or ()):
        errs.append(invalid("spec.scopes", scopes, IMMUTABLE))
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
        defaults_in_status=True,
        validate=_validate,
        validate_update=_validate_update,
        validate_status_update=_validate_status,
        status=Status({}),
        generation=False,
        printer=Printer((NAME, Column("Request"), Column("Limit"), AGE), _row),
    ),
}
