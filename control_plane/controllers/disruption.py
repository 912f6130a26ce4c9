"""Disruption budgets: how many pods are healthy, how many may be disrupted, and evictions that nobody carried out.

Keys are `budget/<namespace>/<name>` and `pod/<namespace>/<name>`: of pods with a condition that may grow stale, or with
several budgets.
Source: Kubernetes tasks "Specifying a Disruption Budget for your Application"; concepts "Disruptions".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.kinds.policy.eviction import DISRUPTION_TARGET, matching_budgets
from rayplane.control_plane.api.kinds.policy.pod_disruption_budget import BUDGETS, set_disruption_allowed
from rayplane.control_plane.api.machinery.selectors import from_label_selector, go_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_is_terminated, pod_phase
from rayplane.control_plane.controllers.actions import Action, Event, UpdateStatus
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    in_namespace,
    result,
    selected,
    soonest,
)
from rayplane.control_plane.controllers.rollout import int_or_percent
from rayplane.control_plane.controllers.scales import NoScale, Scaled, scalable

DELETION_TIMEOUT_S = 120.0
"""A pod whose eviction was let through and that is not being deleted after this long counts again."""
STALE_CONDITION_S = 120.0
RETRY_S = 15.0
"""When a budget that could not be reckoned is looked at again: its owners may be in the caches then."""
_LEEWAY_S = 0.01


class SyncFailed(Exception):
    """A budget whose expected pods cannot be counted."""


def _budget_key(budget: Object, _: View) -> Iterable[str]:
    return (f"budget/{meta.key(budget)}",)


def _pod_keys(pod: Object, view: View) -> Iterable[str]:
    budgets = _budgets_of(pod, view)
    keys = [f"budget/{meta.key(budget)}" for budget in budgets]
    if len(budgets) > 1 or _is_promised(pod):
        keys.append(f"pod/{meta.key(pod)}")
    return keys


def _budgets_of(pod: Object, view: View) -> list[Object]:
    """The budgets that select a pod, by name."""
    found: list[Object] = []
    for budget in in_namespace(view, BUDGETS, meta.namespace(pod)):
        try:
            found += matching_budgets(pod, [budget])
        except BadRequest:
            continue
    return sorted(found, key=meta.name)


def _is_promised(pod: Object) -> bool:
    """True for a pod that was to be deleted and is not: no kubelet's promise, which may take as long as it likes."""
    condition = meta.get_condition(pod, DISRUPTION_TARGET)
    return (
        condition is not None
        and condition.get("status") == "True"
        and condition.get("reason") != "TerminationByKubelet"
        and not meta.is_deleting(pod)
        and not pod_is_terminated(pod)
    )


def _counts_otherwise(old: Object, new: Object) -> bool:
    return (
        pod_is_ready(old) != pod_is_ready(new)
        or pod_phase(old) != pod_phase(new)
        or meta.is_deleting(old) != meta.is_deleting(new)
        or meta.labels(old) != meta.labels(new)
        or meta.controller_of(old) != meta.controller_of(new)
        or meta.get_condition(old, DISRUPTION_TARGET) != meta.get_condition(new, DISRUPTION_TARGET)
    )


class DisruptionController(BaseController):
    name = "disruption"
    component = "controllermanager"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch(BUDGETS, _budget_key),
            Watch("pods", _pod_keys, delay_s=coalesce_s, changed=_counts_otherwise),
            *(Watch(r, None) for r in ("replicationcontrollers", "replicasets.apps", "deployments.apps")),
            Watch("statefulsets.apps", None),
            Watch(CRDS, None),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        what, _, rest = key.partition("/")
        place = meta.split_key(rest)
        if what == "pod":
            pod = view.get("pods", *place)
            return NOTHING if pod is None else _of_pod(pod, view, now)
        budget = view.get(BUDGETS, *place)
        return NOTHING if budget is None else _of_budget(budget, view, now)


# --- pods ---------------------------------------------------------------------------------------


def _of_pod(pod: Object, view: View, now: Moment) -> Result:
    steps: list[Action] = []
    wait = None
    budgets = _budgets_of(pod, view)
    if len(budgets) > 1:
        text = (
            f'Pod "{meta.namespace(pod)}"/"{meta.name(pod)}" matches multiple PodDisruptionBudgets.  '
            f'Chose "{meta.name(budgets[0])}" arbitrarily.'
        )
        steps.append(Event(pod, "Warning", "MultiplePodDisruptionBudgets", text))
    if _is_promised(pod):
        condition = meta.get_condition(pod, DISRUPTION_TARGET) or {}
        wait = STALE_CONDITION_S - now.seconds_since(condition.get("lastTransitionTime"))
        if wait <= 0:
            wait = None
            steps.append(UpdateStatus("pods", _unpromised(pod, now)))
    return result(steps, requeue_after=wait)


def _unpromised(pod: Object, now: Moment) -> Object:
    freed = meta.copy_for_write(pod)
    condition = meta.observed(pod, {"type": DISRUPTION_TARGET, "status": "False"})
    meta.set_condition(freed["status"]["conditions"], condition, now.stamp)
    return freed


# --- budgets ------------------------------------------------------------------------------------


