"""ReplicaSet (and ReplicationController): as many pods as asked for.

Source: Kubernetes API reference apps/v1 ReplicaSet; events and conditions as kube-controller-manager writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import LabelSelector, from_label_selector, from_map
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_available, pod_is_ready
from rayplane.control_plane.controllers.adoption import claim, orphan_matches
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    BaseController,
    Create,
    Delete,
    Event,
    Moment,
    Result,
    UpdateStatus,
    View,
    Watch,
    controlled,
    controller_key,
    result,
)
from rayplane.control_plane.controllers.templates import (
    next_available,
    pod_from,
    ranked_for_deletion,
    replica_changed,
)

BURST = 500  # most pods made or deleted in one reconcile


class ReplicaSetController(BaseController):
    """One instance serves ReplicaSets, another ReplicationControllers."""

    def __init__(self, *, resource: str = "replicasets.apps", coalesce_s: float = 0.05) -> None:
        self._resource = resource
        self._core = resource == "replicationcontrollers"
        self._kind = "ReplicationController" if self._core else "ReplicaSet"
        self.name = self._kind.lower()
        self.component = "replication-controller" if self._core else "replicaset-controller"
        self._owner_key = controller_key(self._kind, "" if self._core else "apps")
        self.watches = (Watch(resource), Watch("pods", self._pod_keys, delay_s=coalesce_s, changed=replica_changed))

    def _pod_keys(self, pod: Object, view: View) -> Iterable[str]:
        if meta.controller_of(pod) is not None:
            return self._owner_key(pod, view)
        return () if self._core else orphan_matches(view, self._resource, pod)

    def _selector(self, rs: Object) -> LabelSelector:
        selector = meta.spec(rs).get("selector")
        return from_map(selector) if self._core else from_label_selector(selector)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        rs = view.get(self._resource, *meta.split_key(key))
        if rs is None:
            return NOTHING
        claimed = claim(view, "pods", rs, selector=self._selector(rs))
        if claimed.patches:
            return result(claimed.patches)
        pods = [pod for pod in claimed.owned if pod_is_active(pod)]
        terminating = sum(meta.is_deleting(pod) for pod in claimed.owned)
        changes = () if meta.is_deleting(rs) else self._scale(rs, pods, view)
        wait = next_available(pods, meta.spec(rs).get("minReadySeconds") or 0, now)
        status = self._status(rs, pods, terminating, now)
        writes: tuple[Action, ...] = ()
        if status != meta.status(rs):
            writes = (UpdateStatus(self._resource, {**rs, "status": status}),)
        # Scaling first; the status follows from a later reconcile, when the pods are in the cache.
        return result(changes or writes, requeue_after=wait)

    def _scale(self, rs: Object, pods: Sequence[Object], view: View) -> tuple[Action, ...]:
        missing = wanted(rs) - len(pods)
        if missing > 0:
            pod = pod_from(meta.spec(rs).get("template") or {}, rs)
            create = Create(
                "pods",
                pod,
                done=Event(rs, "Normal", "SuccessfulCreate", "Created pod: {name}"),
                failed=Event(rs, "Warning", "FailedCreate", "Error creating: {error}"),
            )
            return (create,) * min(missing, BURST)
        if missing == 0:
            return ()
        crowd = Counter(meta.node_name(pod) for pod in self._siblings(rs, view))
        ranked = ranked_for_deletion(pods, companions=lambda pod: crowd[meta.node_name(pod)])
        return tuple(
            Delete(
                "pods",
                pod,
                done=Event(rs, "Normal", "SuccessfulDelete", "Deleted pod: {name}"),
                failed=Event(rs, "Warning", "FailedDelete", "Error deleting: {error}"),
            )
            for pod in ranked[: min(-missing, BURST)]
        )

    def _siblings(self, rs: Object, view: View) -> Iterable[Object]:
        """Active pods of all ReplicaSets with the same owner: their crowding on nodes ranks deletions."""
        owner = meta.controller_of(rs)
        group = view.indexed(self._resource, "controller", owner["uid"]) if owner else (rs,)
        for one in group:
            yield from (p for p in controlled(view, "pods", one) if pod_is_active(p))

    def _status(self, rs: Object, pods: Sequence[Object], terminating: int, now: Moment) -> dict[str, Any]:
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
        if terminating and not self._core:
            status["terminatingReplicas"] = terminating
        if generation := meta.generation(rs):
            status["observedGeneration"] = generation
        return status


def wanted(workload: Object) -> int:
    """spec.replicas, 1 where it is not given."""
    replicas = meta.spec(workload).get("replicas")
    return 1 if replicas is None else int(replicas)
