"""CSI drivers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import duplicate, invalid, not_supported
from rayplane.control_plane.api.kinds.metadata import Errors, immutable, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, UNSET, Cell, Column, Printer, age
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


_FS_GROUP_POLICIES = ("File", "None", "ReadWriteOnceWithFSType")
_LIFECYCLES = ("Persistent", "Ephemeral")
_TOKEN_SECONDS_MIN, _TOKEN_SECONDS_MAX = 600, 1 << 32


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    if spec.get("fsGroupPolicy") is not None:
        one_of(spec["fsGroupPolicy"], _FS_GROUP_POLICIES, "spec.fsGroupPolicy", errs)
    _tokens(spec.get("tokenRequests") or (), errs)
    for mode in spec.get("volumeLifecycleModes") or ():
        if mode not in _LIFECYCLES:
            errs.append(not_supported("spec.volumeLifecycleModes", mode, _LIFECYCLES))
    period = spec.get("nodeAllocatableUpdatePeriodSeconds")
    if period is not None and period < 10:
        text = "must be greater than or equal to 10 seconds"
        errs.append(invalid("spec.nodeAllocatableUpdatePeriodSeconds", period, text))
    return errs


def _tokens(requests: Sequence[Mapping[str, Any]], errs: Errors) -> None:
    seen: set[str] = set()
    for index, request in enumerate(requests):
        at, audience = f"spec.tokenRequests[{index}]", request.get("audience") or ""
        if audience in seen:
            errs.append(duplicate(f"{at}.audience", audience))
            continue
        seen.add(audience)
        seconds = request.get("expirationSeconds")
        if seconds is not None and seconds < _TOKEN_SECONDS_MIN:
            text = "may not specify a duration less than 10 minutes"
            errs.append(invalid(f"{at}.expirationSeconds", seconds, text))
        if seconds is not None and seconds > _TOKEN_SECONDS_MAX:
            text = "may not specify a duration larger than 2^32 seconds"
            errs.append(invalid(f"{at}.expirationSeconds", seconds, text))


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    immutable(spec.get("attachRequired"), before.get("attachRequired"), "spec.attachedRequired", errs)
    now, then = spec.get("volumeLifecycleModes"), before.get("volumeLifecycleModes")
    immutable(now, then, "spec.volumeLifecycleModes", errs)
    return errs


def _prepare_create(obj: Object) -> None:
    """Only changes of it are counted."""
    obj["metadata"].pop("generation", None)


RULES = {
    "CSIDriver": replace(
        AS_WRITTEN,
        defaults=_default,
        prepare_create=_prepare_create,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
