"""Jobs: generated selectors, completions, and what a suspended one may still change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import (
    Errors,
    immutable,
    in_range,
    not_negative,
    one_of,
    validate_selector,
)
from rayplane.control_plane.api.kinds.pod_template.validation import validate_template
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.kinds.workloads import default_template, set_missing, template_labels
from rayplane.control_plane.api.machinery.columns import (
    AGE,
    NAME,
    WIDE_SELECTOR,
    Cell,
    Column,
    Printer,
    age,
    containers_and_images,
    selector_text,
    spec_and_status,
    template_spec,
)
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, condition_is, is_deleting, name, parse_time
from rayplane.control_plane.durations import human_duration

MAX_INT32 = 2**31 - 1
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
_JOB_RESTART = ("OnFailure", "Never")
_JOB_UID = "batch.kubernetes.io/controller-uid"


def _default(obj: Object) -> None:
    spec = default_template(obj)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
        spec["parallelism"] = 1
    set_missing(spec, "parallelism", 1)
    per_index = spec.get("backoffLimitPerIndex") is not None
    set_missing(spec, "backoffLimit", MAX_INT32 if per_index else 6)
    if not spec.get("completionMode"):
        spec["completionMode"] = "NonIndexed"
    set_missing(spec, "suspend", False)
    set_missing(spec, "manualSelector", False)
    if not spec["manualSelector"]:
        del spec["manualSelector"]
    policy = spec.get("podFailurePolicy")
    for rule in (policy or {}).get("rules") or ():
        for pattern in rule.get("onPodConditions") or ():
            if not pattern.get("status"):
                pattern["status"] = "True"
    if not spec.get("podReplacementPolicy"):
        spec["podReplacementPolicy"] = "Failed" if policy else "TerminatingOrFailed"
    labels = spec["template"]["metadata"].get("labels")
    metadata = obj.setdefault("metadata", {})
    if labels and not metadata.get("labels"):
        metadata["labels"] = dict(labels)


def _prepare_create(job: Object) -> None:
    spec = job["spec"]
    if spec.get("manualSelector"):
        return
    uid, own = job["metadata"].get("uid") or "", job["metadata"].get("name") or ""
    template_labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for label in (JOB_UID_LABEL, "controller-uid"):
        template_labels[label] = uid
    for label in (JOB_NAME_LABEL, "job-name"):
        template_labels[label] = own
    selector = spec.setdefault("selector", {}) or {}
    spec["selector"] = selector
    selector.setdefault("matchLabels", {})[JOB_UID_LABEL] = uid
    if not job["metadata"].get("labels"):
        job["metadata"]["labels"] = dict(template_labels)


def _prepare_update(new: Object, old: Object) -> None:
    """Clients re-apply a job without its generated selector and labels."""
    spec, before = new["spec"], old.get("spec") or {}
    if spec.get("manualSelector") or before.get("manualSelector"):
        return
    if not spec.get("selector") and before.get("selector"):
        spec["selector"] = before["selector"]
    known = ((before.get("template") or {}).get("metadata") or {}).get("labels") or {}
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for label in (JOB_UID_LABEL, "controller-uid", JOB_NAME_LABEL, "job-name"):
        if label in known:
            labels.setdefault(label, known[label])


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = meta.spec(obj)
    if spec.get("selector") is None:
        errs.append(required("spec.selector"))
    else:
        validate_selector(spec["selector"], "spec.selector", errs)
        uid = (obj.get("metadata") or {}).get("uid")
        labels = template_labels(spec)
        wanted = (spec["selector"].get("matchLabels") or {}).get(_JOB_UID)
        if not spec.get("manualSelector") and uid and wanted != uid:
            text = "`selector` not auto-generated"
            errs.append(invalid("spec.selector", spec["selector"], text))
        elif any(labels.get(k) != v for k, v in _match_labels(spec).items()):
            text = "`selector` does not match template `labels`"
            errs.append(invalid("spec.template.metadata.labels", dict(labels), text))
    validate_job_spec(spec, "spec", errs)
    return errs


def _match_labels(spec: Mapping[str, Any]) -> Mapping[str, str]:
    return (spec.get("selector") or {}).get("matchLabels") or {}


def validate_job_spec(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    """What holds for jobs and for the template of a cron job."""
    for field in (
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ):
        not_negative(spec.get(field), f"{path}.{field}", errs)
    mode = spec.get("completionMode")
    if mode:
        if mode not in ("NonIndexed", "Indexed"):
            errs.append(not_supported(f"{path}.completionMode", mode, ("Indexed", "NonIndexed")))
        elif mode == "Indexed" and spec.get("completions") is None:
            text = "when completion mode is Indexed"
            errs.append(required(f"{path}.completions", text))
    if spec.get("backoffLimitPerIndex") is not None and mode != "Indexed":
        text = "requires indexed completion mode"
        errs.append(invalid(f"{path}.backoffLimitPerIndex", spec["backoffLimitPerIndex"], text))
    policy = spec.get("podReplacementPolicy")
    if policy:
        supported = ("Failed", "TerminatingOrFailed")
        one_of(policy, supported, f"{path}.podReplacementPolicy", errs)
    validate_template(spec.get("template"), f"{path}.template", errs, restart=_JOB_RESTART)


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = meta.spec(new), meta.spec(old)
    completions = spec.get("completions")
    elastic = (
        spec.get("completionMode") == "Indexed" and completions is not None and completions == spec.get("parallelism")
    )
    if not elastic:
        immutable(completions, before.get("completions"), "spec.completions", errs)
    for field in ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"):
        immutable(spec.get(field), before.get(field), f"spec.{field}", errs)
    template, earlier = spec.get("template"), before.get("template")
    if before.get("suspend") and not (old.get("status") or {}).get("startTime"):
        template, earlier = _without_scheduling(template), _without_scheduling(earlier)
    if template != earlier:
        immutable(spec.get("template"), before.get("template"), "spec.template", errs)
    in_range(spec.get("parallelism"), 0, 2**31 - 1, "spec.parallelism", errs)
    return errs


def _without_scheduling(template: Mapping[str, Any] | None) -> Any:
    """A suspended job that never started may still be told where to run."""
    if not template:
        return template
    free = ("nodeSelector", "tolerations", "affinity", "schedulingGates")
    spec = {k: v for k, v in (template.get("spec") or {}).items() if k not in free}
    meta = {k: v for k, v in (template.get("metadata") or {}).items() if k not in ("labels", "annotations")}
    return {**template, "spec": spec, "metadata": meta}


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = spec_and_status(obj)
    succeeded = status.get("succeeded") or 0
    parallelism = spec.get("parallelism") or 0
    if spec.get("completions") is not None:
        completions = f"{succeeded}/{spec['completions']}"
    elif parallelism > 1:
        completions = f"{succeeded}/1 of {parallelism}"
    else:
        completions = f"{succeeded}/1"
    duration = ""
    if status.get("startTime"):
        end = status.get("completionTime")
        until = parse_time(end) if end else now
        duration = human_duration((until - parse_time(status["startTime"])).total_seconds())
    return [
        name(obj),
        _job_status(obj),
        completions,
        duration,
        age(obj, now),
        *containers_and_images(template_spec(obj)),
        selector_text(spec.get("selector")),
    ]


def _job_status(obj: Object) -> str:
    for condition, text in (
        ("Complete", "Complete"),
        ("Failed", "Failed"),
    ):
        if condition_is(obj, condition):
            return text
    if is_deleting(obj):
        return "Terminating"
    for condition in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if condition_is(obj, condition):
            return condition
    return "Running"


_COLUMNS = (
    NAME, Column("Status"), Column("Completions"), Column("Duration"), AGE,
    *WIDE_SELECTOR,
)  # fmt: skip


RULES = {
    "Job": replace(
        AS_WRITTEN,
        warnings=warn_of_template("spec", "template"),
        defaults=_default,
        prepare_create=_prepare_create,
        prepare_update=_prepare_update,
        validate=_validate,
        validate_update=_validate_update,
        status=Status({}),
        generation=True,
        printer=Printer(_COLUMNS, _row),
        fields=(*METADATA_FIELDS, "status.successful"),
        orphans=True,
    ),
}
