"""The status of jobs: what conditions, counts and times go together, and what never goes back.

Any controller may run a job (`managedBy`), so what it writes is looked at as if nobody knew it; a rule is asked only
where the write touches what it is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import duplicate, invalid, invalid_without_value, required
from rayplane.control_plane.api.kinds.batch.job_indexes import IndexesError, count_indexes, first_shared
from rayplane.control_plane.api.kinds.metadata import Errors, not_negative
from rayplane.control_plane.api.meta import Object, parse_time

_CONDITIONS: Final = "status.conditions"
_COUNTS: Final = ("active", "succeeded", "failed", "ready", "terminating")
_LASTING: Final = ("Failed", "Complete", "FailureTarget")


class _Change:
    """Status of a job before and after a write, and its spec."""

    def __init__(self, new: Object, old: Object) -> None:
        self.spec = meta.spec(new)
        self.status: Mapping[str, Any] = new.get("status") or {}
        self.before: Mapping[str, Any] = old.get("status") or {}
        self.now, self.then = _true_conditions(self.status), _true_conditions(self.before)
        self.indexed = self.spec.get("completionMode") == "Indexed"
        self.finished = bool(self.now & {"Complete", "Failed"})

    def changed(self, *fields: str) -> bool:
        return any((self.status.get(one) or None) != (self.before.get(one) or None) for one in fields)

    def switched(self, *conditions: str) -> bool:
        return any((one in self.now) != (one in self.then) for one in conditions)

    @property
    def ended_now(self) -> bool:
        return self.finished != bool(self.then & {"Complete", "Failed"})


def _true_conditions(status: Mapping[str, Any]) -> set[str]:
    return {one.get("type") or "" for one in status.get("conditions") or () if one.get("status") == "True"}


def validate_job_status(new: Object, old: Object) -> Errors:
    """Problems of a write of the status."""
    errs: Errors = []
    change = _Change(new, old)
    for field in _COUNTS:
        not_negative(change.status.get(field), f"status.{field}", errs)
    _uncounted(change.status.get("uncountedTerminatedPods") or {}, errs)
    _complete(change, errs)
    _finished(change, errs)
    _indexes(change, errs)
    _counts(change, errs)
    _success(change, errs)
    _kept(change, errs)
    return errs


def _uncounted(pods: Mapping[str, Any], errs: Errors) -> None:
    seen: set[str] = set()
    for field in ("succeeded", "failed"):
        for index, uid in enumerate(pods.get(field) or ()):
            at = f"status.uncountedTerminatedPods.{field}[{index}]"
            if not uid:
                errs.append(invalid(at, uid, "must not be empty"))
            elif uid in seen:
                errs.append(duplicate(at, uid))
            seen.add(uid)


def _complete(change: _Change, errs: Errors) -> None:
    """Conditions that exclude or need each other, and the time of completion."""
    complete, failed = "Complete" in change.now, "Failed" in change.now
    if change.switched("Complete", "Failed") and complete and failed:
        errs.append(invalid_without_value(_CONDITIONS, "cannot set Complete=True and Failed=true conditions"))
    if change.switched("Complete", "FailureTarget") and complete and "FailureTarget" in change.now:
        errs.append(invalid_without_value(_CONDITIONS, "cannot set Complete=True and FailureTarget=true conditions"))
    start, end = change.status.get("startTime"), change.status.get("completionTime")
    if change.switched("Complete") or change.changed("completionTime"):
        if end and not complete:
            text = "cannot set completionTime when there is no Complete=True condition"
            errs.append(invalid("status.completionTime", end, text))
        if complete and not end:
            errs.append(required("status.completionTime", "completionTime is required for Complete jobs"))
    if change.changed("startTime", "completionTime") and start and end and parse_time(end) < parse_time(start):
        errs.append(invalid("status.completionTime", end, "completionTime cannot be set before startTime"))
    if (change.switched("Failed") or change.changed("failedIndexes")) and failed and "FailureTarget" not in change.now:
        text = "cannot set Failed=True condition without the FailureTarget=true condition"
        errs.append(invalid_without_value(_CONDITIONS, text))
    if change.switched("Complete", "SuccessCriteriaMet") and complete and "SuccessCriteriaMet" not in change.now:
        text = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"
        errs.append(invalid_without_value(_CONDITIONS, text))


def _finished(change: _Change, errs: Errors) -> None:
    """What a finished job cannot have any more."""
    if not change.finished:
        return
    status, ended = change.status, change.ended_now
    if (ended or change.changed("active")) and (status.get("active") or 0) > 0:
        errs.append(invalid("status.active", status["active"], "active>0 is invalid for finished job"))
    nothing_to_do = change.spec.get("suspend") and change.spec.get("completions") == 0
    if (ended or change.changed("startTime")) and not nothing_to_do and not status.get("startTime"):
        errs.append(required("status.startTime", "startTime is required for finished job"))
    pods = status.get("uncountedTerminatedPods") or {}
    if (ended or change.changed("uncountedTerminatedPods")) and (pods.get("succeeded") or pods.get("failed")):
        text = "uncountedTerminatedPods needs to be empty for finished job"
        errs.append(invalid("status.uncountedTerminatedPods", pods, text))


def _indexes(change: _Change, errs: Errors) -> None:
    spec, status = change.spec, change.status
    completed, failed = status.get("completedIndexes") or "", status.get("failedIndexes")
    completions, per_index = spec.get("completions"), spec.get("backoffLimitPerIndex") is not None
    if change.changed("completedIndexes") and completions is not None:
        _readable(completed, completions, "completedIndexes", errs)
    failed_changed = failed != change.before.get("failedIndexes")
    if failed_changed and completions is not None and per_index and failed is not None:
        _readable(failed, completions, "failedIndexes", errs)
    if change.changed("completedIndexes") and completed and not change.indexed:
        text = "cannot set non-empty completedIndexes when non-indexed completion mode"
        errs.append(invalid("status.completedIndexes", completed, text))
    if failed_changed and not per_index and failed is not None:
        text = "cannot set non-null failedIndexes when backoffLimitPerIndex is null"
        errs.append(invalid("status.failedIndexes", failed, text))
    if (failed_changed or change.changed("completedIndexes")) and completions is not None and failed is not None:
        shared = first_shared(completed, failed, completions)
        if shared is not None:
            text = f"failedIndexes and completedIndexes overlap at index: {shared}"
            errs.append(invalid("status.failedIndexes", failed, text))


def _readable(text: str, completions: int, field: str, errs: Errors) -> None:
    try:
        count_indexes(text, completions)
    except IndexesError as error:
        errs.append(invalid(f"status.{field}", text, f"error parsing {field}: {error}"))


def _counts(change: _Change, errs: Errors) -> None:
    status = change.status
    terminating, ready, active = (status.get(field) or 0 for field in ("terminating", "ready", "active"))
    if (change.ended_now or change.changed("terminating")) and change.finished and terminating > 0:
        errs.append(invalid("status.terminating", terminating, "terminating>0 is invalid for finished job"))
    if change.changed("ready", "active") and ready > active:
        errs.append(invalid("status.ready", ready, "cannot set more ready pods than active"))


def _success(change: _Change, errs: Errors) -> None:
    met = "SuccessCriteriaMet" in change.now
    for other in ("Failed", "FailureTarget"):
        if met and other in change.now:
            text = f"cannot set SuccessCriteriaMet=True and {other}=true conditions"
            errs.append(invalid_without_value(_CONDITIONS, text))
    if change.spec.get("successPolicy") is not None and not met and "Complete" in change.now:
        text = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True"
        errs.append(invalid_without_value(_CONDITIONS, text))


def _kept(change: _Change, errs: Errors) -> None:
    """What never goes back."""
    spec, status, before = change.spec, change.status, change.before
    for kind in _LASTING:
        if kind in change.then and kind not in change.now:
            text = f"cannot disable the terminal {kind}=True condition"
            errs.append(invalid_without_value(_CONDITIONS, text))
    scaled = change.indexed and spec.get("completions") == spec.get("parallelism")
    for field in ("failed", "succeeded"):
        if (status.get(field) or 0) < (before.get(field) or 0) and not (scaled and field == "succeeded"):
            errs.append(invalid(f"status.{field}", status.get(field) or 0, f"cannot decrease the {field} counter"))
    end, ended = status.get("completionTime"), before.get("completionTime")
    if end and ended and end != ended:
        errs.append(invalid("status.completionTime", end, "completionTime cannot be mutated"))
    if before.get("startTime") and change.changed("startTime") and not spec.get("suspend"):
        errs.append(required("status.startTime", "startTime cannot be removed for unsuspended job"))
    met, was_met = "SuccessCriteriaMet" in change.now, "SuccessCriteriaMet" in change.then
    if was_met and not met:
        errs.append(invalid_without_value(_CONDITIONS, "cannot disable the SuccessCriteriaMet=True condition"))
    if "Complete" in change.then and not was_met and met:
        text = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"
        errs.append(invalid_without_value(_CONDITIONS, text))
