"""Eviction: deleting a pod where its disruption budgets allow it.

Source: Kubernetes API reference, policy/v1 Eviction; concepts "API-initiated Eviction".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import ApiError, Forbidden, TooManyRequests
from rayplane.control_plane.api.kinds.policy.pod_disruption_budget import BUDGETS, set_disruption_allowed
from rayplane.control_plane.api.machinery import selectors
from rayplane.control_plane.api.meta import (
    Object,
    format_time,
    generation,
    get_condition,
    labels,
    name,
    namespace,
    observed,
    set_condition,
    spec,
    status,
)
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_ready, pod_phase

#: Condition of pods that are about to be deleted for a reason that is none of their own.
DISRUPTION_TARGET = "DisruptionTarget"
DISRUPTED_PODS_MAX = 2000
"""More evictions than these are not let through before the disruption controller has seen those."""
_VIOLATES = "Cannot evict pod as it would violate the pod's disruption budget."
_SEVERAL = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
_RETRY_S = 10


def matching_budgets(pod: Object, budgets: Sequence[Object]) -> list[Object]:
    """The disruption budgets of the pod's namespace that select it."""
    return [
        budget
        for budget in budgets
        if namespace(budget) == namespace(pod)
        and selectors.from_label_selector(spec(budget).get("selector")).matches(labels(pod))
    ]


def needs_no_budget(pod: Object) -> bool:
    """True when the pod's end disrupts nothing: it has not begun, or is over, or is about to go."""
    return not pod_is_active(pod) or pod_phase(pod) == "Pending"


def governing_budget(pod: Object, budgets: Sequence[Object]) -> Object | None:
    """The budget that the pod's eviction is counted against; None when no budget selects it.

    An ApiError (500, without a reason) when several do.
    """
    matching = matching_budgets(pod, budgets)
    if len(matching) > 1:
        raise ApiError(_SEVERAL, reason="", code=500)
    return matching[0] if matching else None


def spends_nothing(pod: Object, budget: Object) -> bool:
    """True when a pod that is not ready may go without being counted, as the budget's policy for such pods says."""
    if pod_is_ready(pod):
        return False
    if spec(budget).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    found = status(budget)
    healthy, wanted = found.get("currentHealthy") or 0, found.get("desiredHealthy") or 0
    return healthy >= wanted > 0


def count_disruption(budget: Object, pod_name: str, now: datetime) -> None:
    """Count the eviction of a pod in its budget's status, in place. TooManyRequests or Forbidden when it may not be."""
    found = dict(status(budget))
    if (found.get("observedGeneration") or 0) < generation(budget):
        raise still_processed(name(budget))
    allowed, disrupted = found.get("disruptionsAllowed") or 0, found.get("disruptedPods") or {}
    if allowed < 0:
        raise _forbidden(budget, "pdb disruptions allowed is negative")
    if len(disrupted) > DISRUPTED_PODS_MAX:
        text = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise _forbidden(budget, text)
    if not allowed:
        raise _refused(_why_not(name(budget), found), retry_after=None)
    found["disruptionsAllowed"] = allowed - 1
    found["disruptedPods"] = {**disrupted, pod_name: format_time(now)}
    if allowed == 1:
        set_disruption_allowed(found, now)
    budget["status"] = found


def mark_evicted(pod: Object, now: datetime) -> None:
    """Say in the pod's status, in place, that the eviction API ends it."""
    condition: dict[str, Any] = {
        "type": DISRUPTION_TARGET,
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    }
    set_condition(pod.setdefault("status", {}).setdefault("conditions", []), observed(pod, condition), now)


def still_processed(budget_name: str) -> TooManyRequests:
    """The refusal until the disruption controller has looked at the budget."""
    text = f"The disruption budget {budget_name} is still being processed by the server."
    return _refused(text, retry_after=_RETRY_S)


def _why_not(budget_name: str, found: Mapping[str, Any]) -> str:
    """Why no disruption is left. What failed comes first: no count of it can be trusted."""
    healthy, wanted = found.get("currentHealthy") or 0, found.get("desiredHealthy") or 0
    condition = get_condition(list(found.get("conditions") or ()), "DisruptionAllowed") or {}
    refused = condition.get("status") == "False" and condition.get("message")
    if refused and condition.get("reason") == "SyncFailed":
        why = f" because it failed sync: {refused}"
    elif healthy <= wanted:
        return f"The disruption budget {budget_name} needs {wanted} healthy pods and has {healthy} currently"
    else:
        why = f" ({condition.get('reason') or ''}): {refused}" if refused else ""
    return f"The disruption budget {budget_name} does not allow evicting pods currently{why}"


def _forbidden(budget: Object, text: str) -> Forbidden:
    return Forbidden.of(BUDGETS.partition(".")[0].removesuffix("s"), name(budget), text, group="policy")


def _refused(text: str, *, retry_after: int | None) -> TooManyRequests:
    causes = [{"reason": "DisruptionBudget", "message": text}]
    return TooManyRequests(_VIOLATES, details={"causes": causes}, retry_after=retry_after)
