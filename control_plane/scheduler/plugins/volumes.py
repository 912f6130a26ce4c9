"""VolumeBinding: the volumes of a pod's claims must be reachable, or be made, where the pod goes.

Source: Kubernetes concepts "Storage Classes" (volume binding mode), "Storage Capacity".
"""

from __future__ import annotations

from typing import ClassVar

from rayplane.control_plane.scheduler.plugins.base import Cluster, Plugin, PodView, Refusal, Scope
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.snapshot import Bools, Rows
from rayplane.control_plane.scheduler.volumes import NO_SPACE, VolumeNeeds


class VolumeBinding(Plugin):
    """VolumeBinding: bound claims draw the pod to their volumes, waiting ones get theirs where the pod goes."""

    name: ClassVar[str] = "VolumeBinding"
    scope: ClassVar[Scope] = Scope.CLUSTER

    def _needs(self, view: PodView) -> VolumeNeeds:
        found: VolumeNeeds | None = view.memo.get(self.name)
        if found is None:
            found = view.memo[self.name] = view.cluster.volumes.needs(view.pod)
        return found

    def _free(self, view: PodView) -> dict[str, int]:
        key = f"{self.name}/free"
        free: dict[str, int] | None = view.memo.get(key)
        if free is None:
            waits = self._needs(view).waiting
            free = view.memo[key] = view.cluster.volumes.free_bytes(view.snapshot) if waits else {}
        return free

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.claims)

    def problem(self, view: PodView) -> str:
        return self._needs(view).problem if view.pod.claims else ""

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        if not view.pod.claims:
            return None
        needs = self._needs(view)
        if needs.problem or not (needs.bound or needs.waiting):
            return None
        return view.cluster.volumes.mask(needs, view.snapshot)[rows]

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if not view.pod.claims:
            return None
        needs = self._needs(view)
        if needs.problem:
            return Refusal(self.name, (needs.problem,), False)
        text = view.cluster.volumes.refusal(needs, view.snapshot.info(row), self._free(view))
        return Refusal(self.name, (text,), text == NO_SPACE) if text else None

    def reserve(self, view: PodView, row: int) -> None:
        view.cluster.volumes.promise(self.waiting(view), view.snapshot.info(row))

    def waiting(self, view: PodView) -> tuple[str, ...]:
        """Keys of the claims whose node must be selected before the pod is bound."""
        if not view.pod.claims:
            return ()
        return tuple(f"{c['metadata']['namespace']}/{c['metadata']['name']}" for c in self._needs(view).waiting)

    def forget(self, cluster: Cluster, pod: PodInfo) -> None:
        cluster.volumes.forget(pod.claims)
