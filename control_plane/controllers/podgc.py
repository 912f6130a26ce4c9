"""Pod garbage: pods of nodes that are gone, terminating pods that no kubelet will finish, ended ones beyond a number.

Nodes that are gone are in quarantine before their pods are taken for orphans; since when is kept between calls.

Departure from Kubernetes: there, a pod of a lost node stays Terminating until its Node object goes or someone sets
the `out-of-service` taint, since its process may still run beyond a broken network, and a StatefulSet's pod must not
run twice. Here it is deleted without its kubelet once the node has been lost for the eviction time and
`force_delete_grace`. A node host that cannot renew its Leases suspends its pods by itself before that; and should it
fail to, the data is safe: a volume has one writer at a time by epoch (the replicas refuse every
writer with a lower epoch), and local volumes keep their pod from starting anywhere else. Two processes of one
identity may run for a while on the two sides of a partition; only one of them can write.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.api.taints import NO_EXECUTE, OUT_OF_SERVICE, UNREACHABLE
from rayplane.control_plane.controllers.actions import (
    Action,
    Delete,
    Event,
    IfAbsent,
    Patch,
)
from rayplane.control_plane.controllers.config import Timing
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)
from rayplane.control_plane.controllers.nodelifecycle import ready_status
from rayplane.control_plane.controllers.tainteviction import disrupted

KEY = "all"


def _all(_o: Object, _view: View) -> Iterable[str]:
    return (KEY,)


def _unplaced(pod: Object, _view: View) -> Iterable[str]:
    return (KEY,) if meta.is_deleting(pod) and not meta.node_name(pod) else ()


class PodGCController(BaseController):
    name = "podgc"
    component = "pod-garbage-collector"
    resync_keys = (KEY,)

    def __init__(self, timing: Timing, *, terminated_max: int = 0) -> None:
        """`terminated_max`: how many pods that have ended are kept; 0 for all."""
        self._timing = timing
        self._terminated_max = terminated_max
        self._missing: dict[str, float] = {}
        self.watches = (
            Watch("nodes", _all, changed=lambda old, new: _taints(old) != _taints(new)),
            Watch("pods", _unplaced),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        # By indexes: this is done again and again, however many pods there are.
        used = {name: view.get("nodes", "", name) for name in view.values("pods", "node")}
        of_node = {name: [*view.indexed("pods", "node", name)] for name, node in used.items() if node is None}
        for pod in view.indexed("pods", "end", "leaving"):
            name = meta.node_name(pod)
            if used.get(name) is not None:
                of_node.setdefault(name, []).append(pod)
        waits = [self._timing.pod_gc_s]
        marks: list[Action] = []
        deletes: list[Action] = []
        doomed = [*view.indexed("pods", "end", "lost"), *self._excess(view.indexed("pods", "end", "ended"))]
        for name, members in sorted(of_node.items()):
            node = used[name]
            if node is None:
                left = self._quarantine(name, now)
                if left <= 0:
                    self._orphans(name, members, marks, deletes, now=now)
            else:
                left = self._forced_in(node, now)
                doomed += members if left <= 0 else []
            if left > 0:
                waits.append(left)
        self._missing = {name: since for name, since in self._missing.items() if name in of_node and used[name] is None}
        for pod in sorted(doomed, key=meta.key):
            marks += _failed(pod)
            deletes.append(self._force(pod))
        return result(marks, deletes, requeue_after=min(waits))

    def _quarantine(self, node: str, now: Moment) -> float:
        """Seconds until a node that is not there is taken for gone."""
        return self._missing.setdefault(node, now.mono) + self._timing.quarantine_s - now.mono

    def _orphans(
        self, node: str, pods: Iterable[Object], marks: list[Action], deletes: list[Action], *, now: Moment
    ) -> None:
        absent = (("nodes", "", node, ""),)
        orphans = sorted(pods, key=meta.key)
        told = [
            disrupted(pod, "DeletionByPodGC", "PodGC: node no longer exists", now, phase="Failed")
            for pod in orphans
            if not pod_is_terminated(pod)
        ]
        if told:
            marks.append(IfAbsent(absent, tuple(told)))
        deletes.append(IfAbsent(absent, tuple(self._force(pod) for pod in orphans)))

    def _excess(self, ended: Sequence[Object]) -> list[Object]:
        """Ended pods beyond those that are kept: evicted ones first, then the oldest."""
        count = len(ended) - self._terminated_max
        if not self._terminated_max or count <= 0:
            return []

        def order(pod: Object) -> tuple[bool, str, str]:
            created = meta.metadata(pod).get("creationTimestamp") or ""
            return meta.status(pod).get("reason") != "Evicted", created, meta.key(pod)

        return heapq.nsmallest(count, ended, key=order)

    def _force(self, pod: Object) -> Delete:
        text = f"PodGC: force deleting Pod {meta.key(pod)}"
        done = Event(pod, "Normal", "PodGC", text)
        return Delete("pods", pod, grace_seconds=0, done=done)

    def _forced_in(self, node: Object, now: Moment) -> float:
        """Seconds until terminating pods of a lost node are deleted without it; infinite while it may come back."""
        waits = [float("inf")]
        if ready_status(node) == "True":
            return waits[0]
        for taint in _taints(node):
            if taint.get("key") == OUT_OF_SERVICE:
                return 0.0
            if taint.get("key") == UNREACHABLE and taint.get("effect") == NO_EXECUTE and taint.get("timeAdded"):
                span = self._timing.nodes.toleration_s + self._timing.nodes.force_delete_s
                # The taint may be of an earlier loss, from which the node came back for a moment.
                lost = (meta.get_condition(node, "Ready") or {}).get("lastTransitionTime") or ""
                waits.append(span - now.seconds_since(max(taint["timeAdded"], lost)))
        return min(waits)


def _taints(node: Object) -> list[dict[str, Any]]:
    return meta.spec(node).get("taints") or []


def _failed(pod: Object) -> list[Patch]:
    """A pod that nobody runs any more must not seem to run, while something holds its object."""
    if pod_is_terminated(pod):
        return []
    body = {"metadata": {"uid": meta.uid(pod)}, "status": {"phase": "Failed"}}
    return [Patch("pods", meta.namespace(pod), meta.name(pod), body, subresource="status", may_fail=True)]
