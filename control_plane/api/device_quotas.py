"""Quotas of devices: what a claim counts for, by the names of classes and of the resources that these stand behind.

A device counts alike whether a claim asks for it or a pod, as an extended resource. A pod counts for its resources when
it is made; the claim that the scheduler makes for them counts for what its pod does not count for itself.

Source: KEP-5004 (DRA extended resource), "Resource Quota"; Kubernetes concepts "Resource Quotas".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import EXTENDED, OF_CLASS
from rayplane.control_plane.api.kinds.pod_template.resources import is_extended
from rayplane.control_plane.api.machinery.quantity import Quantity, parse
from rayplane.control_plane.api.meta import Object

Usage = dict[str, Quantity]
Names = Mapping[str, str]
"""By class, the extended resource that it chose to stand behind."""
NO_NAMES: Final[Names] = MappingProxyType({})
_OF_DEVICES: Final = ".deviceclass.resource.k8s.io/devices"
_REQUESTS: Final = "requests."
# A request for all devices of a class counts as the most that a claim may have (AllocationResultsMaxSize).
_DEVICES_MAX = 32


def names_of(classes: Iterable[Object]) -> dict[str, str]:
    """The resource of each class that names one."""
    named = ((meta.name(one), meta.spec(one).get("extendedResourceName")) for one in classes)
    return {name: resource for name, resource in named if resource}


def is_of_resource(name: str) -> bool:
    """Whether a quota's name is that of an extended resource."""
    resource = name.removeprefix(_REQUESTS)
    return resource != name and (is_extended(resource) or resource.startswith(OF_CLASS))


def counts_devices(name: str, names: Names) -> bool:
    """Whether claims count for a quota's name."""
    resource = name.removeprefix(_REQUESTS)
    return name.endswith(_OF_DEVICES) or (
        resource != name and (resource.startswith(OF_CLASS) or resource in names.values())
    )


def usage_of_claim(spec: Mapping[str, Any], names: Names, of_pod: Mapping[str, Quantity]) -> Usage:
    """What a claim counts for. `of_pod`: what the pod counts for that the claim was made for."""
    usage: Usage = {}
    for cls, count in _devices(spec).items():
        usage[f"{cls}{_OF_DEVICES}"] = parse(count)
        for resource in filter(None, (f"{OF_CLASS}{cls}", names.get(cls))):
            name = f"{_REQUESTS}{resource}"
            usage[name] = usage.get(name, parse(0)) + parse(count)
    for name in [name for name in usage if name in of_pod]:
        left = usage.pop(name) - of_pod[name]
        if left > parse(0):
            usage[name] = left
    return usage


def _devices(spec: Mapping[str, Any]) -> dict[str, int]:
    """The most devices that a claim may take, by class."""
    found: dict[str, int] = {}
    for request in (spec.get("devices") or {}).get("requests") or ():
        # Of alternatives the most that any of a class may take.
        most: dict[str, int] = {}
        for one in request.get("firstAvailable") or [request.get("exactly") or request]:
            cls = one.get("deviceClassName") or ""
            count = _DEVICES_MAX if one.get("allocationMode") == "All" else one.get("count") or 1
            most[cls] = max(count, most.get(cls, 0))
        for cls, count in most.items():
            found[cls] = found.get(cls, 0) + count
    return found


def is_made_for_pod(claim: Object) -> bool:
    """Whether a claim says that it was made for a pod's resources. Anybody may say so."""
    owner = meta.controller_of(claim) or {}
    return meta.annotations(claim).get(EXTENDED) == "true" and (owner.get("apiVersion"), owner.get("kind")) == (
        "v1",
        "Pod",
    )


def is_made_for(claim: Object, pod: Object | None, claims: Iterable[Object]) -> bool:
    """Whether a pod takes a claim for the one made for its resources. `claims`: all of the namespace.

    Where the pod names none yet, that is the first that says so.
    """
    if pod is None or not (is_made_for_pod(claim) and meta.is_controlled_by(claim, pod)):
        return False
    told = (meta.status(pod).get("extendedResourceClaimStatus") or {}).get("resourceClaimName")
    if told:
        return bool(told == meta.name(claim))
    others = [one for one in claims if is_made_for_pod(one) and meta.is_controlled_by(one, pod)]
    return meta.name(min([claim, *others], key=_age)) == meta.name(claim)


def _age(claim: Object) -> tuple[str, str]:
    return meta.metadata(claim).get("creationTimestamp") or "~", meta.name(claim)  # one that is being made is the last
