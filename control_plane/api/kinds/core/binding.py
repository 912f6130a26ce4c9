"""Bindings: the scheduler's answer for one pod."""

from __future__ import annotations

from datetime import datetime

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.errors import Conflict
from rayplane.control_plane.api.kinds.review import REVIEW
from rayplane.control_plane.api.meta import Object, is_deleting, name, set_condition


def bind(pod: Object, binding: Object, *, now: datetime) -> None:
    """Assign a pod to the node a Binding names, in place.

    Conflict when it already has a node, is being deleted, is gated, or is another pod than meant.
    """
    own = name(pod)
    meta = binding.get("metadata") or {}
    target = (binding.get("target") or {}).get("name") or ""
    kind = (binding.get("target") or {}).get("kind") or "Node"
    if kind != "Node":
        found = [errors.not_supported("target.kind", kind, ("Node", "<empty>"))]
        raise errors.Invalid.of("Binding", own, found)
    if not target:
        raise errors.Invalid.of("Binding", own, [errors.required("target.name")])
    spec = pod["spec"]
    if meta.get("uid") and meta["uid"] != pod["metadata"].get("uid"):
        raise _bind_conflict(own, f"uid {meta['uid']} is not that of pod {own}")
    if meta.get("resourceVersion") and meta["resourceVersion"] != pod["metadata"].get("resourceVersion"):
        raise _bind_conflict(own, errors.MODIFIED)
    if is_deleting(pod):
        raise _bind_conflict(own, f"pod {own} is being deleted, cannot be assigned to a host")
    if spec.get("nodeName"):
        text = f'pod {own} is already assigned to node "{spec["nodeName"]}"'
        raise _bind_conflict(own, text)
    if spec.get("schedulingGates"):
        raise _bind_conflict(own, f"pod {own} has non-empty .spec.schedulingGates")
    spec["nodeName"] = target
    for field in ("annotations", "labels"):
        if meta.get(field):
            pod["metadata"][field] = {**(pod["metadata"].get(field) or {}), **meta[field]}
    conditions = pod.setdefault("status", {}).setdefault("conditions", [])
    set_condition(conditions, {"type": "PodScheduled", "status": "True", "lastProbeTime": None}, now)


def _bind_conflict(own: str, cause: str) -> Conflict:
    return Conflict.of("pods/binding", own, cause)


RULES = {"Binding": REVIEW}
