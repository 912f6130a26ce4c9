"""Defaults of the kinds that own pods: deployments, sets, jobs."""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.api.kinds.defaults_storage import persistent_volume_claim
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod_template
from rayplane.control_plane.api.meta import Object

MAX_INT32 = 2**31 - 1


def _set_missing(target: dict[str, Any], name: str, value: Any) -> None:
    if target.get(name) is None:
        target[name] = value


def _spec(obj: Object) -> dict[str, Any]:
    spec: dict[str, Any] = obj.setdefault("spec", {})
    default_pod_template(spec.setdefault("template", {}))
    return spec


def deployment(obj: Object) -> None:
    spec = _spec(obj)
    _set_missing(spec, "replicas", 1)
    _set_missing(spec, "revisionHistoryLimit", 10)
    _set_missing(spec, "progressDeadlineSeconds", 600)
    strategy = spec.setdefault("strategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        if strategy.get("rollingUpdate") is None:
            strategy["rollingUpdate"] = {}
        _set_missing(strategy["rollingUpdate"], "maxUnavailable", "25%")
        _set_missing(strategy["rollingUpdate"], "maxSurge", "25%")


def replica_set(obj: Object) -> None:
    _set_missing(_spec(obj), "replicas", 1)


def stateful_set(obj: Object) -> None:
    spec = _spec(obj)
    _set_missing(spec, "replicas", 1)
    _set_missing(spec, "revisionHistoryLimit", 10)
    if not spec.get("podManagementPolicy"):
        spec["podManagementPolicy"] = "OrderedReady"
    strategy = spec.setdefault("updateStrategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
        _set_missing(strategy, "rollingUpdate", {})
    if strategy["type"] == "RollingUpdate" and strategy.get("rollingUpdate") is not None:
        _set_missing(strategy["rollingUpdate"], "partition", 0)
    retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    for field in ("whenDeleted", "whenScaled"):
        if not retention.get(field):
            retention[field] = "Retain"
    for claim in spec.get("volumeClaimTemplates") or ():
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        persistent_volume_claim(claim)
        claim.setdefault("status", {"phase": "Pending"})


def daemon_set(obj: Object) -> None:
    spec = _spec(obj)
    _set_missing(spec, "revisionHistoryLimit", 10)
    strategy = spec.setdefault("updateStrategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        if strategy.get("rollingUpdate") is None:
            strategy["rollingUpdate"] = {}
        _set_missing(strategy["rollingUpdate"], "maxUnavailable", 1)
        _set_missing(strategy["rollingUpdate"], "maxSurge", 0)


def replication_controller(obj: Object) -> None:
    spec = _spec(obj)
    _set_missing(spec, "replicas", 1)
    labels = spec["template"]["metadata"].get("labels")
    if labels:
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("labels"):
            metadata["labels"] = dict(labels)


def job(obj: Object) -> None:
    spec = _spec(obj)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
        spec["parallelism"] = 1
    _set_missing(spec, "parallelism", 1)
    per_index = spec.get("backoffLimitPerIndex") is not None
    _set_missing(spec, "backoffLimit", MAX_INT32 if per_index else 6)
    if not spec.get("completionMode"):
        spec["completionMode"] = "NonIndexed"
    _set_missing(spec, "suspend", False)
    _set_missing(spec, "manualSelector", False)
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


def cron_job(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("concurrencyPolicy"):
        spec["concurrencyPolicy"] = "Allow"
    _set_missing(spec, "suspend", False)
    _set_missing(spec, "successfulJobsHistoryLimit", 3)
    _set_missing(spec, "failedJobsHistoryLimit", 1)
    template = spec.setdefault("jobTemplate", {})
    template.setdefault("metadata", {})
    default_pod_template(template.setdefault("spec", {}).setdefault("template", {}))
