"""Finalizers of pods that no Job counts: of Jobs that are gone or have ended, and of pods that no Job controls."""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    controlled,
    result,
)
from rayplane.control_plane.controllers.job.conditions import is_finished
from rayplane.control_plane.controllers.job.pods import is_tracked
from rayplane.control_plane.controllers.job.spec import CONTROLLER, JOBS, manager_of
from rayplane.control_plane.controllers.job.tracking import untrack


class OrphanedPodController(BaseController):
    """The controller whose keys are pods that hold the finalizer of Jobs."""

    name = "job-orphaned-pods"
    component = "job-controller"

    def __init__(self) -> None:
        self.watches = (Watch(JOBS, _held_by), Watch("pods", _held))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        pod = view.get("pods", *meta.split_key(key))
        if pod is None or not is_tracked(pod) or _is_counted(pod, view):
            return NOTHING
        return result([untrack(pod)])


def _held(pod: Object, view: View) -> Iterable[str]:
    return (meta.key(pod),) if is_tracked(pod) and not _is_counted(pod, view) else ()


def _held_by(job: Object, view: View) -> Iterable[str]:
    """Pods of a Job that has just ended or gone."""
    if view.get(JOBS, *meta.split_key(meta.key(job))) is not None and not is_finished(job):
        return ()
    return [meta.key(pod) for pod in controlled(view, "pods", job) if is_tracked(pod)]


def _is_counted(pod: Object, view: View) -> bool:
    """Whether whoever controls a pod will take its end in, or is somebody else's affair."""
    ref = meta.controller_of(pod)
    if ref is None:
        return False
    if ref.get("kind") != "Job" or meta.group_of(ref) != "batch":
        return True
    job = view.get(JOBS, meta.namespace(pod), ref.get("name") or "")
    if job is None or meta.uid(job) != ref.get("uid"):
        return False
    return manager_of(job) != CONTROLLER or not is_finished(job)
