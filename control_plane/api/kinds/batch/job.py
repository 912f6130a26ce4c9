"""Jobs: generated selectors, completions, and what a suspended one may still change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.batch.job_spec import validate_job_spec
from rayplane.control_plane.api.kinds.batch.job_status import validate_job_status
from rayplane.control_plane.api.kinds.metadata import Errors, immutable, labels_match, validate_selector
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.kinds.workloads import default_template, set_missing, template_labels
from rayplane.control_plane.api.machinery import names
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
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object, condition_is, is_deleting, name, parse_time
from rayplane.control_plane.durations import human_duration

MAX_INT32 = 2**31 - 1
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
_UID_LABELS = ("controller-uid", JOB_UID_LABEL)
_NAME_LABELS = ("job-name", JOB_NAME_LABEL)
_FIXED = ("completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy")


def _default(obj: Object) -> None:
    spec = default_template(obj)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
        spec["parallelism"] = 1
    set_missing(spec, "parallelism", 1)
    per_index = spec.get("backoffLimitPerIndex") is not None
    set_missing(spec, "backoffLimit", MAX_INT32 if per_index else 6)
    set_missing(spec, "completionMode", "NonIndexed")
    set_missing(spec, "suspend", False)
    set_missing(spec, "manualSelector", False)
    policy = spec.get("podFailurePolicy")
    default_conditions(policy)
    set_missing(spec, "podReplacementPolicy", "TerminatingOrFailed" if policy is None else "Failed")
    labels = spec["template"]["metadata"].get("labels")
    metadata = obj.setdefault("metadata", {})
    if labels and not metadata.get("labels"):
        metadata["labels"] = dict(labels)


def default_conditions(policy: dict[str, Any] | None) -> None:
    """A condition that a policy for failures is about holds, unless the policy says otherwise."""
    for rule in (policy or {}).get("rules") or ():
        for pattern in rule.get("onPodConditions") or ():
            if not pattern.get("status"):
                pattern["status"] = "True"


def _prepare_create(job: Object) -> None:
    """Select by the job's own uid. Other values that a client gave are kept, and refused later."""
    spec = job["spec"]
    if spec.get("manualSelector"):
        return
    uid, own = job["metadata"].get("uid") or "", job["metadata"].get("name") or ""
    metadata = spec["template"].setdefault("metadata", {})
    labels = metadata["labels"] = metadata.get("labels") or {}
    for label in _NAME_LABELS:
        labels.setdefault(label, own)
    for label in _UID_LABELS:
        labels.setdefault(label, uid)
    selector = spec["selector"] = spec.get("selector") or {}
    selector["matchLabels"] = selector.get("matchLabels") or {}
    selector["matchLabels"].setdefault(JOB_UID_LABEL, uid)
    if not job["metadata"].get("labels"):
        job["metadata"]["labels"] = dict(labels)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec, metadata = meta.spec(obj), obj.get("metadata") or {}
    _generated_selector(spec, metadata, errs)
    _spec(spec, errs)
    completions, own = spec.get("completions") or 0, metadata.get("name") or ""
    if spec.get("completionMode") == "Indexed" and completions > 0:
        # The last pod's host name must be one, too.
        host = f"{own}-{completions - 1}"
        if names.label_errors(host):
            text = f"will not able to create pod with invalid DNS label: {host}"
            errs.append(invalid("metadata.name", own, text))
    return errs


def _generated_selector(spec: Mapping[str, Any], metadata: Mapping[str, Any], errs: Errors) -> None:
    """A selector that is generated selects what has the job's own uid and name, and nothing else does."""
    selector = spec.get("selector")
    if spec.get("manualSelector") or selector is None:
        return
    uid, own = metadata.get("uid") or "", metadata.get("name") or ""
    if not uid:
        errs.append(required("metadata.uid"))
    labels, expected = template_labels(spec), {}
    for uid_label, name_label in zip(_UID_LABELS, _NAME_LABELS, strict=True):
        for label, value in ((uid_label, uid), (name_label, own)):
            at = f"spec.template.metadata.labels[{label}]"
            expected[label] = value
            if label not in labels:
                errs.append(required(at, f"must be '{value}'"))
            elif labels[label] != value:
                errs.append(invalid(at, dict(labels), f"must be '{value}'"))
    problems: Errors = []
    validate_selector(selector, "spec.selector", problems)
    if not problems and not from_label_selector(selector).matches(expected):
        errs.append(invalid("spec.selector", selector, "`selector` not auto-generated"))


def _spec(spec: Mapping[str, Any], errs: Errors) -> None:
    validate_job_spec(spec, "spec", errs)
    selector, before = spec.get("selector"), len(errs)
    if selector is None:
        errs.append(required("spec.selector"))
    else:
        validate_selector(selector, "spec.selector", errs)
    if selector is None or len(errs) == before:
        labels_match(selector, template_labels(spec), errs)


# --- updates ------------------------------------------------------------------------------------


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = meta.spec(new), meta.spec(old)
    _spec(spec, errs)
    completions = spec.get("completions")
    if spec.get("completionMode") != "Indexed":
        immutable(completions, before.get("completions"), "spec.completions", errs)
    elif completions not in (None, before.get("completions"), spec.get("parallelism")):
        text = "can only be modified in tandem with spec.parallelism"
        errs.append(invalid("spec.completions", completions, text))
    immutable(spec.get("selector"), before.get("selector"), "spec.selector", errs)
    template, earlier = spec.get("template"), before.get("template")
    if _may_be_moved(old):
        template, earlier = _unmoved(template), _unmoved(earlier)
    if template != earlier:
        immutable(spec.get("template"), before.get("template"), "spec.template", errs)
    for field in _FIXED:
        immutable(spec.get(field), before.get(field), f"spec.{field}", errs)
    return errs


def _may_be_moved(old: Object) -> bool:
    """Whether a job may still be told where to run and with what: it is suspended, and none of its pods run."""
    status = old.get("status") or {}
    if not meta.spec(old).get("suspend"):
        return False
    return not status.get("startTime") or (condition_is(old, "Suspended") and not status.get("active"))


def _unmoved(template: Mapping[str, Any] | None) -> Any:
    """A template without what tells where its pods run, and with which resources."""
    metadata, spec = (dict((template or {}).get(field) or {}) for field in ("metadata", "spec"))
    for field in ("labels", "annotations"):
        metadata.pop(field, None)
    for field in ("nodeSelector", "tolerations", "schedulingGates"):
        spec.pop(field, None)
    affinity = {name: value for name, value in (spec.pop("affinity", None) or {}).items() if name != "nodeAffinity"}
    for field in ("containers", "initContainers"):
        if spec.get(field):
            spec[field] = [{k: v for k, v in one.items() if k != "resources"} for one in spec[field]]
    return metadata, spec, affinity


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
        defaults_in_status=True,
        prepare_create=_prepare_create,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        validate_status_update=validate_job_status,
        status=Status({}),
        generation=True,
        printer=Printer(_COLUMNS, _row),
        fields=(*METADATA_FIELDS, "status.successful"),
        orphans=True,
    ),
}
