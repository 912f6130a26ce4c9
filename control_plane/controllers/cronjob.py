"""CronJob: makes a Job at each time its schedule names.

Schedules are read by `api.cron`, as the API server reads them when it takes the object. Of several times that were
missed the latest is served. Source: Kubernetes concepts "CronJob", API reference batch/v1.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.cron import CronError, Schedule, parse_schedule, time_zone
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    UpdateStatus,
)
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    controlled,
    controller_key,
    result,
)
from rayplane.control_plane.controllers.due import MISSED_MAX, due
from rayplane.control_plane.controllers.job.conditions import is_finished
from rayplane.control_plane.controllers.job.spec import JOBS

CRONJOBS = "cronjobs.batch"
SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_TOO_MANY = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
_NEVER = "time difference between two schedules is less than 1 second"  # as Kubernetes says of times that never come
_STILL_RUNS = "Not starting job because prior execution is running and concurrency policy is Forbid"


class CronJobController(BaseController):
    name = "cronjob"
    component = "cronjob-controller"
    watches = (Watch(CRONJOBS), Watch(JOBS, controller_key("CronJob", "batch")))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        cron = view.get(CRONJOBS, *meta.split_key(key))
        if cron is None:
            return NOTHING
        jobs = sorted(controlled(view, JOBS, cron), key=meta.name)
        status = dict(meta.status(cron))
        events: list[Action] = [*_follow(cron, jobs, status)]
        spec = meta.spec(cron)
        cleanup = _cleanup(cron, jobs)
        wait: float | None = None
        starts: _Stages = ()
        if not meta.is_deleting(cron):
            try:
                schedule, zone = _schedule(spec)
                if not spec.get("suspend"):
                    wait, said, starts = _run(cron, schedule, now.wall.astimezone(zone), jobs=jobs, status=status)
                    events += said
            except _Unusable as e:
                events.append(Event(cron, "Warning", e.reason, str(e)))
        writes = [UpdateStatus(CRONJOBS, {**cron, "status": status})] if status != meta.status(cron) else []
        # A time counts as served once its Job is there.
        return result([*events, *cleanup], *starts, writes, requeue_after=wait)


# --- the Jobs there are -------------------------------------------------------------------------


def _follow(cron: Object, jobs: Sequence[Object], status: dict[str, Any]) -> list[Event]:
    """Bring the list of running Jobs and the time of the last success up to date, and tell what has changed."""
    listed = [ref.get("uid") or "" for ref in status.get("active") or ()]
    found = {meta.uid(job): job for job in jobs}
    events, active = [], []
    for ref in status.get("active") or ():
        job = found.get(ref.get("uid") or "")
        if job is None:
            text = f"Active job went missing: {ref.get('name')}"
            events.append(Event(cron, "Normal", "MissingJob", text))
        elif is_finished(job):
            how = "Complete" if meta.condition_is(job, "Complete") else "Failed"
            text = f"Saw completed job: {meta.name(job)}, condition: {how}"
            events.append(Event(cron, "Normal", "SawCompletedJob", text))
        else:
            active.append(ref)
    for job in jobs:
        if is_finished(job) or meta.uid(job) in listed:
            continue
        if SCHEDULED in meta.annotations(job):
            active.append(meta.object_reference(job))
        else:
            text = f"Saw a job that the controller did not create or forgot: {meta.name(job)}"
            events.append(Event(cron, "Warning", "UnexpectedJob", text))
    _list(status, active)
    done = [meta.status(job).get("completionTime") or "" for job in jobs if meta.condition_is(job, "Complete")]
    if done:
        status["lastSuccessfulTime"] = max([*done, status.get("lastSuccessfulTime") or ""])
    return events


def _list(status: dict[str, Any], active: list[dict[str, Any]]) -> None:
    if active:
        status["active"] = active
    else:
        status.pop("active", None)


def _cleanup(cron: Object, jobs: Sequence[Object]) -> list[Delete]:
    """Finished Jobs beyond the history limits, oldest first."""
    found = []
    limits = {"Complete": ("successfulJobsHistoryLimit", 3), "Failed": ("failedJobsHistoryLimit", 1)}
    for condition, (field, default) in limits.items():
        limit = meta.spec(cron).get(field)
        limit = default if limit is None else limit
        finished = [job for job in jobs if meta.condition_is(job, condition) and not meta.is_deleting(job)]
        finished.sort(key=_started)
        found += [_delete(cron, job) for job in finished[: max(0, len(finished) - limit)]]
    return found


def _started(job: Object) -> tuple[bool, str, str]:
    start = meta.status(job).get("startTime") or ""
    return not start, start, meta.name(job)


def _delete(cron: Object, job: Object) -> Delete:
    done = Event(cron, "Normal", "SuccessfulDelete", "Deleted job {name}")
    failed = Event(cron, "Warning", "FailedDelete", "Deleted job: {error}")
    return Delete(JOBS, job, done=done, failed=failed)


# --- the Job that is due ------------------------------------------------------------------------

_Stages = tuple[list[Action], ...]


def _run(
    cron: Object, schedule: Schedule, now: datetime, *, jobs: Sequence[Object], status: dict[str, Any]
) -> tuple[float | None, list[Event], _Stages]:
    """Seconds until the next time, what to say, and what makes the Job of the latest time that was not served."""
    last = meta.status(cron).get("lastScheduleTime") or meta.metadata(cron).get("creationTimestamp")
    times = due(schedule, now, last=last, deadline_s=meta.spec(cron).get("startingDeadlineSeconds"))
    if times.latest is None and times.following is None:
        raise _Unusable("InvalidSchedule", f"invalid schedule: {meta.spec(cron).get('schedule')} : {_NEVER}")
    wait = times.wait_s(now)
    if times.latest is None:
        return wait, [], ()
    made = _job_of(cron, times.latest)
    if any(meta.name(job) == meta.name(made) for job in jobs):  # it was made, but nobody came to say so
        status["lastScheduleTime"] = meta.format_time(times.latest)
        return wait, [], ()
    events = [Event(cron, "Warning", "TooManyMissedTimes", _TOO_MANY)] if times.missed > MISSED_MAX else []
    policy, active = meta.spec(cron).get("concurrencyPolicy") or "Allow", status.get("active") or []
    if active and policy == "Forbid":
        return wait, [*events, Event(cron, "Normal", "JobAlreadyActive", _STILL_RUNS)], ()
    deletes: list[Action] = []
    if policy == "Replace":
        running = {ref.get("uid") for ref in active}
        deletes += [_delete(cron, job) for job in jobs if meta.uid(job) in running]
        _list(status, [])
    status["lastScheduleTime"] = meta.format_time(times.latest)
    done = Event(cron, "Normal", "SuccessfulCreate", "Created job {name}")
    failed = Event(cron, "Warning", "FailedCreate", "Error creating job: {error}")
    create = Create(JOBS, made, done=done, failed=failed, exists_ok=True)
    return wait, events, (deletes, [create])


class _Unusable(Exception):
    """The schedule or its zone cannot be read, or names no time."""

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


def _job_of(cron: Object, due: datetime) -> Object:
    """The Job of one scheduled time: the name is made from it, so that no time is served twice."""
    template = meta.spec(cron).get("jobTemplate") or {}
    source = template.get("metadata") or {}
    own: dict[str, Any] = {
        "name": f"{meta.name(cron)[:52]}-{int(due.timestamp()) // 60}",
        "namespace": meta.namespace(cron),
        "annotations": {
            **(source.get("annotations") or {}),
            SCHEDULED: due.isoformat().replace("+00:00", "Z"),
        },
        "ownerReferences": [meta.owner_reference(cron)],
    }
    if source.get("labels"):
        own["labels"] = dict(source["labels"])
    spec = copy.deepcopy(template.get("spec") or {})
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": own, "spec": spec}
