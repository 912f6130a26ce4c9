"""Eviction: deleting a pod where its disruption budgets allow it.

Source: Kubernetes API reference, policy/v1 Eviction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rayplane.control_plane.api.errors import InternalError, TooManyRequests
from rayplane.control_plane.api.machinery import selectors
from rayplane.control_plane.api.meta import Object, format_time, name, namespace
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_ready, pod_phase

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
        if policy == "AlwaysAllow" or (healthy >= wanted > 0):
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
