"""ReplicaSet (and ReplicationController): as many pods as asked for.

Source: Kubernetes API reference apps/v1 ReplicaSet; events and conditions as kube-controller-manager writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_available, pod_is_ready, pod_is_terminated
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    UpdateStatus,
)
from rayplane.control_plane.controllers.adoption import claim, owner_or_adopters, selector_of
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    controlled,
    result,
    slow_start,
)
from rayplane.control_plane.controllers.templates import (
    next_available,
    pod_from,
    ranked_for_deletion,
    replica_changed,
)

BURST = 500  # most pods made or deleted in one reconcile
FIRST = 32
"""Pods that are asked for at once by a set that was refused none yet; one, as in Kubernetes, after a refusal."""
FAILURE = "ReplicaFailure"


class ReplicaSetController(BaseController):
    """One instance serves ReplicaSets, another ReplicationControllers."""

    def __init__(self, *, resource: str = "replicasets.apps", coalesce_s: float = 0.05) -> None:
        self._resource = resource
        self._core = resource == "replicationcontrollers"
        self._kind = "ReplicationController" if self._core else "ReplicaSet"
        self.name = self._kind.lower()
        self.component = "replication-controller" if self._core else "replicaset-controller"
        pods = owner_or_adopters(self._kind, "" if self._core else "apps", resource)
        self.watches = (Watch(resource), Watch("pods", pods, delay_s=coalesce_s, changed=replica_changed))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        rs = view.get(self._resource, *meta.split_key(key))
        if rs is None:
            return NOTHING
        claimed = claim(view, "pods", rs, owners=self._resource, selector=selector_of(rs))
        if claimed.steps:
            return result(claimed.steps)
        pods = [pod for pod in claimed.owned if pod_is_active(pod)]
        going = sum(meta.is_deleting(pod) and not pod_is_terminated(pod) for pod in claimed.owned)
        stages = [] if meta.is_deleting(rs) else self._scale(rs, pods, view, now)
        wait = next_available(pods, meta.spec(rs).get("minReadySeconds") or 0, now)

        def status(error: str = "") -> list[Action]:
            found = self._status(rs, pods, going, now, error)
            return [UpdateStatus(self._resource, {**rs, "status": found})] if found != meta.status(rs) else []

        # Scaling first; the status follows from a later reconcile, when the pods are in the cache.
        return result(*(stages or [status()]), requeue_after=wait, refused=status)

    def _scale(self, rs: Object, pods: Sequence[Object], view: View, now: Moment) -> list[Sequence[Action]]:
        missing = wanted(rs) - len(pods)
        if missing > 0:
            pod = pod_from(meta.spec(rs).get("template") or {}, rs)
            create = Create(
                "pods",
                pod,
                done=Event(rs, "Normal", "SuccessfulCreate", "Created pod: {name}"),
                failed=Event(rs, "Warning", "FailedCreate", "Error creating: {error}"),
            )
            failing = meta.get_condition(rs, FAILURE) is not None
            return slow_start((create,) * min(missing, BURST), first=1 if failing else FIRST)
        if missing == 0:
            return []
        crowd = Counter(meta.node_name(pod) for pod in self._siblings(rs, view))
        ranked = ranked_for_deletion(pods, companions=lambda pod: crowd[meta.node_name(pod)], now=now)
        delete = [
            Delete(
                "pods",
                pod,
                done=Event(rs, "Normal", "SuccessfulDelete", "Deleted pod: {name}"),
                failed=Event(rs, "Warning", "FailedDelete", "Error deleting: {error}"),
            )
            for pod in ranked[: min(-missing, BURST)]
        ]
        return [delete]

    def _siblings(self, rs: Object, view: View) -> Iterable[Object]:
        """Active pods of all ReplicaSets with the same owner: their crowding on nodes ranks deletions."""
        owner = meta.controller_of(rs)
        group = view.indexed(self._resource, "controller", owner["uid"]) if owner else (rs,)
        for one in group:
            yield from (p for p in controlled(view, "pods", one) if pod_is_active(p))

    def _status(self, rs: Object, pods: Sequence[Object], going: int, now: Moment, error: str) -> dict[str, Any]:
        spec = meta.spec(rs)
        template_labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
        min_ready = spec.get("minReadySeconds") or 0
        counts = {
            "fullyLabeledReplicas": sum(template_labels.items() <= meta.labels(pod).items() for pod in pods),
            "readyReplicas": sum(pod_is_ready(pod) for pod in pods),
            "availableReplicas": sum(pod_is_available(pod, min_ready, now.wall) for pod in pods),
        }
        status: dict[str, Any] = {"replicas": len(pods)}
        status.update({field: count for field, count in counts.items() if count})
        if not self._core:
            status["terminatingReplicas"] = going
        if generation := meta.generation(rs):
            status["observedGeneration"] = generation
        if conditions := _conditions(rs, wanted(rs) - len(pods), error, now):
            status["conditions"] = conditions
        return status


def _conditions(rs: Object, missing: int, error: str, now: Moment) -> list[dict[str, Any]]:
    """The conditions with ReplicaFailure as it is: it keeps its first error until all is well again."""
    found = list(meta.status(rs).get("conditions") or ())
    if not error:
        return [c for c in found if c.get("type") != FAILURE]
    if meta.get_condition(found, FAILURE) is None:
        reason = "FailedCreate" if missing > 0 else "FailedDelete"
        failure = {"type": FAILURE, "status": "True", "reason": reason, "message": error}
        meta.set_condition(found, failure, now.stamp)
    return found


def wanted(workload: Object) -> int:
    """spec.replicas, 1 where it is not given."""
    replicas = meta.spec(workload).get("replicas")
    return 1 if replicas is None else int(replicas)
