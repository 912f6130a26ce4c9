"""Counts of scheduling attempts, over all terms of a replica, under Kubernetes' names. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rayplane.control_plane.component_base.metrics import (
    Family,
    Histogram,
    Histograms,
    counter,
    exponential,
    gauge,
    histogram,
)
from rayplane.control_plane.scheduler.queue import Place

SCHEDULED, UNSCHEDULABLE, ERROR = "scheduled", "unschedulable", "error"
_QUEUES = {Place.ACTIVE: "active", Place.BACKOFF: "backoff", Place.UNSCHEDULABLE: "unschedulable"}


class SchedulerMetrics:
    """Profiles are those of the configuration: pods of others are nobody's here."""

    def __init__(self) -> None:
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._durations = Histograms(exponential(0.001, 2.0, 15))
        self._preemptions = 0
        self._victims = Histogram(exponential(1.0, 2.0, 7))

    def decided(self, result: str, profile: str, seconds: float) -> None:
        """An attempt has come to a decision in so many seconds."""
        self._attempts[result, profile] += 1
        self._durations.observe(seconds, result, profile)

    def bind_failed(self, profile: str) -> None:
        """What was counted as scheduled came to nothing."""
        self._attempts[ERROR, profile] += 1

    def preempted(self, victims: int) -> None:
        self._preemptions += 1
        self._victims.observe(victims)

    def collect(self, pending: Mapping[Place, int]) -> Iterable[Family]:
        """`pending`: pods by where they wait."""
        about = "Attempts to schedule pods, by result."
        yield counter("scheduler_schedule_attempts_total", about, self._attempts, "result", "profile")
        name, about = "scheduler_scheduling_attempt_duration_seconds", "Time for a decision."
        yield histogram(name, about, self._durations.by_labels, "result", "profile")
        waiting = {(queue,): pending.get(place, 0) for place, queue in _QUEUES.items()}
        yield gauge("scheduler_pending_pods", "Pods that wait, by queue.", waiting, "queue")
        yield counter("scheduler_preemption_attempts_total", "Preemptions begun.", self._preemptions)
        yield histogram("scheduler_preemption_victims", "Pods deleted for one preemption.", self._victims)
