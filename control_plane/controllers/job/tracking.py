"""The way of ended pods into the status, and of their finalizers: uids first, then finalizers, then the counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_phase
from rayplane.control_plane.controllers.actions import Patch
from rayplane.control_plane.controllers.job.counting import Count
from rayplane.control_plane.controllers.job.failure_policy import judge
from rayplane.control_plane.controllers.job.pods import TRACKING, has_failed, is_tracked, may_count, valid_index
from rayplane.control_plane.controllers.job.spec import JobSpec
from rayplane.control_plane.controllers.job.verdict import Verdict

UNCOUNTED_MAX = 500  # uids of one status, which stay below 20 kB, and finalizers of one step


@dataclass(frozen=True, slots=True)
class Tracked:
    """The status as it is to be, and the pods that may lose their finalizer once it is written."""

    uncounted: dict[str, list[str]]
    counted: dict[str, int]
    release: list[Object]

    @property
    def is_settled(self) -> bool:
        """Whether all that has ended is in the counts."""
        return not self.release and not any(self.uncounted.values())


def track(
    job: Object, spec: JobSpec, pods: Sequence[Object], count: Count, verdict: Verdict | None, *, going: bool
) -> Tracked:
    """Take in pods that have ended; when a Job has failed all that still run count as failed.

    `going`: the Job is being deleted, and lets all go.
    """
    status = meta.status(job)
    held = {meta.uid(pod) for pod in pods if is_tracked(pod)}
    known = status.get("uncountedTerminatedPods") or {}
    before = {field: known.get(field) or [] for field in ("succeeded", "failed")}
    uncounted = {field: [uid for uid in uids if uid in held] for field, uids in before.items()}
    counted = {field: (status.get(field) or 0) + len(before[field]) - len(uncounted[field]) for field in before}
    ending = going or verdict is not None
    free = [pod for pod in pods if is_tracked(pod) and (ending or _may_go(spec, pod, count))]
    release = sorted(free, key=lambda pod: valid_index(pod, spec) or 0)[:UNCOUNTED_MAX]
    for pod in release:
        field = _counts_as(spec, pod, uncounted, verdict)
        if field:
            uncounted[field].append(meta.uid(pod))
    return Tracked(uncounted, counted, release)


def _may_go(spec: JobSpec, pod: Object, count: Count) -> bool:
    if pod_phase(pod) == "Succeeded":
        return True
    if not has_failed(pod, spec):
        return False
    # It stays until the pod that takes its place has been told how often their index has failed.
    index = valid_index(pod, spec)
    waiting = count.to_replace.get(index) if index is not None else None
    return waiting is None or meta.uid(waiting) != meta.uid(pod)


def _counts_as(spec: JobSpec, pod: Object, uncounted: dict[str, list[str]], verdict: Verdict | None) -> str:
    """Whether a pod has still to be counted as succeeded or failed; empty where it has not."""
    uid = meta.uid(pod)
    if pod_phase(pod) == "Succeeded":
        # An index that has succeeded is its own memory.
        return "" if spec.indexed or any(uid in uids for uids in uncounted.values()) else "succeeded"
    failed = has_failed(pod, spec) or (verdict is not None and verdict.failed)
    if not failed or uid in uncounted["failed"] or not may_count(pod, spec):
        return ""
    return "failed" if judge(spec.failure_rules, pod).counts else ""


def untrack(pod: Object) -> Patch:
    """The removal of the finalizer from a pod."""
    body: dict[str, Any] = {"metadata": {"uid": meta.uid(pod), "$deleteFromPrimitiveList/finalizers": [TRACKING]}}
    return Patch("pods", meta.namespace(pod), meta.name(pod), body, kind="strategic")
