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
from rayplane.control_plane.scheduler.config import Profile
from rayplane.control_plane.scheduler.gangs import Verdict
from rayplane.control_plane.scheduler.queue import Place

SCHEDULED, UNSCHEDULABLE, ERROR = "scheduled", "unschedulable", "error"
_WAITING = "waiting_on_preemption"
_ATTEMPTS_TOLD = 15
_QUEUES = (Place.ACTIVE, Place.BACKOFF, Place.UNSCHEDULABLE, Place.GATED)


class SchedulerMetrics:
    """Profiles are those of the configuration: pods of others are nobody's here."""

    def __init__(self, profiles: Iterable[Profile] = ()) -> None:
        self._profiles = tuple(profiles)
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._durations = Histograms(exponential(0.001, 2.0, 15))
        self._group_attempts: Counter[tuple[str, str]] = Counter()
        self._group_durations = Histograms(exponential(0.001, 2.0, 15))
        self._group_victims = Histogram(exponential(1.0, 2.0, 10))
        self._group_algorithm = Histogram(exponential(0.001, 2.0, 15))
        self.incoming: Counter[tuple[str, str]] = Counter()
        """Pods by the queue they came to and the event that brought them; counted by the queue."""
        self._sli = Histograms(exponential(0.01, 2.0, 20))
        self._tries = Histogram((1.0, 2.0, 4.0, 8.0, 16.0))
        self._preemptions = 0
        self._victims = Histogram(exponential(1.0, 2.0, 7))

    def decided(self, result: str, profile: str, seconds: float) -> None:
        """An attempt has come to a decision in so many seconds."""
        self._attempts[result, profile] += 1
        self._durations.observe(seconds, result, profile)

    def groups_decided(self, verdicts: Iterable[tuple[Verdict, float]]) -> None:
        """Attempts to schedule pod groups have come to these verdicts, each in so many seconds."""
        for one, seconds in verdicts:
            failed = ERROR if one.is_fault else _WAITING if one.preempts else UNSCHEDULABLE
            result = SCHEDULED if one.is_scheduled else failed
            self._group_attempts[result, one.profile] += 1
            self._group_durations.observe(seconds, result, one.profile)
            self._group_algorithm.observe(seconds)
            if one.preempts:
                self._group_victims.observe(one.victims)

    def bound(self, attempts: int, seconds: float) -> None:
        """A pod has its node, so many seconds and attempts after it came."""
        self._tries.observe(attempts)
        self._sli.observe(seconds, str(attempts) if attempts < _ATTEMPTS_TOLD else f"{_ATTEMPTS_TOLD}+")

    def bind_failed(self, profile: str) -> None:
        """What was counted as scheduled came to nothing."""
        self._attempts[ERROR, profile] += 1

    def preempted(self, victims: int) -> None:
        self._preemptions += 1
        self._victims.observe(victims)

    def _evaluations(self) -> dict[tuple[str, str, str], int]:
        """Every decision asks all filters of its profile at once, and all scores when there is a node to choose."""
        found: dict[tuple[str, str, str], int] = {}
        for profile in self._profiles:
            name = profile.name
            placed = self._attempts[SCHEDULED, name]
            decided = placed + self._attempts[UNSCHEDULABLE, name]
            found |= {(plugin, "Filter", name): decided for plugin in profile.filters}
            found |= {(plugin, "Score", name): placed for plugin, _ in profile.scores}
        return found

    def collect(self, pending: Mapping[Place, int], refused: Mapping[tuple[str, str], int]) -> Iterable[Family]:
        """`pending`: pods by where they wait, `refused`: those without a node by plug-in and profile."""
        about = "Attempts to schedule pods, by result."
        yield counter("scheduler_schedule_attempts_total", about, self._attempts, "result", "profile")
        name, about = "scheduler_scheduling_attempt_duration_seconds", "Time for a decision."
        yield histogram(name, about, self._durations.by_labels, "result", "profile")
        about = "Attempts to schedule pod groups, by result."
        yield counter("scheduler_podgroup_schedule_attempts_total", about, self._group_attempts, "result", "profile")
        name, about = "scheduler_podgroup_scheduling_attempt_duration_seconds", "Time for a decision on a pod group."
        yield histogram(name, about, self._group_durations.by_labels, "result", "profile")
        name, about = "scheduler_podgroup_scheduling_algorithm_duration_seconds", "Time to find nodes for a pod group."
        yield histogram(name, about, self._group_algorithm)
        about = "Preemptions begun for pod groups."
        attempts = sum(count for (result, _), count in self._group_attempts.items() if result == _WAITING)
        yield counter("scheduler_podgroup_preemption_attempts_total", about, attempts)
        about = "Pods deleted for one preemption for a pod group."
        yield histogram("scheduler_podgroup_preemption_victims", about, self._group_victims)
        about = "Time from when a pod came to the queue until it was bound, by attempts."
        name = "scheduler_pod_scheduling_sli_duration_seconds"
        yield histogram(name, about, self._sli.by_labels, "attempts")
        yield histogram("scheduler_pod_scheduling_attempts", "Attempts until a pod was bound.", self._tries)
        waiting = {(place.value,): pending.get(place, 0) for place in _QUEUES}
        yield gauge("scheduler_pending_pods", "Pods that wait, by queue.", waiting, "queue")
        about = "Pods that wait since a plug-in refused nodes to them."
        yield gauge("scheduler_unschedulable_pods", about, refused, "plugin", "profile")
        about = "Decisions for which a plug-in was asked."
        labels = ("plugin", "extension_point", "profile")
        yield counter("scheduler_plugin_evaluation_total", about, self._evaluations(), *labels)
        about = "Pods that came to a queue, by the event that brought them there."
        yield counter("scheduler_queue_incoming_pods_total", about, self.incoming, "queue", "event")
        yield counter("scheduler_preemption_attempts_total", "Preemptions begun.", self._preemptions)
        yield histogram("scheduler_preemption_victims", "Pods deleted for one preemption.", self._victims)
