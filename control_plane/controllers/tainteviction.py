"""Evictions of pods from nodes whose NoExecute taints they do not tolerate, or not for longer.

Source: Kubernetes concepts "Taints and Tolerations" (taint-based evictions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active
from rayplane.control_plane.api.taints import NO_EXECUTE, tolerates
from rayplane.control_plane.controllers.config import Timing
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Delete,
    Event,
    Moment,
    Result,
    View,
    Watch,
    own_key,
    result,
)

Taint = Mapping[str, Any]


def no_execute(node: Object) -> list[Taint]:
    return [t for t in meta.spec(node).get("taints") or () if t.get("effect") == NO_EXECUTE]


def _pod_keys(pod: Object, view: View) -> Iterable[str]:
    node = view.get("nodes", "", meta.node_name(pod))
    return (meta.name(node),) if node is not None and no_execute(node) else ()


class TaintEvictionController(BaseController):
    name = "tainteviction"
    component = "taint-eviction-controller"

    def __init__(self, timing: Timing) -> None:
        self.watches = (
            Watch("nodes", own_key, changed=lambda old, new: no_execute(old) != no_execute(new)),
            Watch("pods", _pod_keys, delay_s=timing.coalesce_s),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        node = view.get("nodes", "", key)
        taints = no_execute(node) if node else []
        if not taints:
            return NOTHING
        deletes, waits = [], []
        for pod in sorted(view.indexed("pods", "node", key), key=meta.key):
            if not pod_is_active(pod):
                continue
            left = time_left(pod, taints, now)
            if left is None:
                continue
            if left > 0:
                waits.append(left)
                continue
            text = f"Marking for deletion Pod {meta.key(pod)}"
            done = Event(pod, "Normal", "TaintManagerEviction", text)
            deletes.append(Delete("pods", pod, done=done))
        return result(deletes, requeue_after=min(waits, default=None))


def time_left(pod: Object, taints: Sequence[Taint], now: Moment) -> float | None:
    """Seconds the pod may stay under these taints; None for ever."""
    tolerations = meta.spec(pod).get("tolerations") or ()
    left: float | None = None
    for taint in taints:
        used = [t for t in tolerations if tolerates(t, taint)]
        if not used:
            return 0.0
        spans = [float(t["tolerationSeconds"]) for t in used if t.get("tolerationSeconds") is not None]
        if spans:
            rest = min(spans) - now.seconds_since(taint.get("timeAdded") or now.stamp)
            left = rest if left is None else min(left, rest)
    return None if left is None else max(0.0, left)
