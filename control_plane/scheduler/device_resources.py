"""Extended resources that devices stand behind: a pod asks for a number of a name, and gets a claim to devices made.

A class of devices has a name of its own choice, and one made of its own. Where a node reports the resource itself,
it is counted as ever; elsewhere the scheduler makes one claim for all such resources of a pod. Pure.

Source: KEP-5004 (DRA extended resource); API reference core/v1 PodExtendedResourceClaimStatus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import EXTENDED, FINALIZER, OF_CLASS
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import in_order
from rayplane.control_plane.api.pods.resources import container_requests

_BASE_CHARS_MAX, _SUFFIX_CHARS = 58, 5
_Container = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ResourceClaimed:
    """A claim that is to be made for a pod's resources, and which of its requests each container's resource is."""

    claim: Object
    mappings: Sequence[Mapping[str, str]]

    @property
    def status(self) -> dict[str, Any]:
        """What the pod's status says of it."""
        return {"resourceClaimName": meta.name(self.claim), "requestMappings": [*self.mappings]}


def resources_of(classes: Mapping[str, Object]) -> dict[str, str]:
    """The class of devices behind each resource; of several that want one name the newest, then the first by name."""
    found = {f"{OF_CLASS}{name}": name for name in classes}
    wanted: dict[str, list[Object]] = {}
    for one in classes.values():
        resource = meta.spec(one).get("extendedResourceName")
        if resource:
            wanted.setdefault(resource, []).append(one)
    for resource, several in wanted.items():
        several.sort(key=meta.name)
        found[resource] = meta.name(max(several, key=lambda o: meta.metadata(o).get("creationTimestamp") or ""))
    return found


def claim_name(pod: Object) -> str:
    """The name of the claim for a pod's resources: the same at every attempt, so that it is never made twice."""
    digest = hashlib.sha256(meta.uid(pod).encode()).hexdigest()[:_SUFFIX_CHARS]
    return f"{meta.name(pod)}-extended-resources-"[:_BASE_CHARS_MAX] + digest


def is_of_resources(claim: Object) -> bool:
    """Whether a claim was made for the extended resources of a pod."""
    return meta.annotations(claim).get(EXTENDED) == "true"


def is_made_for(claim: Object, pod: Object) -> bool:
    """Whether a claim was made for the resources of this very pod."""
    return is_of_resources(claim) and meta.is_controlled_by(claim, pod)


def claimed(pod: Object, classes: Mapping[str, str]) -> ResourceClaimed:
    """The claim for these resources of a pod, each with its class."""
    requests, mappings = _requests(pod, classes)
    own = {
        "name": claim_name(pod),
        "namespace": meta.namespace(pod),
        "annotations": {EXTENDED: "true"},
        "finalizers": [FINALIZER],
        "ownerReferences": [meta.owner_reference({"apiVersion": "v1", "kind": "Pod", **pod}, block=False)],
    }
    kind = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim"}
    return ResourceClaimed({**kind, "metadata": own, "spec": {"devices": {"requests": requests}}}, mappings)


@dataclass(slots=True)
class _Needs:
    """One resource over all containers."""

    resource: str
    of_class: str
    lasting: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Requests of containers that run as long as the pod, by the container's number: name and count."""
    passing: dict[str, int] = field(default_factory=dict)
    """What init containers want beyond those, by request."""
    mappings: list[dict[str, str]] = field(default_factory=list)

    def mapped(self, container: _Container, request: str) -> dict[str, str]:
        return {
            "containerName": container.get("name") or "",
            "resourceName": self.resource,
            "requestName": request,
        }


def _requests(pod: Object, classes: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """One request for each container that goes on, and one for all that init containers want beyond those.

    An init container has first what containers after it will have, as they do not run yet.
    """
    containers = [*enumerate(in_order(meta.spec(pod)))]
    requests: list[dict[str, Any]] = []
    mappings: list[dict[str, str]] = []
    for resource, of_class in sorted(classes.items()):
        needs = _Needs(resource, of_class)
        for number, (container, ends) in containers:
            if not ends and (count := _asked(container, resource)):
                name = _name(number, container, resource)
                needs.lasting[number] = name, count
                needs.mappings.append(needs.mapped(container, name))
        passing = [one for number, (init, ends) in containers if ends for one in _of_init(needs, number, init)]
        most = max(needs.passing, key=lambda name: needs.passing[name], default="")
        for one in passing:
            one["requestName"] = most if one["requestName"] in needs.passing else one["requestName"]
        counts = {name: count for name, count in needs.lasting.values()}
        counts |= {most: needs.passing[most]} if most else {}
        requests += [_request(name, of_class, count) for name, count in counts.items()]
        mappings += [*needs.mappings, *passing]
    return sorted(requests, key=lambda one: str(one["name"])), mappings


def _of_init(needs: _Needs, number: int, container: _Container) -> Iterator[dict[str, str]]:
    """What an init container has: requests of containers after it, and where they are too few one of its own."""
    left = _asked(container, needs.resource)
    for other, (name, count) in needs.lasting.items():
        if left > 0 and other > number:
            left -= count
            yield needs.mapped(container, name)
    if left > 0:
        name = _name(number, container, needs.resource)
        needs.passing[name] = left
        yield needs.mapped(container, name)


def _asked(container: _Container, resource: str) -> int:
    return quantity.value(container_requests(container).get(resource) or "0")


def _name(number: int, container: _Container, resource: str) -> str:
    return f"container-{number}-request-{sorted(container_requests(container)).index(resource)}"


def _request(name: str, of_class: str, count: int) -> dict[str, Any]:
    exactly = {"deviceClassName": of_class, "allocationMode": "ExactCount", "count": count}
    return {"name": name, "exactly": exactly}
