"""The way of a unit out of the cluster: its nodes are tainted, emptied by evictions, and gone.

How far it is stands in the taint, which a supervisor that takes over finds.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import stays_with_node
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.autoscaling import report
from rayplane.control_plane.cluster.autoscaling.decision import Unit
from rayplane.control_plane.cluster.draining import EVICTIONS_MAX, evicted

log = logging.getLogger(__name__)

TAINT: Final = "ToBeDeletedByClusterAutoscaler"
#: As Cluster Autoscaler's --max-pod-eviction-time: then the node stays.
EMPTY_WITHIN_S: Final = 120.0


class Tell(Protocol):
    """Whoever tells people, as `EventRecorder.event`."""

    def __call__(self, about: Object, kind: str, reason: str, message: str) -> None: ...


def is_marked(node: Object) -> bool:
    """Whether a node is on its way out."""
    return any(taint.get("key") == TAINT for taint in meta.spec(node).get("taints") or ())


class Emptying:
    """Units that are being emptied. Calls raise ApiError."""

    def __init__(self, api: ApiClient, tell: Tell) -> None:
        self._api = api
        self._tell = tell
        self._since: dict[str, float] = {}
        self._had_pods: set[str] = set()

    async def begin(self, unit: Unit) -> None:
        """Let no pod come any more."""
        # Somebody may have taken the taint away the last time, and with that the unit stayed.
        self._since.pop(unit.name, None)
        self._had_pods.discard(unit.name)
        for name in unit.nodes:
            node = await self._api.get("nodes", name)
            taints = [*(meta.spec(node).get("taints") or ()), {"key": TAINT, "effect": "NoSchedule"}]
            await self._api.update("nodes", {**node, "spec": {**meta.spec(node), "taints": taints}})
            self._tell(node, "Normal", report.SCALE_DOWN, "marked the node as toBeDeleted/unschedulable")

    async def step(self, unit: Unit, now: float) -> bool:
        """Evict what is there still; whether nothing is, and was not at the look before. TimeoutError once that has
        taken too long: then the unit stays."""
        since = self._since.setdefault(unit.name, now)
        pods = [
            pod
            for name in unit.nodes
            for pod in (await self._api.list("pods", field_selector=f"spec.nodeName={name}")).items
            if not stays_with_node(pod)
        ]
        if pods:
            self._had_pods.add(unit.name)
            await self._evict(pods)
            # One that is ending has its own time for that.
            if now >= since + EMPTY_WITHIN_S and not all(map(meta.is_deleting, pods)):
                await self._give_up(unit, pods)
                raise TimeoutError
        # A pod that the scheduler decided on before it saw the taint is seen by the next look.
        return not pods and now > since

    def ended(self, unit: Unit) -> tuple[str, str]:
        """It has left: the reason and the sentence for that."""
        del self._since[unit.name]
        empty = unit.name not in self._had_pods
        self._had_pods.discard(unit.name)
        return report.SCALE_DOWN_EMPTY if empty else report.SCALE_DOWN, report.removed(unit, empty=empty)

    async def _evict(self, pods: list[Object]) -> None:
        for pod in [pod for pod in pods if not meta.is_deleting(pod)][:EVICTIONS_MAX]:
            if (why := await evicted(self._api, pod)) != "it is ending":
                log.info("pod %s is not evicted yet: %s", meta.key(pod), why)
            else:
                self._tell(pod, "Normal", report.SCALE_DOWN, "deleting pod for node scale down")

    async def _give_up(self, unit: Unit, pods: list[Object]) -> None:
        del self._since[unit.name]
        self._had_pods.discard(unit.name)
        for name in unit.nodes:
            with contextlib.suppress(NotFound):
                node = await self._api.get("nodes", name)
                taints = [taint for taint in meta.spec(node).get("taints") or () if taint.get("key") != TAINT]
                await self._api.update("nodes", {**node, "spec": {**meta.spec(node), "taints": taints}})
                why = f"failed to drain the node, aborting ScaleDown: {len(pods)} pods stay, {meta.key(pods[0])} first"
                self._tell(node, "Warning", report.SCALE_DOWN_FAILED, why)
