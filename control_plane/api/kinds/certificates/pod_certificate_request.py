"""Pod certificate requests."""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object

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


RULES = {
    "PodCertificateRequest": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        status=Status({}),
        generation=False,
        printer=NAME_AND_CREATED_AT,
        fields=(*METADATA_FIELDS, "spec.signerName", "spec.podName", "spec.nodeName"),
    ),
}
