"""The spec of a Job as its controller reads it. Source: API reference batch/v1 JobSpec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

JOBS = "jobs.batch"
CONTROLLER = "kubernetes.io/job-controller"
_BACKOFF_LIMIT = 6
_UNLIMITED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The wishes of a Job, with the values that stand where it says nothing."""

    parallelism: int
    completions: int | None
    """None: a queue of work, done when one pod has succeeded and all have ended."""
    indexed: bool
    suspended: bool
    backoff_limit: int
    backoff_limit_per_index: int | None
    max_failed_indexes: int | None
    deadline_s: int | None
    failure_rules: Sequence[Mapping[str, Any]] | None
    success_rules: Sequence[Mapping[str, Any]] | None
    replaces_failed_only: bool
    """Pods that are being deleted count as failed, and are replaced, only once they have ended."""
    restarts_in_place: bool

    @staticmethod
    def of(job: Object) -> JobSpec:
        spec = meta.spec(job)
        template = (spec.get("template") or {}).get("spec") or {}
        per_index, failure, success = (
            spec.get(field) for field in ("backoffLimitPerIndex", "podFailurePolicy", "successPolicy")
        )
        indexed = spec.get("completionMode") == "Indexed"
        return JobSpec(
            parallelism=_or(spec.get("parallelism"), 1),
            completions=spec.get("completions") or 0 if indexed else spec.get("completions"),
            indexed=indexed,
            suspended=bool(spec.get("suspend")),
            backoff_limit=_or(spec.get("backoffLimit"), _BACKOFF_LIMIT if per_index is None else _UNLIMITED),
            backoff_limit_per_index=per_index if indexed else None,
            max_failed_indexes=spec.get("maxFailedIndexes"),
            deadline_s=spec.get("activeDeadlineSeconds"),
            failure_rules=None if failure is None else failure.get("rules") or (),
            success_rules=None if success is None else success.get("rules") or (),
            replaces_failed_only=failure is not None or spec.get("podReplacementPolicy") == "Failed",
            restarts_in_place=template.get("restartPolicy") == "OnFailure",
        )


def manager_of(job: Object) -> str:
    """Who runs a Job (`managedBy`)."""
    return meta.spec(job).get("managedBy") or CONTROLLER


def _or(value: int | None, default: int) -> int:
    return default if value is None else int(value)
