"""Validation of resource names and quantities: containers, pods as a whole, overhead, claims of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from rayplane.control_plane.api.errors import (
    NOT_FOUND,
    FieldError,
    duplicate,
    forbidden,
    invalid,
    not_supported,
    required,
)
from rayplane.control_plane.api.kinds.metadata import NOT_NEGATIVE, Errors, checked
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.quantity import NANO, Quantity, QuantityError, parse
from rayplane.control_plane.api.pods.resources import COMPUTE, HUGE_PAGES, is_pod_level, pod_limits, pod_requests

STANDARD: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
_COUNTED: Final = frozenset(
    {
        "pods", "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps",
        "persistentvolumeclaims", "services.nodeports", "services.loadbalancers",
    }
)  # fmt: skip
_KNOWN: Final = (
    STANDARD
    | _COUNTED
    | {"storage", "requests.storage"}
    | {f"{section}.{one}" for section in ("requests", "limits") for one in STANDARD}
)
_NATIVE_DOMAIN: Final = "kubernetes.io/"
_POD_LEVEL: Final = ("cpu", HUGE_PAGES, "memory")
_NO_CLAIMS: Final[frozenset[str]] = frozenset()
_OfName = Callable[[str, str, Errors], None]


def _is_native(name: str) -> bool:
    return "/" not in name or _NATIVE_DOMAIN in name


def is_extended(name: str) -> bool:
    """Counted by whole units and not overcommitted: a qualified name outside kubernetes.io."""
    if _is_native(name) or name.startswith("requests."):
        return False
    return not names.qualified_name_errors(f"requests.{name}")


def validate_quantity(value: Any, path: str, errs: Errors, *, least: int | None = 0) -> Quantity | None:
    """A quantity that is not negative, if `least` is zero; None (and an error) when it is none."""
    try:
        quantity = parse(value)
    except QuantityError as error:
        errs.append(invalid(path, value, str(error)))
        return None
    if least is not None and quantity.nano < least:
        errs.append(invalid(path, str(quantity), NOT_NEGATIVE))
    return quantity


def _known_name(name: str, path: str, errs: Errors) -> bool:
    """A name that is qualified, or one of Kubernetes' own."""
    problems = names.qualified_name_errors(name)
    checked(problems, name, path, errs)
    if problems or "/" in name or name in _KNOWN or name.startswith((HUGE_PAGES, f"requests.{HUGE_PAGES}")):
        return not problems
    errs.append(invalid(path, name, "must be a standard resource type or fully qualified"))
    return False


def _container_name(name: str, path: str, errs: Errors) -> None:
    _known_name(name, path, errs)
    if "/" not in name:
        if not name.startswith(HUGE_PAGES):
            errs.append(invalid(path, name, "must be a standard resource for containers"))
    elif not _is_native(name) and not is_extended(name):
        errs.append(invalid(path, name, "doesn't follow extended resource name standard"))


def _pod_name(name: str, path: str, errs: Errors) -> None:
    if _known_name(name, path, errs) and not is_pod_level(name):
        errs.append(not_supported(path, name, _POD_LEVEL))


def validate_amount(name: str, value: Any, path: str, errs: Errors) -> Quantity | None:
    """An amount of a resource, whole where it is counted."""
    quantity = validate_quantity(value, path, errs)
    if (
        quantity is not None
        and name not in STANDARD
        and quantity.nano % NANO
        and (name in _COUNTED or is_extended(name))
    ):
        errs.append(invalid(path, str(quantity), "must be an integer"))
    return quantity


def _whole_pages(name: str, quantity: Quantity | None, path: str, errs: Errors) -> None:
    if quantity is None:
        return
    try:
        size = parse(name.removeprefix(HUGE_PAGES))
    except QuantityError:
        size = Quantity(0)
    if size.nano <= 0 or size.nano % NANO or quantity.value % size.value:
        errs.append(invalid(path, str(quantity), f"{quantity} is not positive integer multiple of {name}"))


