"""Validation of the kinds that own pods: deployments, sets, controllers, jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.cron import CronError, parse_schedule, time_zone
from rayplane.control_plane.api.errors import FieldError, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import (
    immutable,
    in_range,
    not_negative,
    one_of,
    validate_required_selector,
    validate_selector,
)
from rayplane.control_plane.api.kinds.pod_template.validation import validate_template
from rayplane.control_plane.api.kinds.validation_storage import validate_claim_spec
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.selectors import from_map
from rayplane.control_plane.api.meta import Object

Errors = list[FieldError]
_ALWAYS = ("Always",)
_JOB_RESTART = ("OnFailure", "Never")
_JOB_UID = "batch.kubernetes.io/controller-uid"
_CRON_NAME_MAX = 52
_STATEFUL_FREE = frozenset(
    {
        "minReadySeconds",
        "ordinals",
        "persistentVolumeClaimRetentionPolicy",
        "replicas",
        "revisionHistoryLimit",
        "template",
        "updateStrategy",
    }
)
STATEFUL_UPDATE_TEXT = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
    "'minReadySeconds' are forbidden"
)


def _spec(obj: Object) -> dict[str, Any]:
    return obj.get("spec") or {}


def _template_labels(spec: Mapping[str, Any]) -> Mapping[str, str]:
    return ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}


def int_or_percent(value: Any, path: str, errs: Errors) -> None:
    """A count that is not negative or a percentage such as "25%"."""
    if isinstance(value, str):
        if not names.is_percent(value):
            text = (
                "a valid percent string must be a numeric string followed by an ending '%' "
                "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
            )
            errs.append(invalid(path, value, text))
    else:
        not_negative(value, path, errs)


def _is_zero(value: Any) -> bool:
    return value in (0, "0%")


def _over_hundred(value: Any, path: str, errs: Errors) -> None:
    if isinstance(value, str) and names.is_percent(value) and int(value[:-1]) > 100:
        errs.append(invalid(path, value, "must not be greater than 100%"))


def _rolling(rolling: Mapping[str, Any], path: str, errs: Errors) -> None:
    unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    int_or_percent(unavailable, f"{path}.maxUnavailable", errs)
    int_or_percent(surge, f"{path}.maxSurge", errs)
    if _is_zero(unavailable) and _is_zero(surge):
        text = "may not be 0 when `maxSurge` is 0"
        errs.append(invalid(f"{path}.maxUnavailable", unavailable, text))
    _over_hundred(unavailable, f"{path}.maxUnavailable", errs)


def deployment(obj: Object) -> Errors:
    errs: Errors = []
    spec = _spec(obj)
    not_negative(spec.get("replicas"), "spec.replicas", errs)
    _selector_and_template(spec, "deployment", errs)
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        if strategy.get("rollingUpdate") is not None:
            text = "may not be specified when strategy `type` is 'Recreate'"
            errs.append(forbidden("spec.strategy.rollingUpdate", text))
    elif strategy.get("type") == "RollingUpdate":
        _rolling(strategy.get("rollingUpdate") or {}, "spec.strategy.rollingUpdate", errs)
    else:
        one_of(strategy.get("type"), ("Recreate", "RollingUpdate"), "spec.strategy.type", errs)
    for field in ("minReadySeconds", "revisionHistoryLimit"):
        not_negative(spec.get(field), f"spec.{field}", errs)
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None:
        not_negative(deadline, "spec.progressDeadlineSeconds", errs)
        if deadline <= (spec.get("minReadySeconds") or 0):
            text = "must be greater than minReadySeconds"
            errs.append(invalid("spec.progressDeadlineSeconds", deadline, text))
    return errs


def _selector_and_template(spec: Mapping[str, Any], kind: str, errs: Errors) -> None:
    labels = _template_labels(spec)
    validate_required_selector(spec.get("selector"), labels, kind=kind, errs=errs)
    validate_template(spec.get("template"), "spec.template", errs, restart=_ALWAYS)


def replica_set(obj: Object) -> Errors:
    errs: Errors = []
    spec = _spec(obj)
    for field in ("replicas", "minReadySeconds"):
        not_negative(spec.get(field), f"spec.{field}", errs)
    _selector_and_template(spec, "replicaset", errs)
    return errs


def replication_controller(obj: Object) -> Errors:
    errs: Errors = []
    spec = _spec(obj)
    selector, labels = spec.get("selector"), _template_labels(spec)
    if not selector:
        errs.append(required("spec.selector"))
    for field in ("replicas", "minReadySeconds"):
        not_negative(spec.get(field), f"spec.{field}", errs)
    if selector and not from_map(selector).matches(labels):
        text = "`selector` does not match template `labels`"
        errs.append(invalid("spec.template.metadata.labels", dict(labels), text))
    validate_template(spec.get("template"), "spec.template", errs, restart=_ALWAYS)
    return errs


def stateful_set(obj: Object) -> Errors:
    errs: Errors = []
    spec = _spec(obj)
    supported = ("OrderedReady", "Parallel")
    one_of(spec.get("podManagementPolicy"), supported, "spec.podManagementPolicy", errs)
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        if strategy.get("rollingUpdate") is not None:
            text = "only allowed for updateStrategy 'RollingUpdate'"
            at = "spec.updateStrategy.rollingUpdate"
            errs.append(invalid(at, strategy["rollingUpdate"], text))
    elif strategy.get("type") == "RollingUpdate":
        rolling = strategy.get("rollingUpdate") or {}
        at = "spec.updateStrategy.rollingUpdate"
        not_negative(rolling.get("partition"), f"{at}.partition", errs)
        unavailable = rolling.get("maxUnavailable")
        if unavailable is not None:
            int_or_percent(unavailable, f"{at}.maxUnavailable", errs)
            if _is_zero(unavailable):
                errs.append(invalid(f"{at}.maxUnavailable", unavailable, "cannot be 0"))
    else:
        text = "must be 'RollingUpdate' or 'OnDelete'"
        errs.append(invalid("spec.updateStrategy", strategy, text))
    for field in ("replicas", "minReadySeconds"):
        not_negative(spec.get(field), f"spec.{field}", errs)
    not_negative((spec.get("ordinals") or {}).get("start"), "spec.ordinals.start", errs)
    retention = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for field in ("whenDeleted", "whenScaled"):
        at = f"spec.persistentVolumeClaimRetentionPolicy.{field}"
        one_of(retention.get(field), ("Delete", "Retain"), at, errs)
    claims = spec.get("volumeClaimTemplates") or ()
    for index, claim in enumerate(claims):
        at = f"spec.volumeClaimTemplates[{index}]"
        if not (claim.get("metadata") or {}).get("name"):
            errs.append(required(f"{at}.metadata.name"))
        validate_claim_spec(claim.get("spec") or {}, f"{at}.spec", errs)
    labels = _template_labels(spec)
    validate_required_selector(spec.get("selector"), labels, kind="statefulset", errs=errs)
    validate_template(_with_claims(spec), "spec.template", errs, restart=_ALWAYS)
    return errs


def _with_claims(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The template with a volume per claim template, which its containers may mount."""
    template = spec.get("template") or {}
    claims = spec.get("volumeClaimTemplates")
    if not claims:
        return template
    names_ = [(claim.get("metadata") or {}).get("name") or "" for claim in claims]
    pod = template.get("spec") or {}
    kept = [one for one in pod.get("volumes") or () if one.get("name") not in names_]
    made = [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in names_ if n]
    return {**template, "spec": {**pod, "volumes": kept + made}}


