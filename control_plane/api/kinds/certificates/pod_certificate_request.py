"""Pod certificate requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, get_condition, name

_SECONDS_DEFAULT, _SECONDS_MIN, _SECONDS_MAX = 86_400, 3_600, 91 * 86_400
_REQUIRED = ("signerName", "podName", "podUID", "serviceAccountName", "serviceAccountUID", "nodeName", "nodeUID")


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if spec.get("maxExpirationSeconds") is None:
        spec["maxExpirationSeconds"] = _SECONDS_DEFAULT


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    errs += [required(f"spec.{field}") for field in _REQUIRED if not spec.get(field)]
    seconds = spec.get("maxExpirationSeconds")
    if seconds is not None and not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        text = f"must be in the range [{_SECONDS_MIN}, {_SECONDS_MAX}]"
        errs.append(invalid("spec.maxExpirationSeconds", seconds, text))
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("spec"), old.get("spec"), "spec", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    fields = ("podName", "serviceAccountName", "nodeName", "signerName")
    state = next((one for one in _STATES if (get_condition(obj, one) or {}).get("status") == "True"), "Pending")
    return [name(obj), *(spec.get(field) or "" for field in fields), state]


_STATES = ("Issued", "Denied", "Failed")
_COLUMNS = (
    NAME, Column("PodName"), Column("ServiceAccountName"), Column("NodeName"), Column("SignerName"), Column("State"),
)  # fmt: skip


RULES = {
    "PodCertificateRequest": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        status=Status({}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=(*METADATA_FIELDS, "spec.signerName", "spec.podName", "spec.nodeName"),
    ),
}
