"""Evictions of pods from nodes whose NoExecute taints they do not tolerate, or not for longer.

A pod's time runs from when the taint was added, or from when the pod came there if that was later. Kept between calls:
which pods wait for their end, to say so when they are reprieved; and since when taints that do not tell it are there.
Source: Kubernetes concepts "Taints and Tolerations" (taint-based evictions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.policy.eviction import DISRUPTION_TARGET
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active
from rayplane.control_plane.api.taints import NO_EXECUTE, tolerates
from rayplane.control_plane.controllers.actions import (
    Action,
    Delete,
    Event,
    Patch,
)
from rayplane.control_plane.controllers.config import Timing
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    own_key,
    result,
)

Taint = Mapping[str, Any]
EVICTION = "TaintManagerEviction"
_MARK = "Taint manager: deleting due to NoExecute taint"


def no_execute(node: Object) -> list[Taint]:
    return [t for t in meta.spec(node).get("taints") or () if t.get("effect") == NO_EXECUTE]


def _pod_keys(pod: Object, view: View) -> Iterable[str]:
    node = view.get("nodes", "", meta.node_name(pod))
    return (meta.name(node),) if node is not None and no_execute(node) else ()


class TaintEvictionController(BaseController):
    name = "tainteviction"
    component = "taint-eviction-controller"

    def __init__(self, timing: Timing) -> None:
        self._doomed: dict[str, dict[str, Object]] = {}
        """Pods whose time runs, by their node and key."""
        self._since: dict[str, dict[tuple[str, str], str]] = {}
        """When taints of a node were first seen, by key and value."""
        self.watches = (
            Watch("nodes", own_key, changed=lambda old, new: no_execute(old) != no_execute(new)),
            Watch("pods", _pod_keys, delay_s=timing.coalesce_s),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        node = view.get("nodes", "", key)
        taints = self._dated(key, no_execute(node) if node else [], now)
        before = self._doomed.pop(key, {})
        marks: list[Action] = []
        deletes: list[Action] = []
        doomed: dict[str, Object] = {}
        waits = []
        for pod in sorted(view.indexed("pods", "node", key), key=meta.key) if taints else ():
            if not pod_is_active(pod):
                continue
            left = time_left(pod, taints, now)
            if left is None:
                continue
            doomed[meta.key(pod)] = pod
            if left > 0:
                waits.append(left)
                continue
            text = f"Marking for deletion Pod {meta.key(pod)}"
            done = Event(pod, "Normal", EVICTION, text)
            marks.append(disrupted(pod, "DeletionByTaintManager", _MARK, now))
            deletes.append(Delete("pods", pod, done=done))
        if doomed:
            self._doomed[key] = doomed
        reprieved = [self._cancelled(pod, view) for name, pod in before.items() if name not in doomed]
        events = [event for event in reprieved if event is not None]
        return result([*events, *marks], deletes, requeue_after=min(waits, default=None))

    def _cancelled(self, pod: Object, view: View) -> Event | None:
        current = view.get("pods", meta.namespace(pod), meta.name(pod))
        if current is None or meta.uid(current) != meta.uid(pod) or not pod_is_active(current):
            return None
        return Event(pod, "Normal", EVICTION, f"Cancelling deletion of Pod {meta.key(pod)}")

    def _dated(self, node: str, taints: Sequence[Taint], now: Moment) -> list[Taint]:
        """Taints with the time at which they were added; those that users add do not tell it."""
        known = self._since.pop(node, {})
        undated = {(t.get("key") or "", t.get("value") or "") for t in taints if not t.get("timeAdded")}
        since = {ident: known.get(ident, now.stamp) for ident in undated}
        if since:
            self._since[node] = since
        return [
            t if t.get("timeAdded") else {**t, "timeAdded": since[t.get("key") or "", t.get("value") or ""]}
            for t in taints
        ]


def time_left(pod: Object, taints: Sequence[Taint], now: Moment) -> float | None:
    """Seconds the pod may stay under these taints; None for ever. Of tolerations the first that fits a taint counts."""
    tolerations = meta.spec(pod).get("tolerations") or ()
    came = _came(pod)
    left: float | None = None
    for taint in taints:
        used = next((t for t in tolerations if tolerates(t, taint)), None)
        if used is None:
            return 0.0
        if used.get("tolerationSeconds") is None:
            continue
        rest = float(used["tolerationSeconds"]) - now.seconds_since(max(taint["timeAdded"], came))
        left = rest if left is None else min(left, rest)
    return None if left is None else max(0.0, left)


def _came(pod: Object) -> str:
    """When the pod came to its node."""
    scheduled = meta.get_condition(pod, "PodScheduled") or {}
    bound = scheduled.get("lastTransitionTime") if scheduled.get("status") == "True" else None
    return bound or meta.metadata(pod).get("creationTimestamp") or ""


def disrupted(pod: Object, reason: str, message: str, now: Moment, **status: Any) -> Patch:
    """The mark of a pod that is deleted for a reason that is none of its own, with other changes of its status."""
    condition = {
        "type": DISRUPTION_TARGET,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": now.stamp,
    }
    status["conditions"] = [meta.observed(pod, condition)]
    body = {"metadata": {"uid": meta.uid(pod)}, "status": status}
    space, name = meta.namespace(pod), meta.name(pod)
    # Conditions of other types are the kubelet's, which may write them at this moment.
    return Patch("pods", space, name, body, kind="strategic", subresource="status", may_fail=True)
