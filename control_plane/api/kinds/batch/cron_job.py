"""Cron jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.cron import CronError, parse_schedule, time_zone
from rayplane.control_plane.api.errors import invalid, not_supported, required
from rayplane.control_plane.api.kinds.batch.job import default_conditions
from rayplane.control_plane.api.kinds.batch.job_spec import validate_job_spec
from rayplane.control_plane.api.kinds.metadata import Errors, not_negative, one_of
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod_template
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.kinds.workloads import set_missing
from rayplane.control_plane.api.machinery.columns import (
    AGE,
    NAME,
    NONE,
    WIDE_SELECTOR,
    Cell,
    Column,
    Printer,
    age,
    containers_and_images,
    selector_text,
    since,
    spec_and_status,
)
from rayplane.control_plane.api.meta import Object, name

_CRON_NAME_MAX = 52


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("concurrencyPolicy"):
        spec["concurrencyPolicy"] = "Allow"
    set_missing(spec, "suspend", False)
    set_missing(spec, "successfulJobsHistoryLimit", 3)
    set_missing(spec, "failedJobsHistoryLimit", 1)
    template = spec.setdefault("jobTemplate", {})
    template.setdefault("metadata", {})
    spec = template.setdefault("spec", {})
    default_pod_template(spec.setdefault("template", {}))
    default_conditions(spec.get("podFailurePolicy"))


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    _spec(meta.spec(obj), None, errs)
    own = (obj.get("metadata") or {}).get("name") or ""
    if len(own) > _CRON_NAME_MAX:
        text = f"must be no more than {_CRON_NAME_MAX} characters"
        errs.append(invalid("metadata.name", own, text))
    return errs


def _spec(spec: Mapping[str, Any], before: Mapping[str, Any] | None, errs: Errors) -> None:
    schedule = spec.get("schedule")
    if not schedule:
        errs.append(required("spec.schedule"))
    else:
        _read(parse_schedule, schedule, "spec.schedule", errs)
    not_negative(spec.get("startingDeadlineSeconds"), "spec.startingDeadlineSeconds", errs)
    zone = spec.get("timeZone")
    if before is None or before.get("timeZone") != zone:
        # Zones come and go: one that is kept is not looked at again.
        _read(time_zone, zone, "spec.timeZone", errs)
    policy = spec.get("concurrencyPolicy")
    one_of(policy, ("Allow", "Forbid", "Replace"), "spec.concurrencyPolicy", errs)
    _template((spec.get("jobTemplate") or {}).get("spec") or {}, "spec.jobTemplate.spec", errs)
    for field in ("successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        not_negative(spec.get(field), f"spec.{field}", errs)


def _read(parse: Callable[[Any], object], text: str | None, path: str, errs: Errors) -> None:
    try:
        parse(text)
    except CronError as error:
        errs.append(invalid(path, text, str(error)))


def _template(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_job_spec(spec, path, errs)
    if spec.get("selector") is not None:
        errs.append(invalid(f"{path}.selector", spec["selector"], "`selector` will be auto-generated"))
    if spec.get("manualSelector"):
        errs.append(not_supported(f"{path}.manualSelector", True, ("nil", "false")))


def _validate_update(new: Object, old: Object) -> Errors:
    """A name that is too long is no reason to refuse a change of an old cron job."""
    errs: Errors = []
    _spec(meta.spec(new), meta.spec(old), errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = spec_and_status(obj)
    last = status.get("lastScheduleTime")
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    pod = (job.get("template") or {}).get("spec") or {}
    return [
        name(obj),
        spec.get("schedule") or "",
        spec.get("timeZone") or NONE,
        "True" if spec.get("suspend") else "False",
        len(status.get("active") or ()),
        since(last, now) if last else NONE,
        age(obj, now),
        *containers_and_images(pod),
        selector_text(job.get("selector")),
    ]


_COLUMNS = (
    NAME, Column("Schedule"), Column("Timezone"), Column("Suspend", "boolean"),
    Column("Active", "integer"), Column("Last Schedule"), AGE, *WIDE_SELECTOR,
)  # fmt: skip


RULES = {
    "CronJob": replace(
        AS_WRITTEN,
        warnings=warn_of_template("spec", "jobTemplate", "spec", "template"),
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=Status({}),
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
