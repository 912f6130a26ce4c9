"""CronJob: makes a Job at each time its schedule names.

Schedules are read by `api.cron`, as the API server reads them when it takes the object. Of several times that were
missed the latest is served. Source: Kubernetes concepts "CronJob", API reference batch/v1.
"""

from __future__ import annotations

import copy
from datetime import datetime, timedelta, tzinfo
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.cron import CronError, Schedule, parse_schedule, time_zone
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    BaseController,
    Create,
    Delete,
    Event,
    Moment,
    Result,
    UpdateStatus,
    View,
    Watch,
    controlled,
    controller_key,
    result,
)
from rayplane.control_plane.controllers.job.conditions import is_finished
from rayplane.control_plane.controllers.job.spec import JOBS

CRONJOBS = "cronjobs.batch"
MISSED_MAX = 100  # of times that were not served; beyond it is said that something is wrong
_TOO_MANY = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"


class CronJobController(BaseController):
    name = "cronjob"
    component = "cronjob-controller"
    watches = (Watch(CRONJOBS), Watch(JOBS, controller_key("CronJob", "batch")))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        cron = view.get(CRONJOBS, *meta.split_key(key))
        if cron is None or meta.is_deleting(cron):
            return NOTHING
        jobs = sorted(controlled(view, JOBS, cron), key=meta.name)
        spec, status = meta.spec(cron), dict(meta.status(cron))
        active = [job for job in jobs if not is_finished(job)]
        status["active"] = [meta.object_reference(job) for job in active]
        done = [_done_at(job) for job in jobs if meta.condition_is(job, "Complete")]
        if done:
            status["lastSuccessfulTime"] = max(done)
        try:
            schedule, zone = _schedule(spec)
        except _Unusable as e:
            return result([Event(cron, "Warning", e.reason, str(e))])
        due, following, missed = _due(cron, schedule, now.wall.astimezone(zone))
        steps: list[Action] = list(_cleanup(cron, jobs))
        if due is not None and not spec.get("suspend"):
            if missed > MISSED_MAX:
                steps.append(Event(cron, "Warning", "TooManyMissedTimes", _TOO_MANY))
            steps += self._start(cron, due, active=active, status=status)
        if not status["active"]:
            del status["active"]
        if status != meta.status(cron):
            steps.append(UpdateStatus(CRONJOBS, {**cron, "status": status}))
        wait = (following - now.wall).total_seconds() + 0.1 if following else None
        return result(steps, requeue_after=wait if not spec.get("suspend") else None)

    def _start(self, cron: Object, due: datetime, *, active: list[Object], status: dict[str, Any]) -> list[Action]:
        """The Job of a scheduled time, unless another still runs."""
        spec = meta.spec(cron)
        policy = spec.get("concurrencyPolicy") or "Allow"
        if active and policy == "Forbid":
            text = "Not starting job because prior execution is running and concurrency policy is Forbid"
            return [Event(cron, "Normal", "JobAlreadyActive", text)]
        steps: list[Action] = []
        if policy == "Replace":
            for job in active:
                done = Event(cron, "Normal", "SuccessfulDelete", "Deleted job {name}")
                steps.append(Delete(JOBS, job, done=done))
        job = _job_of(cron, due)
        done = Event(cron, "Normal", "SuccessfulCreate", "Created job {name}")
        failed = Event(cron, "Warning", "FailedCreate", "Error creating job: {error}")
        steps.append(Create(JOBS, job, done=done, failed=failed, exists_ok=True))
        status["lastScheduleTime"] = meta.format_time(due)
        return steps


class _Unusable(Exception):
    """The schedule or its zone cannot be read."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _schedule(spec: dict[str, Any]) -> tuple[Schedule, tzinfo]:
    text = spec.get("schedule") or ""
    try:
        zone = time_zone(spec.get("timeZone"))
    except CronError as e:
        raise _Unusable("UnknownTimeZone", f'invalid timeZone: "{spec.get("timeZone")}": {e}') from e
    try:
        return parse_schedule(text), zone
    except CronError as e:
        raise _Unusable("UnparseableSchedule", f'unparseable schedule: "{text}" : {e}') from e


def _due(cron: Object, schedule: Schedule, now: datetime) -> tuple[datetime | None, datetime | None, int]:
    """The latest scheduled time that has passed and was not served, the next one, and how many have passed."""
    last = meta.status(cron).get("lastScheduleTime") or meta.metadata(cron).get("creationTimestamp")
    earliest = meta.parse_time(last).astimezone(now.tzinfo) if last else now
    deadline_s = meta.spec(cron).get("startingDeadlineSeconds")
    if deadline_s is not None:
        # A deadline may be longer than there are years.
        earliest = max(earliest, now - timedelta(seconds=min(deadline_s, (now - earliest).total_seconds())))
    due = schedule.latest(earliest, now)
    missed = schedule.count(earliest, now, MISSED_MAX + 1) if due is not None else 0
    return due, schedule.next_after(due or earliest), missed


def _done_at(job: Object) -> str:
    return meta.status(job).get("completionTime") or ""


def _job_of(cron: Object, due: datetime) -> Object:
    """The Job of one scheduled time: the name is made from it, so that no time is served twice."""
    template = meta.spec(cron).get("jobTemplate") or {}
    source = template.get("metadata") or {}
    own: dict[str, Any] = {
        "name": f"{meta.name(cron)[:52]}-{int(due.timestamp()) // 60}",
        "namespace": meta.namespace(cron),
        "annotations": {
            **(source.get("annotations") or {}),
            "batch.kubernetes.io/cronjob-scheduled-timestamp": due.isoformat(),
        },
        "ownerReferences": [meta.owner_reference(cron)],
    }
    if source.get("labels"):
        own["labels"] = dict(source["labels"])
    spec = copy.deepcopy(template.get("spec") or {})
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": own, "spec": spec}


def _cleanup(cron: Object, jobs: list[Object]) -> list[Delete]:
    """Finished Jobs beyond the history limits, oldest first."""
    found = []
    limits = {"Complete": ("successfulJobsHistoryLimit", 3), "Failed": ("failedJobsHistoryLimit", 1)}
    for condition, (field, default) in limits.items():
        limit = meta.spec(cron).get(field)
        limit = default if limit is None else limit
        finished = [job for job in jobs if meta.condition_is(job, condition)]
        finished.sort(key=lambda job: (meta.status(job).get("startTime") or "", meta.name(job)))
        found += [Delete(JOBS, job) for job in finished[: max(0, len(finished) - limit)]]
    return found
