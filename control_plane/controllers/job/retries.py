"""Pauses before failed pods are replaced: 10 s, 20 s, 40 s, ... since the last failure, at most 10 min.

A success makes the count begin anew. Kubernetes keeps the count in the controller's memory, and so is it here, since
pods may be gone when it is asked; a controller that begins takes it from the ended pods that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_terminated, pod_phase
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.controllers.core import Moment
from rayplane.control_plane.controllers.job.pods import (
    ended_at,
    has_failed,
    ignored_index_failures,
    index_failures,
    is_tracked,
)
from rayplane.control_plane.controllers.job.spec import JobSpec

BACKOFF = Backoff(10.0, 600.0)


@dataclass(slots=True)
class _Record:
    uid: str
    failures: int = 0
    last: datetime | None = None
    seen: set[str] = field(default_factory=set)
    """The pods there are that are in the count."""


class Retries:
    """The failures in a row of each Job that runs, by its key; as large as the Jobs are many."""

    def __init__(self, backoff: Backoff = BACKOFF) -> None:
        self._backoff = backoff
        self._records: dict[str, _Record] = {}

    def forget(self, key: str) -> None:
        self._records.pop(key, None)

    def note(self, key: str, job: Object, spec: JobSpec, pods: Sequence[Object]) -> None:
        """Take in the pods that have ended since the last call."""
        record = self._records.get(key)
        first = record is None or record.uid != meta.uid(job)
        if record is None or first:
            record = self._records[key] = _Record(meta.uid(job))
        inactive = [pod for pod in pods if not pod_is_active(pod)]
        ended = [p for p in inactive if _has_ended(p, spec) and (is_tracked(p) or (first and pod_is_terminated(p)))]
        new = [pod for pod in ended if meta.uid(pod) not in record.seen]
        record.seen = {meta.uid(pod) for pod in ended}
        failures = [ended_at(pod) for pod in new if pod_phase(pod) != "Succeeded"]
        successes = [ended_at(pod) for pod in new if pod_phase(pod) == "Succeeded"]
        if successes:
            record.failures, record.last = 0, None
            failures = [at for at in failures if at > max(successes)]
        if failures:
            record.failures += len(failures)
            record.last = max(failures)

    def wait_s(self, key: str, now: Moment) -> float:
        """Seconds until failed pods of a Job may be replaced."""
        record = self._records.get(key)
        if record is None or record.last is None:
            return 0.0
        return self._left_s(record.failures, record.last, now)

    def index_wait_s(self, failed: Object | None, now: Moment) -> float:
        """Seconds until a failed pod's index may be tried again, where indexes are counted by themselves."""
        if failed is None:
            return 0.0
        failures = index_failures(failed) + ignored_index_failures(failed) + 1
        return self._left_s(failures, ended_at(failed), now)

    def _left_s(self, failures: int, last: datetime, now: Moment) -> float:
        return max(0.0, self._backoff.pause_s(failures) - (now.wall - last).total_seconds())


def _has_ended(pod: Object, spec: JobSpec) -> bool:
    return pod_phase(pod) == "Succeeded" or has_failed(pod, spec)
