"""Pod templates as objects of their own."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.kinds.metadata import Errors
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod_template
from rayplane.control_plane.api.kinds.pod_template.validation import validate_template
from rayplane.control_plane.api.kinds.pod_template.warnings import warn_of_template
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer, containers_and_images, labels_text
from rayplane.control_plane.api.meta import Object, name


def _default(obj: Object) -> None:
    default_pod_template(obj.setdefault("template", {}))


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    validate_template(obj.get("template"), "template", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    template = obj.get("template") or {}
    containers, images = containers_and_images(template.get("spec") or {})
    return [
        name(obj),
        containers,
        images,
        labels_text((template.get("metadata") or {}).get("labels")),
    ]


_COLUMNS = (NAME, Column("Containers"), Column("Images"), Column("Pod Labels"))  # fmt: skip


RULES = {
    "PodTemplate": replace(
        AS_WRITTEN,
        warnings=warn_of_template("template", name=False),
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