def _of_budget(budget: Object, view: View, now: Moment) -> Result:
    steps: list[Action] = []
    try:
        selector = from_label_selector(meta.spec(budget).get("selector"))
        pods = sorted(selected(view, "pods", meta.namespace(budget), selector=selector), key=meta.name)
        if not pods:
            steps.append(Event(budget, "Normal", "NoPods", "No matching pods found"))
        expected, desired, unmanaged = _wanted(budget, pods, view)
    except BadRequest as e:
        text = f"Failed to get pods: {e.message}"
        return _failed(budget, Event(budget, "Warning", "NoPods", text), e.message, now)
    except (SyncFailed, NoScale) as e:
        text = f"Failed to calculate the number of expected pods: {e}"
        return _failed(budget, Event(budget, "Warning", "CalculateExpectedPodCountFailed", text), str(e), now)
    if unmanaged:
        steps.append(
            Event(budget, "Warning", "UnmanagedPods", _UNMANAGED.format(go_selector(meta.spec(budget).get("selector"))))
        )
    disrupted, forgotten, recheck = _disrupted(budget, pods, now)
    steps += forgotten
    healthy = sum(
        pod_is_ready(pod) and not meta.is_deleting(pod) and not _left(disrupted.get(meta.name(pod)), now) > 0
        for pod in pods
    )
    allowed = max(0, healthy - desired) if expected > 0 else 0
    status: dict[str, Any] = {
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": allowed,
        "expectedPods": expected,
    }
    if disrupted:
        status["disruptedPods"] = disrupted
    if meta.generation(budget):
        status["observedGeneration"] = meta.generation(budget)
    status["conditions"] = meta.status(budget).get("conditions") or []
    set_disruption_allowed(status, now.wall)
    return result(_written(budget, status), steps, requeue_after=recheck)


_UNMANAGED = (
    "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of "
    "the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please "
    'set ".spec.minAvailable" field of the PDB to an integer value.'
)


def _written(budget: Object, status: dict[str, Any]) -> list[Action]:
    if status == meta.status(budget):
        return []
    return [UpdateStatus(BUDGETS, {**budget, "status": status})]


def _failed(budget: Object, event: Event, why: str, now: Moment) -> Result:
    """Nothing is allowed of what cannot be counted."""
    before = meta.status(budget)
    condition: dict[str, Any] = {
        "type": "DisruptionAllowed",
        "status": "False",
        "reason": "SyncFailed",
        "message": why,
    }
    if before.get("observedGeneration"):
        condition["observedGeneration"] = before["observedGeneration"]
    status = {**before, "disruptionsAllowed": 0, "conditions": list(before.get("conditions") or ())}
    meta.set_condition(status["conditions"], condition, now.stamp)
    return result(_written(budget, status), [event], requeue_after=RETRY_S)


def _wanted(budget: Object, pods: Sequence[Object], view: View) -> tuple[int, int, bool]:
    """Pods that are expected, those that must stay healthy, and whether some belong to nobody."""
    spec = meta.spec(budget)
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if most is not None:
        expected, unmanaged = _expected_scale(pods, view)
        return expected, max(0, expected - int_or_percent(most, expected, up=True)), unmanaged
    if isinstance(least, str):
        expected, unmanaged = _expected_scale(pods, view)
        return expected, int_or_percent(least, expected, up=True), unmanaged
    return (0, 0, False) if least is None else (len(pods), int(least), False)


def _expected_scale(pods: Sequence[Object], view: View) -> tuple[int, bool]:
    """The replicas of all owners of these pods together, and whether some pods have none."""
    scales: dict[str, int] = {}
    seen: set[str] = set()
    unmanaged = False
    for pod in pods:
        owner = meta.controller_of(pod)
        if owner is None:
            unmanaged = True
        elif owner.get("uid") not in seen:
            seen.add(owner["uid"])
            uid, replicas = _owner_scale(pod, owner, view)
            scales[uid] = replicas
    return sum(scales.values()), unmanaged


def _owner_scale(pod: Object, owner: Mapping[str, Any], view: View) -> tuple[str, int]:
    """Who decides about how many pods there are of the owner's: a ReplicaSet's Deployment, or the owner."""
    space = meta.namespace(pod)
    found = _scaled(owner, space, view)
    if found is not None and found.uid == owner["uid"]:
        above = meta.controller_of(found.obj) if found.resource == "replicasets.apps" else None
        if above is None or above.get("kind") != "Deployment":
            return found.uid, found.replicas
        deployment = _scaled(above, space, view)
        if deployment is not None and deployment.uid == above["uid"]:
            return deployment.uid, deployment.replicas
        # A set whose deployment is gone goes too, but is there still.
        return found.uid, found.replicas
    raise SyncFailed(f'found no controllers for pod "{meta.name(pod)}"')


def _scaled(ref: Mapping[str, Any], namespace: str, view: View) -> Scaled | None:
    return scalable(view, ref.get("apiVersion") or "", ref["kind"]).find(view, namespace, ref["name"])


def _left(stamp: str | None, now: Moment) -> float:
    """Seconds for which a pod whose eviction was let through then does not count."""
    return DELETION_TIMEOUT_S - now.seconds_since(stamp)


def _disrupted(
    budget: Object, pods: Sequence[Object], now: Moment
) -> tuple[dict[str, str], list[Action], float | None]:
    """Evictions that were let through and are not seen yet, those that nobody carried out, and when to look again."""
    known = meta.status(budget).get("disruptedPods") or {}
    kept: dict[str, str] = {}
    forgotten: list[Action] = []
    recheck = None
    for pod in pods:
        stamp = known.get(meta.name(pod))
        if stamp is None or meta.is_deleting(pod):
            continue
        left = _left(stamp, now)
        if left < 0:
            text = f"Pod was expected by PDB {meta.key(budget)} to be deleted but it wasn't"
            forgotten.append(Event(pod, "Warning", "NotDeleted", text))
        else:
            kept[meta.name(pod)] = stamp
            recheck = soonest(recheck, left + _LEEWAY_S)
    return kept, forgotten, recheck
