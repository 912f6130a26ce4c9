"""Cron jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.cron import CronError, parse_schedule, time_zone
from rayplane.control_plane.api.errors import invalid, not_supported, required
from rayplane.control_plane.api.kinds.batch.job import validate_job_spec
from rayplane.control_plane.api.kinds.metadata import Errors, not_negative, one_of
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod_template
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_UPDATE_RULES, Status
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
    default_pod_template(template.setdefault("spec", {}).setdefault("template", {}))


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = meta.spec(obj)
    own = (obj.get("metadata") or {}).get("name") or ""
    if len(own) > _CRON_NAME_MAX:
        text = f"must be no more than {_CRON_NAME_MAX} characters"
        errs.append(invalid("metadata.name", own, text))
    schedule = spec.get("schedule")
    if not schedule:
        errs.append(required("spec.schedule"))
    else:
        try:
            parse_schedule(schedule)
        except CronError as error:
            errs.append(invalid("spec.schedule", schedule, str(error)))
    try:
        time_zone(spec.get("timeZone"))
    except CronError as error:
        errs.append(invalid("spec.timeZone", spec["timeZone"], str(error)))
    supported = ("Allow", "Forbid", "Replace")
    one_of(spec.get("concurrencyPolicy"), supported, "spec.concurrencyPolicy", errs)
    for field in (
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ):
        not_negative(spec.get(field), f"spec.{field}", errs)
    template = (spec.get("jobTemplate") or {}).get("spec") or {}
    if template.get("manualSelector"):
        supported_ = ("nil", "false")
        at = "spec.jobTemplate.spec.manualSelector"
        errs.append(not_supported(at, True, supported_))
    validate_job_spec(template, "spec.jobTemplate.spec", errs)
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
        validate_update=NO_UPDATE_RULES,
        status=Status({}),
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
