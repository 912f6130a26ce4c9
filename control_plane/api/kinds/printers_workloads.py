"""Rows of deployments, sets, controllers, jobs, autoscalers and disruption budgets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.machinery.columns import (
    AGE,
    NAME,
    NONE,
    UNKNOWN,
    Cell,
    Column,
    Printer,
    age,
    containers_and_images,
    labels_text,
    selector_text,
    since,
    template_spec,
)
from rayplane.control_plane.api.meta import Object, condition_is, controller_of, name, parse_time
from rayplane.control_plane.durations import human_duration

_WIDE = (Column("Containers", priority=1), Column("Images", priority=1))
_WIDE_SELECTOR = (*_WIDE, Column("Selector", priority=1))
_COUNTS = (Column("Desired", "integer"), Column("Current", "integer"), Column("Ready", "integer"))


def _parts(obj: Object) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return obj.get("spec") or {}, obj.get("status") or {}


def _deployment(obj: Object, now: datetime) -> list[Cell]:
    spec, status = _parts(obj)
    return [
        name(obj),
        f"{status.get('readyReplicas') or 0}/{spec.get('replicas') or 0}",
        status.get("updatedReplicas") or 0,
        status.get("availableReplicas") or 0,
        age(obj, now),
        *containers_and_images(template_spec(obj)),
        selector_text(spec.get("selector")),
    ]


def _replica_set(obj: Object, now: datetime) -> list[Cell]:
    spec, status = _parts(obj)
    selector = spec.get("selector")
    plain = obj.get("kind") == "ReplicationController"
    return [
        name(obj),
        spec.get("replicas") or 0,
        status.get("replicas") or 0,
        status.get("readyReplicas") or 0,
        age(obj, now),
        *containers_and_images(template_spec(obj)),
        labels_text(selector) if plain else selector_text(selector),
    ]


def _stateful_set(obj: Object, now: datetime) -> list[Cell]:
    spec, status = _parts(obj)
    return [
        name(obj),
        f"{status.get('readyReplicas') or 0}/{spec.get('replicas') or 0}",
        age(obj, now),
        *containers_and_images(template_spec(obj)),
    ]


def _daemon_set(obj: Object, now: datetime) -> list[Cell]:
    spec, status = _parts(obj)
    return [
        name(obj),
        status.get("desiredNumberScheduled") or 0,
        status.get("currentNumberScheduled") or 0,
        status.get("numberReady") or 0,
        status.get("updatedNumberScheduled") or 0,
        status.get("numberAvailable") or 0,
        labels_text(template_spec(obj).get("nodeSelector")),
        age(obj, now),
        *containers_and_images(template_spec(obj)),
        selector_text(spec.get("selector")),
    ]


def _job(obj: Object, now: datetime) -> list[Cell]:
    spec, status = _parts(obj)
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
    if (obj.get("metadata") or {}).get("deletionTimestamp"):
        return "Terminating"
    for condition in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if condition_is(obj, condition):
            return condition
    return "Running"


def _cron_job(obj: Object, now: datetime) -> list[Cell]:
    spec, status = _parts(obj)
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


def _controller_revision(obj: Object, now: datetime) -> list[Cell]:
    owner = controller_of(obj)
    controller = NONE
    if owner is not None:
        group = (owner.get("apiVersion") or "").rpartition("/")[0]
        kind = (owner.get("kind") or "").lower() + (f".{group}" if group else "")
        controller = f"{kind}/{owner.get('name')}"
    return [name(obj), controller, obj.get("revision") or 0, age(obj, now)]


def _budget(obj: Object, now: datetime) -> list[Cell]:
    spec, status = _parts(obj)
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    return [
        name(obj),
        "N/A" if least is None else str(least),
        "N/A" if most is None else str(most),
        status.get("disruptionsAllowed") or 0,
        age(obj, now),
    ]


# --- autoscalers --------------------------------------------------------------------------------

_TARGET_SOURCES = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
_SHOWN_METRICS = 2


def _autoscaler(obj: Object, now: datetime) -> list[Cell]:
    spec, status = _parts(obj)
    ref = spec.get("scaleTargetRef") or {}
    least = spec.get("minReplicas")
    return [
        name(obj),
        f"{ref.get('kind')}/{ref.get('name')}",
        _targets(spec, status),
        UNSET_REPLICAS if least is None else str(least),
        spec.get("maxReplicas") or 0,
        status.get("currentReplicas") or 0,
        age(obj, now),
    ]


UNSET_REPLICAS = "<unset>"


def _targets(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    if "targetCPUUtilizationPercentage" in spec:
        current = status.get("currentCPUUtilizationPercentage")
        shown = UNKNOWN if current is None else f"{current}%"
        return f"cpu: {shown}/{spec['targetCPUUtilizationPercentage']}%"
    metrics = spec.get("metrics") or ()
    if not metrics:
        return NONE
    current_metrics = status.get("currentMetrics") or ()
    texts = [
        _target(metric, current_metrics[index] if index < len(current_metrics) else {})
        for index, metric in enumerate(metrics)
    ]
    text = ", ".join(texts[:_SHOWN_METRICS])
    if len(texts) > _SHOWN_METRICS:
        text += f" + {len(texts) - _SHOWN_METRICS} more..."
    return text


def _target(metric: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    field = _TARGET_SOURCES.get(metric.get("type") or "", "")
    source = metric.get(field) or {}
    target = source.get("target") or {}
    now = (current.get(field) or {}).get("current") or {}
    prefix = f"{source['name']}: " if source.get("name") else ""
    if target.get("averageUtilization") is not None:
        used = now.get("averageUtilization")
        shown = UNKNOWN if used is None else f"{used}%"
        return f"{prefix}{shown}/{target['averageUtilization']}%"
    for key, suffix in (("averageValue", " (avg)"), ("value", "")):
        if target.get(key) is not None:
            return f"{prefix}{now.get(key, UNKNOWN)}/{target[key]}{suffix}"
    return f"{prefix}{UNKNOWN}/auto"


PRINTERS = {
    ("apps", "Deployment"): Printer(
        (
            NAME, Column("Ready"), Column("Up-to-date"), Column("Available"), AGE, *_WIDE_SELECTOR,
        ),
        _deployment,
    ),
    ("apps", "ReplicaSet"): Printer((NAME, *_COUNTS, AGE, *_WIDE_SELECTOR), _replica_set),
    ("", "ReplicationController"): Printer((NAME, *_COUNTS, AGE, *_WIDE_SELECTOR), _replica_set),
    ("apps", "StatefulSet"): Printer((NAME, Column("Ready"), AGE, *_WIDE), _stateful_set),
    ("apps", "DaemonSet"): Printer(
        (
            NAME, *_COUNTS, Column("Up-to-date", "integer"), Column("Available", "integer"),
            Column("Node Selector"), AGE, *_WIDE_SELECTOR,
        ),
        _daemon_set,
    ),
    ("apps", "ControllerRevision"): Printer(
        (NAME, Column("Controller"), Column("Revision"), AGE), _controller_revision
    ),
    ("batch", "Job"): Printer(
        (
            NAME, Column("Status"), Column("Completions"), Column("Duration"), AGE,
            *_WIDE_SELECTOR,
        ),
        _job,
    ),
    ("batch", "CronJob"): Printer(
        (
            NAME, Column("Schedule"), Column("Timezone"), Column("Suspend", "boolean"),
            Column("Active", "integer"), Column("Last Schedule"), AGE, *_WIDE_SELECTOR,
        ),
        _cron_job,
    ),
    ("policy", "PodDisruptionBudget"): Printer(
        (
            NAME, Column("Min Available"), Column("Max Unavailable"),
            Column("Allowed Disruptions", "integer"), AGE,
        ),
        _budget,
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): Printer(
        (
            NAME, Column("Reference"), Column("Targets"), Column("MinPods"), Column("MaxPods"),
            Column("Replicas"), AGE,
        ),
        _autoscaler,
    ),
}  # fmt: skip
