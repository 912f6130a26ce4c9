"""Replica sets."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.metadata import Errors, not_negative
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, WORKLOAD_PATHS, Status
from rayplane.control_plane.api.kinds.workloads import (
    default_template,
    selector_and_template,
    selector_immutable,
    set_missing,
    validate_replicas_status,
)
from rayplane.control_plane.api.machinery.columns import (
    AGE,
    COUNTS,
    NAME,
    WIDE_SELECTOR,
    Cell,
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
    set_missing(default_template(obj), "replicas", 1)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = meta.spec(obj)
    for field in ("replicas", "minReadySeconds"):
        not_negative(spec.get(field), f"spec.{field}", errs)
    selector_and_template(spec, errs)
    return errs


def replica_row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = spec_and_status(obj)
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


RULES = {
    "ReplicaSet": replace(
        AS_WRITTEN,
        warnings=warn_of_template("spec", "template"),
        defaults=_default,
        validate=_validate,
        validate_update=selector_immutable,
        validate_status_update=validate_replicas_status,
        status=Status({"replicas": 0}),
        generation=True,
        printer=Printer((NAME, *COUNTS, AGE, *WIDE_SELECTOR), replica_row),
        scale=WORKLOAD_PATHS,
    ),
}
