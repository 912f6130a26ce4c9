"""Bindings: the scheduler's answer for one pod."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.errors import Conflict
from rayplane.control_plane.api.kinds.review import REVIEW
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.meta import Object, is_deleting, name, set_condition


def bind(pod: Object, binding: Object, *, now: datetime) -> None:
    """Assign a pod to the node a Binding names, in place.

    Conflict when it already has a node, is being deleted, is gated, or is another pod than meant.
    """
    own = name(pod)
    meta = binding.get("metadata") or {}
    found = _target_errors(binding.get("target") or {})
    if found:
        raise errors.Invalid.of("Binding", own, found)
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
    spec["nodeName"] = binding["target"]["name"]
    for field in ("annotations", "labels"):
        if meta.get(field):
            pod["metadata"][field] = {**(pod["metadata"].get(field) or {}), **meta[field]}
    status = pod.setdefault("status", {})
    status.pop("nominatedNodeName", None)  # where it was to go, and who waited for it, is of no interest any more
    conditions = status.setdefault("conditions", [])
    set_condition(conditions, {"type": "PodScheduled", "status": "True", "lastProbeTime": None}, now)


def _target_errors(target: Mapping[str, Any]) -> list[errors.FieldError]:
    """A target is a node, by its name."""
    found: list[errors.FieldError] = []
    kind, node = target.get("kind") or "", target.get("name") or ""
    if kind not in ("", "Node"):
        found.append(errors.not_supported("target.kind", kind, ("Node", "<empty>")))
    if not node:
        found.append(errors.required("target.name"))
    elif kind in ("", "Node"):
        found += [errors.invalid("target.name", node, problem) for problem in names.subdomain_errors(node)]
    return found


def _bind_conflict(own: str, cause: str) -> Conflict:
    return Conflict.of("pods/binding", own, cause)


RULES = {"Binding": REVIEW}
