"""Bodies and effects of the subresources scale, binding and eviction.

Source: Kubernetes API reference (autoscaling/v1 Scale, core/v1 Binding, policy/v1 Eviction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.errors import Conflict, FieldError, InternalError, TooManyRequests
from rayplane.control_plane.api.machinery import selectors
from rayplane.control_plane.api.meta import Object, format_time, name, namespace, set_condition
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_ready, pod_phase


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """JSON paths (with a leading dot) of a kind's replica counts; `selector` may be empty."""

    spec: str = ".spec.replicas"
    status: str = ".status.replicas"
    selector: str = ".spec.selector"


WORKLOAD_PATHS = ScalePaths()


def _get(obj: Object, path: str) -> Any:
    found: Any = obj
    for part in path.strip(".").split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def get_scale(obj: Object, paths: ScalePaths = WORKLOAD_PATHS) -> Object:
    """The autoscaling/v1 Scale of a deployment, replica set, stateful set, RC or custom object."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: dict[str, Any] = {"replicas": _get(obj, paths.status) or 0}
    text = _selector_text(obj, paths)
    if text:
        status["selector"] = text
    replicas = _get(obj, paths.spec)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: metadata[field] for field in kept if field in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


def _selector_text(obj: Object, paths: ScalePaths) -> str:
    selector = _get(obj, paths.selector) if paths.selector else None
    if isinstance(selector, str):
        return selector
    if not selector:
        return ""
    if obj.get("kind") == "ReplicationController":
        return str(selectors.from_map(selector))
    return selectors.label_selector_text(selector)


def scale_errors(scale: Object) -> list[FieldError]:
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if replicas < 0:
        text = "must be greater than or equal to 0"
        return [errors.invalid("spec.replicas", replicas, text)]
    return []


def set_scale(obj: Object, scale: Object, paths: ScalePaths = WORKLOAD_PATHS) -> None:
    """Write the replicas a Scale asks for into `obj`, in place; Invalid when negative.

    Conflict when the Scale carries another resourceVersion or uid than the object.
    """
    found = scale_errors(scale)
    if found:
        raise errors.Invalid.of("Scale", name(obj), found, group="autoscaling")
    given = scale.get("metadata") or {}
    for field in ("resourceVersion", "uid"):
        if given.get(field) and given[field] != obj["metadata"].get(field):
            raise Conflict.of(_plural(obj), name(obj), group=_group(obj))
    *parents, last = paths.spec.strip(".").split(".")
    target = obj
    for part in parents:
        target = target.setdefault(part, {})
    target[last] = (scale.get("spec") or {}).get("replicas") or 0


def _group(obj: Object) -> str:
    return (obj.get("apiVersion") or "").rpartition("/")[0]


def _plural(obj: Object) -> str:
    return (obj.get("kind") or "").lower() + "s"


# --- binding ------------------------------------------------------------------------------------


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
    if pod["metadata"].get("deletionTimestamp"):
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


# --- eviction -----------------------------------------------------------------------------------

_VIOLATES = "Cannot evict pod as it would violate the pod's disruption budget."
_SEVERAL = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."


def matching_budgets(pod: Object, budgets: Sequence[Object]) -> list[Object]:
    """The disruption budgets of the pod's namespace that select it."""
    labels = pod["metadata"].get("labels") or {}
    return [
        budget
        for budget in budgets
        if namespace(budget) == namespace(pod)
        and selectors.from_label_selector((budget.get("spec") or {}).get("selector")).matches(labels)
    ]


def check_eviction(pod: Object, budgets: Sequence[Object], *, now: datetime) -> Object | None:
    """May this pod be evicted? The budget to store before deleting it, or None when none counts.

    TooManyRequests when a budget forbids it, InternalError when several budgets select the pod.
    """
    if not pod_is_active(pod) or pod_phase(pod) == "Pending":
        return None
    matching = matching_budgets(pod, budgets)
    if not matching:
        return None
    if len(matching) > 1:
        raise InternalError(_SEVERAL)
    budget = matching[0]
    status = budget.get("status") or {}
    healthy, wanted = status.get("currentHealthy") or 0, status.get("desiredHealthy") or 0
    if not pod_is_ready(pod):
        policy = (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy")
        if policy == "AlwaysAllow" or (healthy >= wanted and wanted > 0):
            return None
    generation = budget["metadata"].get("generation") or 0
    if (status.get("observedGeneration") or 0) < generation:
        text = f"The disruption budget {name(budget)} is still being processed by the server."
        raise _refused(text, retry_after=10)
    allowed = status.get("disruptionsAllowed") or 0
    if allowed <= 0:
        text = f"The disruption budget {name(budget)} needs {wanted} healthy pods and has {healthy} currently"
        raise _refused(text, retry_after=None)
    disrupted = {**(status.get("disruptedPods") or {}), name(pod): format_time(now)}
    counted = {**status, "disruptionsAllowed": allowed - 1, "disruptedPods": disrupted}
    return {**budget, "status": counted}


def _refused(text: str, *, retry_after: int | None) -> TooManyRequests:
    causes = [{"reason": "DisruptionBudget", "message": text}]
    return TooManyRequests(_VIOLATES, details={"causes": causes}, retry_after=retry_after)
