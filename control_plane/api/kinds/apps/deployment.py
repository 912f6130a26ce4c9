"""Deployments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import forbidden, invalid, not_supported
from rayplane.control_plane.api.kinds.metadata import Errors, not_negative
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, CLIENTS_METADATA, WORKLOAD_PATHS, Status, content_differs
from rayplane.control_plane.api.kinds.workloads import (
    collisions_only_grow,
    counts_at_most_replicas,
    counts_not_negative,
    default_template,
    int_or_percent,
    is_zero,
    not_over_hundred,
    selector_and_template,
    selector_immutable,
    set_missing,
)
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
from rayplane.control_plane.api.meta import Object, name


def _default(obj: Object) -> None:
    spec = default_template(obj)
    set_missing(spec, "replicas", 1)
    set_missing(spec, "revisionHistoryLimit", 10)
    set_missing(spec, "progressDeadlineSeconds", 600)
    strategy = spec.setdefault("strategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        if strategy.get("rollingUpdate") is None:
            strategy["rollingUpdate"] = {}
        set_missing(strategy["rollingUpdate"], "maxUnavailable", "25%")
        set_missing(strategy["rollingUpdate"], "maxSurge", "25%")


def _rolling(rolling: Mapping[str, Any], path: str, errs: Errors) -> None:
    unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    int_or_percent(unavailable, f"{path}.maxUnavailable", errs)
    int_or_percent(surge, f"{path}.maxSurge", errs)
    if is_zero(unavailable) and is_zero(surge):
        text = "may not be 0 when `maxSurge` is 0"
        errs.append(invalid(f"{path}.maxUnavailable", unavailable, text))
    not_over_hundred(unavailable, f"{path}.maxUnavailable", errs)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = meta.spec(obj)
    not_negative(spec.get("replicas"), "spec.replicas", errs)
    selector_and_template(spec, errs)
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        if strategy.get("rollingUpdate") is not None:
            text = "may not be specified when strategy `type` is 'Recreate'"
            errs.append(forbidden("spec.strategy.rollingUpdate", text))
    elif strategy.get("type") == "RollingUpdate":
        _rolling(strategy.get("rollingUpdate") or {}, "spec.strategy.rollingUpdate", errs)
    else:
        errs.append(not_supported("spec.strategy", strategy, ("Recreate", "RollingUpdate")))
    for field in ("minReadySeconds", "revisionHistoryLimit"):
        not_negative(spec.get(field), f"spec.{field}", errs)
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None:
        not_negative(deadline, "spec.progressDeadlineSeconds", errs)
        if deadline <= (spec.get("minReadySeconds") or 0):
            text = "must be greater than minReadySeconds"
            errs.append(invalid("spec.progressDeadlineSeconds", deadline, text))
    return errs


_SOME = ("updatedReplicas", "readyReplicas", "availableReplicas")
_COUNTS = ("observedGeneration", "replicas", *_SOME, "unavailableReplicas", "terminatingReplicas", "collisionCount")


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    status = new.get("status") or {}
    counts_not_negative(status, _COUNTS, errs)
    counts_at_most_replicas(status, _SOME, errs)
    collisions_only_grow(new, old, errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = spec_and_status(obj)
    return [
        name(obj),
        f"{status.get('readyReplicas') or 0}/{spec.get('replicas') or 0}",
        status.get("updatedReplicas") or 0,
        status.get("availableReplicas") or 0,
        age(obj, now),
        *containers_and_images(template_spec(obj)),
        selector_text(spec.get("selector")),
    ]


_COLUMNS = (
    NAME, Column("Ready"), Column("Up-to-date"), Column("Available"), AGE, *WIDE_SELECTOR,
)  # fmt: skip


def _counts(new: Object, old: Object) -> bool:
    """Its annotations are handed down to ReplicaSets: the controller has to see to them as well."""
    return content_differs(new, old) or meta.annotations(new) != meta.annotations(old)


RULES = {
    "Deployment": replace(
        AS_WRITTEN,
        warnings=warn_of_template("spec", "template"),
        defaults=_default,
        validate=_validate,
        validate_update=selector_immutable,
        validate_status_update=_validate_status,
        status=Status({}, metadata=CLIENTS_METADATA - {"labels"}),
        generation=True,
        counts=_counts,
        printer=Printer(_COLUMNS, _row),
        scale=WORKLOAD_PATHS,
    ),
}
