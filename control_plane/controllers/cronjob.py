"""CronJob: makes a Job at each time its schedule names.

Schedules are the five fields of crontab(5) (numbers, names, lists, ranges, steps) or `@hourly` and its kin, in UTC or
in `spec.timeZone`. Source: Kubernetes concepts "CronJob", API reference batch/v1.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rayplane.control_plane.api import meta
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
from rayplane.control_plane.controllers.job import JOBS, is_finished

CRONJOBS = "cronjobs.batch"
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_SEARCH_DAYS = 366 * 5  # a schedule that names no day in five years names none


class BadSchedule(ValueError):
    """The schedule cannot be read; the message says which part."""


@lru_cache(maxsize=1024)
def parse_schedule(text: str) -> tuple[frozenset[int], ...]:
    """Allowed minutes, hours, days of month, months, days of week. Raises BadSchedule."""
    fields = _MACROS.get(text.strip(), text).split()
    if len(fields) != 5:
        raise BadSchedule(f"schedule {text!r} must have 5 fields or be a macro such as @hourly")
    found = []
    for n, (field, (low, high)) in enumerate(zip(fields, _BOUNDS, strict=True)):
        names = {3: {m: i + 1 for i, m in enumerate(_MONTHS)}, 4: {d: i for i, d in enumerate(_DAYS)}}
        found.append(_parse_field(field, low, high, names=names.get(n, {})))
    found[4] = frozenset(day % 7 for day in found[4])
    # In crontab(5) a day matches either field where both are restricted: an empty set marks "any".
    found[2] = frozenset() if fields[2].startswith(("*", "?")) else found[2]
    found[4] = frozenset() if fields[4].startswith(("*", "?")) else found[4]
    return tuple(found)


def _parse_field(field: str, low: int, high: int, *, names: dict[str, int]) -> frozenset[int]:
    values: set[int] = set()
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        try:
            if first in ("*", "?"):
                start, end = low, high
            else:
                start = names[first] if first in names else int(first)
                end = (names[last] if last in names else int(last)) if dash else start
                if step and not dash:
                    end = high
            every = int(step) if step else 1
        except ValueError as e:
            raise BadSchedule(f"{part!r} is no number, range or step") from e
        if not low <= start <= end <= high or every < 1:
            raise BadSchedule(f"{part!r} is not within {low}-{high}")
        values.update(range(start, end + 1, every))
    return frozenset(values)


def next_time(schedule: str, after: datetime) -> datetime | None:
    """The first scheduled minute after a moment (aware; in its zone); None when there is none."""
    minutes, hours, days, months, weekdays = parse_schedule(schedule)
    moment = after.replace(second=0, microsecond=0) + timedelta(minutes=1)
    for _ in range(_SEARCH_DAYS):
        if moment.month in months and _day_matches(moment, days, weekdays):
            for hour in sorted(h for h in hours if h >= moment.hour):
                first = moment.minute if hour == moment.hour else 0
                fitting = [m for m in minutes if m >= first]
                if fitting:
                    return moment.replace(hour=hour, minute=min(fitting))
        moment = moment.replace(hour=0, minute=0) + timedelta(days=1)
    return None


def _day_matches(moment: datetime, days: frozenset[int], weekdays: frozenset[int]) -> bool:
    weekday = (moment.weekday() + 1) % 7
    if days and weekdays:
        return moment.day in days or weekday in weekdays
    return (not days or moment.day in days) and (not weekdays or weekday in weekdays)


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
            zone = _zone(spec.get("timeZone"))
            due, following = _due(cron, now.wall.astimezone(zone))
        except (BadSchedule, ZoneInfoNotFoundError) as e:
            text = f"unparseable schedule: {spec.get('schedule')}: {e}"
            return result([Event(cron, "Warning", "UnparseableSchedule", text)])
        steps: list[Action] = list(_cleanup(cron, jobs))
        if due is not None and not spec.get("suspend"):
            steps += self._start(cron, due, active=active, status=status, now=now)
        if not status["active"]:
            del status["active"]
        if status != meta.status(cron):
            steps.append(UpdateStatus(CRONJOBS, {**cron, "status": status}))
        wait = (following - now.wall).total_seconds() + 0.1 if following else None
        return result(steps, requeue_after=wait if not spec.get("suspend") else None)

    def _start(
        self, cron: Object, due: datetime, *, active: list[Object], status: dict[str, Any], now: Moment
    ) -> list[Action]:
        """The Job of a scheduled time, unless it is too late or another still runs."""
        spec = meta.spec(cron)
        deadline = spec.get("startingDeadlineSeconds")
        if deadline is not None and (now.wall - due).total_seconds() > deadline:
            text = f"Missed scheduled time to start a job: {meta.format_time(due)}"
            return [Event(cron, "Warning", "MissSchedule", text)]
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


def _zone(name: str | None) -> tzinfo:
    return ZoneInfo(name) if name else UTC


def _due(cron: Object, now: datetime) -> tuple[datetime | None, datetime | None]:
    """The latest scheduled time that has passed and was not served, and the next one."""
    schedule = meta.spec(cron).get("schedule") or ""
    last = meta.status(cron).get("lastScheduleTime") or meta.metadata(cron).get("creationTimestamp")
    # A long gap is not walked through minute by minute: only its last day can matter.
    earliest = max(meta.parse_time(last), now - timedelta(days=1)).astimezone(now.tzinfo) if last else now
    due, following = None, next_time(schedule, earliest)
    while following is not None and following <= now:
        due, following = following, next_time(schedule, following)
    return due, following


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
