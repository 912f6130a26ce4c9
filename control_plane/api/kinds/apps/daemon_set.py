"""Daemon sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import (
    Errors,
    is_empty_selector,
    labels_match,
    not_negative,
    validate_selector,
)
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.kinds.workloads import (
    collisions_only_grow,
    counts_not_negative,
    default_template,
    int_or_percent,
    is_zero,
    not_over_hundred,
    selector_immutable,
    set_missing,
    template_labels,
    validate_owned_template,
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

_POSITIVE = re.compile(r"0*[1-9][0-9]{0,17}")


TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"


def _prepare_create(obj: Object) -> None:
    """The count of templates, which once was a field, begins at 1 or where the client says."""
    given = meta.annotations(obj).get(TEMPLATE_GENERATION, "")
    _set_template_generation(obj, given if _POSITIVE.fullmatch(given) else "1")


def _prepare_update(new: Object, old: Object) -> None:
    count = meta.annotations(old).get(TEMPLATE_GENERATION, "1")
    if meta.spec(new).get("template") != meta.spec(old).get("template") and _POSITIVE.fullmatch(count):
        count = str(int(count) + 1)
    _set_template_generation(new, count)


def _set_template_generation(obj: Object, count: str) -> None:
    obj["metadata"]["annotations"] = {**meta.annotations(obj), TEMPLATE_GENERATION: count}


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
    _selector(spec.get("selector"), template_labels(spec), errs)
    validate_owned_template(spec, "DaemonSet", errs)
    not_negative(spec.get("minReadySeconds"), "spec.minReadySeconds", errs)
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "RollingUpdate":
        _rolling(strategy.get("rollingUpdate") or {}, "spec.updateStrategy.rollingUpdate", errs)
    elif strategy.get("type") != "OnDelete":
        errs.append(not_supported("spec.updateStrategy", strategy, ("RollingUpdate", "OnDelete")))
    not_negative(spec.get("revisionHistoryLimit"), "spec.revisionHistoryLimit", errs)
    return errs


def _selector(selector: Mapping[str, Any] | None, labels: Mapping[str, str], errs: Errors) -> None:
    before = len(errs)
    validate_selector(selector, "spec.selector", errs)
    if is_empty_selector(selector):
        errs.append(invalid("spec.selector", selector, "empty selector is invalid for daemonset"))
    elif len(errs) == before:
        labels_match(selector, labels, errs)


def _rolling(rolling: Mapping[str, Any], path: str, errs: Errors) -> None:
    unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    both = (("maxUnavailable", unavailable), ("maxSurge", surge))
    for field, value in both:
        int_or_percent(value, f"{path}.{field}", errs)
    for field, value in both:
        not_over_hundred(value, f"{path}.{field}", errs)
    if is_zero(unavailable) and is_zero(surge):
        errs.append(required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0"))
    elif not is_zero(unavailable) and not is_zero(surge):
        errs.append(invalid(f"{path}.maxSurge", surge, "may not be set when maxUnavailable is non-zero"))


_COUNTS = (
    "currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady", "observedGeneration",
    "updatedNumberScheduled", "numberAvailable", "numberUnavailable", "collisionCount",
)  # fmt: skip


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    counts_not_negative(new.get("status") or {}, _COUNTS, errs)
    collisions_only_grow(new, old, errs)
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
        validate_status_update=_validate_status,
        status=Status(
            {
                "currentNumberScheduled": 0,
                "desiredNumberScheduled": 0,
                "numberMisscheduled": 0,
                "numberReady": 0,
            }
        ),
        generation=True,
        prepare_create=_prepare_create,
        prepare_update=_prepare_update,
        printer=Printer(_COLUMNS, _row),
    ),
}
