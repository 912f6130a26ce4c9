"""Pod certificate requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import invalid, not_supported, too_long
from rayplane.control_plane.api.kinds.conditions import validate_conditions
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.references import signer_name
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, get_condition, name

_SECONDS_DEFAULT, _SECONDS_MIN, _SECONDS_MAX = 86_400, 3_600, 91 * 86_400
_OF_KUBERNETES_MAX = 86_400
_UID_BYTES_MAX = 128
_ENDS = ("Issued", "Denied", "Failed")


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if spec.get("maxExpirationSeconds") is None:
        spec["maxExpirationSeconds"] = _SECONDS_DEFAULT


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    signer = spec.get("signerName") or ""
    signer_name(signer, "spec.signerName", errs)
    for field in ("pod", "serviceAccount", "node"):
        own, uid = spec.get(f"{field}Name") or "", spec.get(f"{field}UID") or ""
        checked(names.subdomain_errors(own), own, f"spec.{field}Name", errs)
        if not uid:
            errs.append(invalid(f"spec.{field}UID", uid, "must not be empty"))
        if len(uid.encode()) > _UID_BYTES_MAX:
            errs.append(too_long(f"spec.{field}UID", _UID_BYTES_MAX))
    seconds = spec.get("maxExpirationSeconds") or 0
    domain = signer.partition("/")[0]
    most = _OF_KUBERNETES_MAX if domain == "kubernetes.io" or domain.endswith(".kubernetes.io") else _SECONDS_MAX
    if not _SECONDS_MIN <= seconds <= most:
        errs.append(invalid("spec.maxExpirationSeconds", seconds, f"must be in the range [{_SECONDS_MIN}, {most}]"))
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("spec"), old.get("spec"), "spec", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    fields = ("podName", "serviceAccountName", "nodeName", "signerName")
    state = next((one for one in _ENDS if (get_condition(obj, one) or {}).get("status") == "True"), "Pending")
    return [name(obj), *(spec.get(field) or "" for field in fields), state]


_COLUMNS = (
    NAME, Column("PodName"), Column("ServiceAccountName"), Column("NodeName"), Column("SignerName"), Column("State"),
)  # fmt: skip


def _validate_status(new: Object, old: Object) -> Errors:
    """One end at most; after it nothing changes any more."""
    errs: Errors = []
    status, before = new.get("status") or {}, old.get("status") or {}
    conditions = status.get("conditions") or []
    ends = 0
    for index, condition in enumerate(conditions):
        at, kind = f"status.conditions[{index}]", condition.get("type") or ""
        if kind not in _ENDS:
            errs.append(not_supported(f"{at}.type", kind, _ENDS))
            continue
        ends += 1
        if ends > 1:
            text = 'There may be at most one condition with type "Issued", "Denied", or "Failed"'
            errs.append(invalid(f"{at}.type", kind, text))
        if condition.get("status") != "True":
            errs.append(not_supported(f"{at}.status", condition.get("status") or "", ("True",)))
    validate_conditions(conditions, "status.conditions", errs)
    if errs:
        return errs
    others = {field for field, value in status.items() if value} - {"conditions"}
    if before.get("conditions"):
        if status != before:
            text = "immutable after PodCertificateRequest is issued, denied, or failed"
            errs.append(invalid("status", status, text))
    elif others and any(condition["type"] in ("Denied", "Failed") for condition in conditions):
        text = "non-condition status fields must be empty when denying or failing the PodCertificateRequest"
        errs.append(invalid("status", status, text))
    return errs


RULES = {
    "PodCertificateRequest": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        validate_status_update=_validate_status,
        status=Status({}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=(*METADATA_FIELDS, "spec.signerName", "spec.podName", "spec.nodeName"),
    ),
}
