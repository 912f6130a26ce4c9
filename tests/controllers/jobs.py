"""Jobs in the cluster in memory: one Job `j`, what ends its pods, and what its status says."""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.controllers.job.controller import JobController
from rayplane.control_plane.controllers.job.orphans import OrphanedPodController
from rayplane.control_plane.controllers.job.pods import INDEX, is_tracked
from rayplane.control_plane.controllers.job.spec import JOBS
from tests.controllers.cluster import Cluster

POD: dict[str, Any] = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
INDEXED = {"completionMode": "Indexed"}


def job_cluster(**spec: Any) -> Cluster:
    cluster = Cluster(JobController(), OrphanedPodController())
    whole = {"template": {"spec": POD}, "completions": 1, "parallelism": 1, **spec}
    cluster.add(JOBS, "j", spec={field: value for field, value in whole.items() if value is not None})
    cluster.settle()
    return cluster


def job(cluster: Cluster) -> Object:
    return cluster.require(JOBS, "default", "j")


def status(cluster: Cluster) -> dict[str, Any]:
    return meta.status(job(cluster))


def outcome(cluster: Cluster) -> list[tuple[str, str]]:
    return [(c["type"], c["reason"]) for c in status(cluster).get("conditions") or () if c["status"] == "True"]


def counts(cluster: Cluster) -> tuple[int, int, int]:
    """Active, succeeded and failed pods as the status says them."""
    active, succeeded, failed = (status(cluster).get(field, 0) for field in ("active", "succeeded", "failed"))
    return active, succeeded, failed


def end(cluster: Cluster, phase: str, *, index: int | None = None, count: int = 100, **told: Any) -> None:
    """Let running pods end (of one index only, where one is given), with what else their status tells."""
    chosen = [p for p in cluster.pods() if index is None or meta.annotations(p)[INDEX] == str(index)]
    for pod in chosen[:count]:
        finish(cluster, pod, phase, **told)
    cluster.settle()


def finish(cluster: Cluster, pod: Object, phase: str, **told: Any) -> None:
    ended = cluster.set_pod(pod, ready=False, phase=phase)
    conditions = [*ended["status"]["conditions"], *told.pop("conditions", ())]
    new = {**ended["status"], **told, "conditions": conditions}
    cluster.update("pods", {**ended, "status": new}, subresource="status")


def exited(code: int, name: str = "c") -> dict[str, Any]:
    """What a pod's status tells of a container that has ended."""
    return {"containerStatuses": [{"name": name, "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]}


def reap(cluster: Cluster) -> None:
    """What kubelets do with pods that are being deleted: end them, and take them out where nothing holds them."""
    for pod in cluster.pods(active=False):
        if meta.is_deleting(pod):
            if not pod_is_terminated(pod):
                pod = cluster.set_pod(pod, ready=False, phase="Failed")
            if cluster.get("pods", "default", meta.name(pod)) is not None:
                cluster.delete_object("pods", pod, grace_s=0)
    cluster.settle()


def place_all(cluster: Cluster) -> None:
    for pod in cluster.pods():
        if not meta.node_name(pod):
            cluster.place(pod)
    cluster.settle()


def tracked(cluster: Cluster) -> int:
    return sum(map(is_tracked, cluster.list("pods")))
