"""Changes of a pod that its node makes up for while it runs: resources and images of containers. Pure.

Source: KEP-1287 (in-place resize), concepts "Resize CPU and Memory Resources assigned to Containers".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import RESIZABLE, Container
from rayplane.control_plane.api.pods.resources import container_limits, container_requests
from rayplane.control_plane.api.pods.state import is_mirror
from rayplane.node.kubelet.admission import Allocations, Room
from rayplane.node.lifecycle import ResizePending

DEFERRED, INFEASIBLE = "Deferred", "Infeasible"
NOTHING_PENDING = ResizePending("", "")


@dataclass(frozen=True, slots=True)
class Asked:
    """Containers as they are to be, and which of them need a new run for that, with the reason that is told.

    `of_pod`: the resources of the pod as a whole, where they change.
    """

    containers: tuple[dict[str, Any], ...] = ()
    restart: tuple[tuple[str, str], ...] = ()
    of_pod: dict[str, Any] | None = None

    def __bool__(self) -> bool:
        return bool(self.containers) or self.of_pod is not None


def new_images(pod: Object, given: Mapping[str, dict[str, Any]]) -> Asked:
    """What other images ask for. `given`: containers by name, as their node has taken them."""
    found = [
        {**given[part["name"]], "image": part.get("image")}
        for part in _parts(pod, given)
        if part.get("image") != given[part["name"]].get("image")
    ]
    restart = tuple((c["name"], f"Container {c['name']} definition changed, will be restarted") for c in found)
    return Asked(tuple(found), restart)


def new_resources(pod: Object, given: Mapping[str, dict[str, Any]], of_pod: Mapping[str, Any] | None = None) -> Asked:
    """What other resources ask for. `of_pod`: those that the pod as a whole was given."""
    found, restart = [], []
    for part in _parts(pod, given):
        name, known = part["name"], given[part["name"]]
        changed = _differing(part, known)
        if not changed:
            continue
        found.append({**known, "resources": part.get("resources") or {}})
        policies = {p.get("resourceName"): p.get("restartPolicy") for p in part.get("resizePolicy") or ()}
        if any(policies.get(resource) == "RestartContainer" for resource in changed):
            restart.append((name, f"Container {name} resize requires restart"))
    whole = meta.spec(pod).get("resources") or {}
    changed = _differing({"resources": whole}, {"resources": of_pod or {}})
    return Asked(tuple(found), tuple(restart), whole if changed else None)


def as_given(pod: Object, given: Mapping[str, dict[str, Any]], of_pod: Mapping[str, Any] | None) -> Object:
    """A pod with the resources that are set aside for it, whatever its spec asks for meanwhile."""
    spec = {name: value for name, value in meta.spec(pod).items() if name != "resources"}
    for field in RESIZABLE:
        if parts := spec.get(field):
            spec[field] = [{**p, "resources": given.get(p["name"], p).get("resources") or {}} for p in parts]
    return {**pod, "spec": spec | ({"resources": of_pod} if of_pod else {})}


def summary(pod: Object, error: str = "") -> str:
    """What events tell of a resize: JSON of what the pod and its containers ask for."""
    spec = meta.spec(pod)
    told: dict[str, Any] = {"resources": _amounts(spec)} if spec.get("resources") else {}
    for field in ("initContainers", "containers"):
        if parts := spec.get(field):
            told[field] = [{"name": part["name"], "resources": _amounts(part)} for part in parts]
    told["generation"] = meta.generation(pod)
    if error:
        told["error"] = error
    return json.dumps(told, separators=(",", ":"))


def _amounts(part: Mapping[str, Any]) -> dict[str, Any]:
    resources = part.get("resources") or {}
    found = ((kind, resources.get(kind)) for kind in ("limits", "requests"))
    return {kind: dict(sorted(amounts.items())) for kind, amounts in found if amounts}


def _parts(pod: Object, given: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    spec = meta.spec(pod)
    return [part for field in RESIZABLE for part in spec.get(field) or () if part["name"] in given]


def _differing(one: Container, other: Container) -> set[str]:
    """Names of the resources of which they ask for another amount, or may use one."""
    pairs = ((of(one).items(), of(other).items()) for of in (container_requests, container_limits))
    return {resource for mine, theirs in pairs for resource, _ in mine ^ theirs}


def refusal(pod: Object, have: Room, want: Room, room: Allocations) -> ResizePending | None:
    """Why a pod does not get what it asks for, or not now; None when it does. `have`: what it holds of `room`."""
    if is_mirror(pod):
        return _pending(pod, INFEASIBLE, "In-place resize of static-pods is not supported")
    if (text := room.exceeded(want)) is not None:
        return _pending(pod, INFEASIBLE, text)
    room.release(have)
    rejected = room.refuse(want)
    room.hold(have)
    return None if rejected is None else _pending(pod, DEFERRED, rejected.message)


def _pending(pod: Object, reason: str, message: str) -> ResizePending:
    return ResizePending(reason, message, summary(pod, message))
