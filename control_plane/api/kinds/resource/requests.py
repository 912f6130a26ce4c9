"""Requests of a claim: devices or alternatives, constraints between them, configuration of drivers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.resource.fields import (
    CONFIGS_MAX,
    distinct,
    each,
    validate_configuration,
    validate_full_name,
    validate_label,
    validate_selectors,
    validate_toleration,
)
from rayplane.control_plane.api.machinery import names

REQUESTS_MAX: Final = 32
_CONSTRAINTS_MAX: Final = 32
_ALTERNATIVES_MAX: Final = 8
_MODES: Final = ("All", "ExactCount")
_ONE_TYPE: Final = "exactly one of `exactly` or `firstAvailable` is required"
_NOT_A_REQUEST: Final = (
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
)

RequestNames = Mapping[str, frozenset[str]]
"""Requests of a claim, each with the names of its alternatives."""


def default_claim(spec: Mapping[str, Any]) -> None:
    """One device, where a request does not say how many; tolerations compare for equality."""
    for request in (spec.get("devices") or {}).get("requests") or ():
        for one in (request.get("exactly"), *(request.get("firstAvailable") or ())):
            if one is None:
                continue
            if not one.get("allocationMode"):
                one["allocationMode"] = "ExactCount"
            if one["allocationMode"] == "ExactCount" and not one.get("count"):
                one["count"] = 1
            default_tolerations(one)


def default_tolerations(request: Mapping[str, Any]) -> None:
    for toleration in request.get("tolerations") or ():
        if not toleration.get("operator"):
            toleration["operator"] = "Equal"


def request_names(spec: Mapping[str, Any]) -> RequestNames:
    return {
        request.get("name") or "": frozenset(one.get("name") or "" for one in request.get("firstAvailable") or ())
        for request in (spec.get("devices") or {}).get("requests") or ()
    }


def validate_claim_spec(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    devices, at, known = spec.get("devices") or {}, f"{path}.devices", request_names(spec)
    requests = devices.get("requests") or []
    if each(requests, REQUESTS_MAX, f"{at}.requests", errs, _request):
        distinct((one.get("name") or "" for one in requests), f"{at}.requests", errs)

    def constraint(one: Mapping[str, Any], where: str, found: Errors) -> None:
        validate_references(one.get("requests") or (), f"{where}.requests", known, found)
        _constrained(one, where, found)

    def configuration(one: Mapping[str, Any], where: str, found: Errors) -> None:
        validate_references(one.get("requests") or (), f"{where}.requests", known, found)
        validate_configuration(one, where, found)

    each(devices.get("constraints") or (), _CONSTRAINTS_MAX, f"{at}.constraints", errs, constraint)
    each(devices.get("config") or (), CONFIGS_MAX, f"{at}.config", errs, configuration)


def _request(request: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_label(request.get("name") or "", f"{path}.name", errs)
    exactly, alternatives = request.get("exactly"), request.get("firstAvailable") or []
    if exactly is not None and alternatives:
        errs.append(invalid(path, None, f"{_ONE_TYPE}, but multiple fields are set"))
    elif exactly is not None:
        _asked(exactly, f"{path}.exactly", errs)
    elif alternatives:
        at = f"{path}.firstAvailable"
        if each(alternatives, _ALTERNATIVES_MAX, at, errs, _alternative):
            distinct((one.get("name") or "" for one in alternatives), at, errs)
    else:
        errs.append(required(path, _ONE_TYPE))


def _alternative(request: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_label(request.get("name") or "", f"{path}.name", errs)
    _asked(request, path, errs)


def _asked(request: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Which devices, and how many."""
    cls = request.get("deviceClassName")
    if cls:
        checked(names.subdomain_errors(cls), cls, f"{path}.deviceClassName", errs)
    else:
        errs.append(required(f"{path}.deviceClassName"))
    validate_selectors(request.get("selectors") or (), f"{path}.selectors", errs)
    mode, count = request.get("allocationMode"), request.get("count") or 0
    if mode == "All":
        if count:
            errs.append(invalid(f"{path}.count", count, "must not be specified when allocationMode is 'All'"))
    elif mode == "ExactCount":
        if count <= 0:
            errs.append(invalid(f"{path}.count", count, "must be greater than zero"))
    else:
        errs.append(not_supported(f"{path}.allocationMode", mode or "", _MODES))
    for index, toleration in enumerate(request.get("tolerations") or ()):
        validate_toleration(toleration, f"{path}.tolerations[{index}]", errs)


def _constrained(constraint: Mapping[str, Any], path: str, errs: Errors) -> None:
    if constraint.get("matchAttribute") is not None:
        validate_full_name(constraint["matchAttribute"], f"{path}.matchAttribute", errs)
    elif constraint.get("distinctAttribute") is not None:
        validate_full_name(constraint["distinctAttribute"], f"{path}.distinctAttribute", errs)
    else:
        text = 'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set'
        errs.append(required(path, text))


def validate_references(named: Sequence[str], path: str, known: RequestNames, errs: Errors) -> None:
    """The requests that a constraint or configuration is about."""

    def reference(name: str, at: str, found: Errors) -> None:
        validate_reference(name, at, known, found)

    if each(named, REQUESTS_MAX, path, errs, reference):
        distinct(named, path, errs)


def validate_reference(name: str, path: str, known: RequestNames, errs: Errors) -> None:
    """`request` or `request/alternative`, of this claim."""
    request, slash, alternative = name.partition("/")
    if "/" in alternative:
        errs.append(invalid(path, name, _NOT_A_REQUEST))
        return
    validate_label(request, path, errs)
    if slash:
        validate_label(alternative, path, errs)
    if request not in known or (slash and alternative not in known[request]):
        errs.append(invalid(path, name, _NOT_A_REQUEST))
