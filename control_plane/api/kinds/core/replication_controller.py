"""Replication controllers."""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import required
from rayplane.control_plane.api.kinds.apps.replica_set import replica_row
from rayplane.control_plane.api.kinds.metadata import Errors, labels_match, not_negative
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_UPDATE_RULES, WORKLOAD_PATHS, Status
from rayplane.control_plane.api.kinds.workloads import (
    default_template,
    set_missing,
    template_labels,
    validate_owned_template,
    validate_replicas_status,
)
from rayplane.control_plane.api.machinery.columns import AGE, COUNTS, NAME, WIDE_SELECTOR, Printer
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object


def _default(obj: Object) -> None:
    spec = default_template(obj)
    set_missing(spec, "replicas", 1)
    labels = spec["template"]["metadata"].get("labels")
    if labels:
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("labels"):
            metadata["labels"] = dict(labels)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = meta.spec(obj)
    selector = spec.get("selector")
    not_negative(spec.get("minReadySeconds"), "spec.minReadySeconds", errs)
    if not selector:
        errs.append(required("spec.selector"))
    not_negative(spec.get("replicas"), "spec.replicas", errs)
    if selector:
        labels_match({"matchLabels": selector}, template_labels(spec), errs)
    validate_owned_template(spec, "ReplicationController", errs)
    return errs


RULES = {
    "ReplicationController": replace(
        AS_WRITTEN,
        warnings=warn_of_template("spec", "template"),
        defaults=_default,
        defaults_in_status=True,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        validate_status_update=validate_replicas_status,
        status=Status({"replicas": 0}),
        generation=True,
        printer=Printer((NAME, *COUNTS, AGE, *WIDE_SELECTOR), replica_row),
        fields=(*METADATA_FIELDS, "status.replicas"),
        scale=WORKLOAD_PATHS,
        orphans=True,
    ),
}
