"""The conditions of a Job, and what is said when they change."""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Event
from rayplane.control_plane.controllers.core import Moment
from rayplane.control_plane.controllers.job.spec import JobSpec
from rayplane.control_plane.controllers.job.verdict import Verdict


def is_finished(job: Object) -> bool:
    return meta.condition_is(job, "Complete") or meta.condition_is(job, "Failed")


def finished_at(job: Object) -> str | None:
    """When a Job has ended (RFC 3339)."""
    for kind in ("Complete", "Failed"):
        if meta.condition_is(job, kind):
            return (meta.get_condition(job, kind) or {}).get("lastTransitionTime")
    return None


def ensure(status: dict[str, Any], kind: str, value: str, reason: str, message: str, now: Moment) -> bool:
    """Set a condition; True where that changes anything. What was never there is not said to be untrue."""
    wanted = {"status": value, "reason": reason, "message": message}
    known = meta.get_condition(status.get("conditions"), kind)
    if (known is None and value == "False") or (known and all(known.get(f) == v for f, v in wanted.items())):
        return False
    new = {"type": kind, **wanted, "lastProbeTime": now.stamp, "lastTransitionTime": now.stamp}
    conditions = status.setdefault("conditions", [])
    if known is None:
        conditions.append(new)
    else:
        conditions[conditions.index(known)] = new
    return True


def suspend(job: Object, spec: JobSpec, status: dict[str, Any], now: Moment) -> list[Event]:
    """Say that a Job is suspended or goes on again. The span that it may be active for begins anew."""
    if spec.suspended:
        status.pop("startTime", None)
        changed = ensure(status, "Suspended", "True", "JobSuspended", "Job suspended", now)
        return [Event(job, "Normal", "Suspended", "Job suspended")] if changed else []
    if not ensure(status, "Suspended", "False", "JobResumed", "Job resumed", now):
        return []
    status["startTime"] = now.stamp
    return [Event(job, "Normal", "Resumed", "Job resumed")]


def end(job: Object, spec: JobSpec, status: dict[str, Any], verdict: Verdict, now: Moment) -> list[Event]:
    """Say that a Job has ended: all its pods have, and are counted."""
    ensure(status, verdict.ended, "True", verdict.reason, verdict.message, now)
    if verdict.failed:
        return [Event(job, "Warning", verdict.reason, verdict.message)]
    status["completionTime"] = now.stamp
    events = [Event(job, "Normal", "Completed", "Job completed")]
    if spec.completions is not None and (status.get("succeeded") or 0) > spec.completions:
        text = "Too many succeeded pods running after completion count reached"
        events.insert(0, Event(job, "Warning", "TooManySucceededPods", text))
    return events
