"""Daemon sets."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, not_negative, one_of
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.kinds.workloads import (
    default_template,
    int_or_percent,
    is_zero,
    selector_and_template,
    selector_immutable,
    set_missing,
)
from rayplane.control_plane.api.machinery.columns import (
    AGE,
    COUNTS,
    NAME,
    WIDE_SELECTOR,
    Cell,
    Column,
    Printer,
    age,
    containers_and_images,
    labels_text,
    selector_text,
    spec_and_status,
    template_spec,
)
from rayplane.control_plane.api.meta import Object, name


def _default(obj: Object) -> None:
    spec = default_template(obj)
    set_missing(spec, "revisionHistoryLimit", 10)
    strategy = spec.setdefault("updateStrategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        if strategy.get("rollingUpdate") is None:
            strategy["rollingUpdate"] = {}
        set_missing(strategy["rollingUpdate"], "maxUnavailable", 1)
        set_missing(strategy["rollingUpdate"], "maxSurge", 0)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = meta.spec(obj)
    selector_and_template(spec, "daemonset", errs)
    strategy = spec.get("updateStrategy") or {}
    one_of(strategy.get("type"), ("OnDelete", "RollingUpdate"), "spec.updateStrategy.type", errs)
    if strategy.get("type") == "RollingUpdate":
        rolling, at = strategy.get("rollingUpdate") or {}, "spec.updateStrategy.rollingUpdate"
        unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
        int_or_percent(unavailable, f"{at}.maxUnavailable", errs)
        int_or_percent(surge, f"{at}.maxSurge", errs)
        if is_zero(unavailable) and is_zero(surge):
            text = "cannot be 0 when maxSurge is 0"
            errs.append(required(f"{at}.maxUnavailable", text))
        elif not is_zero(unavailable) and not is_zero(surge):
            text = "may not be set when maxUnavailable is non-zero"
            errs.append(invalid(f"{at}.maxSurge", surge, text))
    for field in ("minReadySeconds", "revisionHistoryLimit"):
        not_negative(spec.get(field), f"spec.{field}", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = spec_and_status(obj)
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


_COLUMNS = (
    NAME, *COUNTS, Column("Up-to-date", "integer"), Column("Available", "integer"),
    Column("Node Selector"), AGE, *WIDE_SELECTOR,
)  # fmt: skip


RULES = {
    "DaemonSet": replace(
        AS_WRITTEN,
        warnings=warn_of_template("spec", "template"),
        defaults=_default,
        validate=_validate,
        validate_update=selector_immutable,
        status=Status(
            {
                "currentNumberScheduled": 0,
                "desiredNumberScheduled": 0,
                "numberMisscheduled": 0,
                "numberReady": 0,
            }
        ),
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