def daemon_set(obj: Object) -> Errors:
    errs: Errors = []
    spec = _spec(obj)
    _selector_and_template(spec, "daemonset", errs)
    strategy = spec.get("updateStrategy") or {}
    one_of(strategy.get("type"), ("OnDelete", "RollingUpdate"), "spec.updateStrategy.type", errs)
    if strategy.get("type") == "RollingUpdate":
        rolling, at = strategy.get("rollingUpdate") or {}, "spec.updateStrategy.rollingUpdate"
        unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
        int_or_percent(unavailable, f"{at}.maxUnavailable", errs)
        int_or_percent(surge, f"{at}.maxSurge", errs)
        if _is_zero(unavailable) and _is_zero(surge):
            text = "cannot be 0 when maxSurge is 0"
            errs.append(required(f"{at}.maxUnavailable", text))
        elif not _is_zero(unavailable) and not _is_zero(surge):
            text = "may not be set when maxUnavailable is non-zero"
            errs.append(invalid(f"{at}.maxSurge", surge, text))
    for field in ("minReadySeconds", "revisionHistoryLimit"):
        not_negative(spec.get(field), f"spec.{field}", errs)
    return errs


# --- jobs ---------------------------------------------------------------------------------------


def job(obj: Object) -> Errors:
    errs: Errors = []
    spec = _spec(obj)
    if spec.get("selector") is None:
        errs.append(required("spec.selector"))
    else:
        validate_selector(spec["selector"], "spec.selector", errs)
        uid = (obj.get("metadata") or {}).get("uid")
        labels = _template_labels(spec)
        wanted = (spec["selector"].get("matchLabels") or {}).get(_JOB_UID)
        if not spec.get("manualSelector") and uid and wanted != uid:
            text = "`selector` not auto-generated"
            errs.append(invalid("spec.selector", spec["selector"], text))
        elif any(labels.get(k) != v for k, v in _match_labels(spec).items()):
            text = "`selector` does not match template `labels`"
            errs.append(invalid("spec.template.metadata.labels", dict(labels), text))
    job_spec(spec, "spec", errs)
    return errs


def _match_labels(spec: Mapping[str, Any]) -> Mapping[str, str]:
    return (spec.get("selector") or {}).get("matchLabels") or {}


def job_spec(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
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


def cron_job(obj: Object) -> Errors:
    errs: Errors = []
    spec = _spec(obj)
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
    job_spec(template, "spec.jobTemplate.spec", errs)
    return errs


# --- updates ------------------------------------------------------------------------------------


def selector_immutable(new: Object, old: Object) -> Errors:
    """Deployments, replica sets and daemon sets keep their selector."""
    errs: Errors = []
    spec, before = _spec(new), _spec(old)
    immutable(spec.get("selector"), before.get("selector"), "spec.selector", errs)
    return errs


def stateful_set_update(new: Object, old: Object) -> Errors:
    spec, before = _spec(new), _spec(old)
    for field in spec.keys() | before.keys():
        if field not in _STATEFUL_FREE and spec.get(field) != before.get(field):
            return [forbidden("spec", STATEFUL_UPDATE_TEXT)]
    return []


def job_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = _spec(new), _spec(old)
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
