"""Events of `events.k8s.io`: the same objects as those of the core group, in another form."""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api.kinds.core.event import RULES as CORE
from rayplane.control_plane.api.kinds.rules import Absent
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS

_REGARDING = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
RULES = {
    "Event": replace(
        CORE["Event"],
        validate=Absent("it is checked in the form it is stored in, that of the core group"),
        fields=(
            *METADATA_FIELDS,
            "reason",
            "type",
            *(f"regarding.{field}" for field in _REGARDING),
            "reportingController",
        ),
    ),
}