def validate_requirements(
    resources: Mapping[str, Any],
    path: str,
    errs: Errors,
    claims: AbstractSet[str] = _NO_CLAIMS,
    of_name: _OfName = _container_name,
) -> None:
    """Limits and requests of a container or pod; requests may not exceed limits. `claims` are those of the pod."""
    limits: dict[str, Quantity | None] = {}
    for name, value in (resources.get("limits") or {}).items():
        at = f"{path}.limits[{name}]"
        if name not in STANDARD or of_name is not _container_name:
            of_name(name, at, errs)
        limits[name] = validate_amount(name, value, at, errs)
        if name.startswith(HUGE_PAGES):
            _whole_pages(name, limits[name], at, errs)
    requests = resources.get("requests") or {}
    for name, value in requests.items():
        at = f"{path}.requests[{name}]"
        if name not in STANDARD or of_name is not _container_name:
            of_name(name, at, errs)
        request = validate_amount(name, value, at, errs)
        _within_limit(name, request, limits, path, errs)
        if name.startswith(HUGE_PAGES):
            _whole_pages(name, request, at, errs)
    asked = limits.keys() | requests.keys()
    if any(name.startswith(HUGE_PAGES) for name in asked) and not asked & COMPUTE:
        errs.append(forbidden(path, "HugePages require cpu or memory"))
    if resources.get("claims"):
        _validate_claims(resources["claims"], f"{path}.claims", claims, errs)


def _within_limit(
    name: str, request: Quantity | None, limits: Mapping[str, Quantity | None], path: str, errs: Errors
) -> None:
    fixed = name not in STANDARD and (not _is_native(name) or name.startswith(HUGE_PAGES))
    if name not in limits:
        if fixed:
            errs.append(required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
        return
    limit = limits[name]
    if request is None or limit is None:
        return
    if fixed and request != limit:
        errs.append(invalid(f"{path}.requests", str(request), f"must be equal to {name} limit of {limit}"))
    elif request > limit:
        text = f"must be less than or equal to {name} limit of {limit}"
        errs.append(invalid(f"{path}.requests", str(request), text))


def _validate_claims(claims: Sequence[Mapping[str, Any]], path: str, known: AbstractSet[str], errs: Errors) -> None:
    """References of a container to claims of its pod: each whole, or some of its requests, but not both."""
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        own, request, at = claim.get("name") or "", claim.get("request") or "", f"{path}[{index}]"
        if not own:
            errs.append(required(at))
            continue
        if own in seen:
            errs.append(duplicate(at, own))
        else:
            if request:
                checked(names.label_errors(request), request, f"{at}.request", errs)
            key = f"{own}/{request}" if request else own
            if key in seen:
                errs.append(duplicate(at, key))
            elif not request:
                errs += [duplicate(at, own) for one in seen if one.startswith(f"{own}/")]
            seen.add(key)
        if own not in known:
            named = f": {', '.join(sorted(known))}" if known else " which is empty"
            detail = f"must be one of the names in pod.spec.resourceClaims{named}"
            errs.append(FieldError(NOT_FOUND, at, own, detail))


# --- pods as a whole ----------------------------------------------------------------------------


def validate_pod_resources(spec: Mapping[str, Any], path: str, errs: Errors, claims: AbstractSet[str]) -> None:
    """Resources of the pod as a whole: the containers fit into them."""
    resources, at = spec["resources"], f"{path}.resources"
    if (spec.get("os") or {}).get("name") == "windows":
        errs.append(forbidden(at, "may not be set for a windows pod"))
        return
    if resources.get("claims") is not None:
        errs.append(forbidden(f"{at}.claims", "claims may not be set for Resources at pod-level"))
    validate_requirements(resources, at, errs, claims, _pod_name)
    try:
        _containers_fit(spec, at, errs)
    except QuantityError:
        return  # found above, or in the containers


def _containers_fit(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    of_containers = {"spec": {**spec, "resources": None}}
    requests, limits = (
        {n: parse(v) for n, v in (spec["resources"].get(s) or {}).items()} for s in ("requests", "limits")
    )
    for name, together in pod_requests(of_containers, overhead=False, reported=False).items():
        if name in requests and together > requests[name]:
            text = f"must be greater than or equal to aggregate container requests of {together}"
            errs.append(invalid(f"{path}.requests[{name}]", str(requests[name]), text))
    for name, together in pod_limits(of_containers, overhead=False, reported=False).items():
        if name.startswith(HUGE_PAGES) and name in limits and together > limits[name]:
            text = f"must be greater than or equal to aggregate container limits of {together}"
            errs.append(invalid(f"{path}.limits[{name}]", str(limits[name]), text))
    for index, container in enumerate(spec.get("containers") or ()):
        for name, value in ((container.get("resources") or {}).get("limits") or {}).items():
            limit = parse(value)
            if name in limits and limit > limits[name]:
                text = f"must be less than or equal to pod limits of {limits[name]}"
                errs.append(invalid(f"{path}.containers[{index}][{name}].limits", str(limit), text))
