"""The span for which nodes may keep what they read of Secrets and ConfigMaps: longer in larger clusters.

Source: kubernetes/pkg/controller/ttl; annotation node.alpha.kubernetes.io/ttl in Kubernetes' reference of annotations.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Patch
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

TTL = "node.alpha.kubernetes.io/ttl"
#: Fewest and most nodes for which a span is good, and the span in seconds. They overlap, so that a cluster that grows
#: and shrinks by one does not change all its nodes each time.
STEPS = ((0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, None, 300))
_ALL = "all"


def _all(_: Object, __: View) -> Iterable[str]:
    return (_ALL,)


def _span_changed(old: Object, new: Object) -> bool:
    return meta.annotations(old).get(TTL) != meta.annotations(new).get(TTL)


class NodeTtlController(BaseController):
    """One reconcile looks at all nodes: their number decides about each."""

    name = "ttl"
    component = "ttl-controller"

    # Many come at once, and their number says what each is to have.
    watches = (Watch("nodes", _all, delay_s=1.0, changed=_span_changed),)

    def __init__(self) -> None:
        self._step = 0
        """The span that was last good: it stays so while the number of nodes is within its bounds."""

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        nodes = view.list("nodes")
        self._step = _step(self._step, len(nodes))
        wanted = str(STEPS[self._step][2])
        return result(
            Patch("nodes", "", meta.name(node), {"metadata": {"uid": meta.uid(node), "annotations": {TTL: wanted}}})
            for node in sorted(nodes, key=meta.name)
            if meta.annotations(node).get(TTL) != wanted and not meta.is_deleting(node)
        )


def _step(current: int, nodes: int) -> int:
    """The span for so many nodes, seen from the one that was good before."""
    while (most := STEPS[current][1]) is not None and nodes > most:
        current += 1
    while nodes < STEPS[current][0]:
        current -= 1
    return current
