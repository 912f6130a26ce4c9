"""Pod garbage: pods of nodes that no longer exist, terminating pods that no kubelet will ever finish.

Departure from Kubernetes: there, a pod of a lost node stays Terminating until its Node object goes or someone sets
the `out-of-service` taint, since its process may still run beyond a broken network, and a StatefulSet's pod must not
run twice. Here it is deleted without its kubelet once the node has been lost for the eviction time and
`force_delete_grace`. A node host that cannot renew its Leases suspends its pods by itself before that; and should it
fail to, the data is safe: a volume has one writer at a time by epoch (the replicas refuse every
writer with a lower epoch), and local volumes keep their pod from starting anywhere else. Two processes of one
identity may run for a while on the two sides of a partition; only one of them can write.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.taints import OUT_OF_SERVICE, UNREACHABLE
from rayplane.control_plane.controllers.config import Timing
from rayplane.control_plane.controllers.core import (
    Action,
    BaseController,
    Delete,
    Event,
    IfAbsent,
    Moment,
    Result,
    View,
    Watch,
    result,
)
from rayplane.control_plane.controllers.nodelifecycle import ready_status
from rayplane.control_plane.controllers.tainteviction import no_execute

KEY = "all"


def _all(_o: Object, _view: View) -> Iterable[str]:
    return (KEY,)


def _unplaced(pod: Object, _view: View) -> Iterable[str]:
    return (KEY,) if meta.is_deleting(pod) and not meta.node_name(pod) else ()


class PodGCController(BaseController):
    name = "podgc"
    component = "pod-garbage-collector"
    resync_keys = (KEY,)

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self.watches = (
            Watch("nodes", _all, changed=lambda old, new: no_execute(old) != no_execute(new)),
            Watch("pods", _unplaced),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        steps: list[Action] = [self._force(pod) for pod in view.indexed("pods", "lost", "terminating")]
        nodes = {meta.name(node): node for node in view.list("nodes")}
        pods: dict[str, list[Object]] = {}
        for pod in view.list("pods"):
            name = meta.node_name(pod)
            if name and (name not in nodes or meta.is_deleting(pod)):
                pods.setdefault(name, []).append(pod)
        waits = [self._timing.pod_gc_s]
        for name, members in sorted(pods.items()):
            node = nodes.get(name)
            if node is None:
                gone = tuple(self._force(pod) for pod in sorted(members, key=meta.key))
                steps.append(IfAbsent((("nodes", "", name, ""),), gone))
                continue
            left = self._forced_in(node, now)
            if left is not None and left <= 0:
                steps += [self._force(pod) for pod in sorted(members, key=meta.key)]
            elif left is not None:
                waits.append(left)
        return result(steps, requeue_after=min(waits))

    def _force(self, pod: Object) -> Delete:
        text = f"PodGC: force deleting Pod {meta.key(pod)}"
        done = Event(pod, "Normal", "PodGC", text)
        return Delete("pods", pod, grace_seconds=0, done=done)

    def _forced_in(self, node: Object, now: Moment) -> float | None:
        """Seconds until terminating pods of a lost node are deleted without it; None while it may come back."""
        if ready_status(node) == "True":
            return None
        waits = []
        for taint in no_execute(node):
            if taint.get("key") == OUT_OF_SERVICE:
                return 0.0
            if taint.get("key") == UNREACHABLE and taint.get("timeAdded"):
                span = self._timing.nodes.toleration_s + self._timing.nodes.force_delete_s
                # The taint may be of an earlier loss, from which the node came back for a moment.
                lost = (meta.get_condition(node, "Ready") or {}).get("lastTransitionTime") or ""
                waits.append(span - now.seconds_since(max(taint["timeAdded"], lost)))
        return min(waits, default=None)
