"""CSI drivers."""

from __future__ import annotations

from datetime import datetime

from rayplane.control_plane.api.kinds.rules import (
    NO_PREPARATION,
    NO_SCALE,
    NO_STATUS,
    NO_UPDATE_RULES,
    NO_VALIDATION,
    Rules,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, UNSET, Cell, Column, Printer, age
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, name


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    for field, value in (
        ("attachRequired", True),
        ("fsGroupPolicy", "ReadWriteOnceWithFSType"),
        ("podInfoOnMount", False),
        ("requiresRepublish", False),
        ("seLinuxMount", False),
        ("storageCapacity", False),
    ):
        if spec.get(field) is None:
            spec[field] = value
    if not spec.get("volumeLifecycleModes"):
        spec["volumeLifecycleModes"] = ["Persistent"]


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    attach = spec.get("attachRequired")
    return [
        name(obj),
        True if attach is None else attach,
        bool(spec.get("podInfoOnMount")),
        bool(spec.get("storageCapacity")),
        ",".join(one.get("audience") or "" for one in spec.get("tokenRequests") or ()) or UNSET,
        bool(spec.get("requiresRepublish")),
        ",".join(spec.get("volumeLifecycleModes") or ()) or NONE,
        age(obj, now),
    ]


_COLUMNS = (
    NAME, Column("AttachRequired", "boolean"), Column("PodInfoOnMount", "boolean"),
    Column("StorageCapacity", "boolean"), Column("TokenRequests"),
    Column("RequiresRepublish", "boolean"), Column("Modes"), AGE,
)  # fmt: skip


RULES = {
    "CSIDriver": Rules(
        name=names.subdomain_errors,
        defaults=_default,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
