"""Pod certificate requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from rayplane.control_plane.api.errors import invalid, invalid_without_value, not_supported, required, too_long
from rayplane.control_plane.api.kinds.certificates.pem import Leaf, decoded, key_of, leaf_of, stub_problem
from rayplane.control_plane.api.kinds.conditions import validate_conditions
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.pod_template.projections import validate_user_annotations
from rayplane.control_plane.api.kinds.references import is_kubernetes_signer, signer_name
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, get_condition, name, parse_time

_SECONDS_DEFAULT, _SECONDS_MIN, _SECONDS_MAX = 86_400, 3_600, 91 * 86_400
_OF_KUBERNETES_MAX = 86_400
_UID_BYTES_MAX = 128
_REQUEST_BYTES_MAX, _CHAIN_BYTES_MAX = 10 << 10, 100 << 10
_MARGIN = timedelta(minutes=10)
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
    most = _OF_KUBERNETES_MAX if is_kubernetes_signer(signer) else _SECONDS_MAX
    if not _SECONDS_MIN <= seconds <= most:
        errs.append(invalid("spec.maxExpirationSeconds", seconds, f"must be in the range [{_SECONDS_MIN}, {most}]"))
    validate_user_annotations(spec.get("unverifiedUserAnnotations") or {}, "spec.unverifiedUserAnnotations", errs)
    _key(spec.get("stubPKCS10Request") or "", "spec.stubPKCS10Request", errs)
    return errs


def _key(text: str, path: str, errs: Errors) -> None:
    """The pod's key, shown by a request that it has signed: who asks has it."""
    der = decoded(text)
    if not der:
        errs.append(required(path))
    elif len(der) > _REQUEST_BYTES_MAX:
        errs.append(too_long(path, _REQUEST_BYTES_MAX))
    elif problem := stub_problem(der):
        errs.append(invalid_without_value(path, problem))


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
    elif any(condition["type"] == "Issued" for condition in conditions):
        _validate_issued(status, new.get("spec") or {}, errs)
    elif others and conditions:
        text = "non-condition status fields must be empty when denying or failing the PodCertificateRequest"
        errs.append(invalid("status", status, text))
    elif not conditions and status != before:
        text = 'status is immutable unless transitioning to "Issued", "Denied", or "Failed"'
        errs.append(invalid("status", status, text))
    return errs


def _validate_issued(status: Mapping[str, Any], spec: Mapping[str, Any], errs: Errors) -> None:
    """The certificates are for the key that was shown, and the status says of them what they say."""
    at = "status.certificateChain"
    text = status.get("certificateChain") or ""
    if len(text.encode()) > _CHAIN_BYTES_MAX:
        errs.append(too_long(at, _CHAIN_BYTES_MAX))
        return
    leaf = leaf_of(text)
    if leaf is None:
        text = "issued certificate chain must consist of one or more valid CERTIFICATE PEM blocks"
        errs.append(invalid_without_value(at, text))
        return
    if leaf.key != key_of(decoded(spec.get("stubPKCS10Request") or "")):
        errs.append(invalid_without_value(at, "leaf certificate was not issued to the requested public key"))
        return
    missing = [field for field in ("notBefore", "notAfter", "beginRefreshAt") if not status.get(field)]
    if missing:
        text = "must be present and consistent with the issued certificate"
        errs += [required(f"status.{field}", text) for field in missing]
        return
    _validate_times(status, leaf, spec.get("maxExpirationSeconds") or 0, errs)


def _validate_times(status: Mapping[str, Any], leaf: Leaf, longest_s: int, errs: Errors) -> None:
    first, last, again = (parse_time(status[field]) for field in ("notBefore", "notAfter", "beginRefreshAt"))
    for field, said, meant in (("NotBefore", first, leaf.not_before), ("NotAfter", last, leaf.not_after)):
        if said != meant:
            path = f"status.{field[0].lower()}{field[1:]}"
            text = f"must be set to the {field} time encoded in the leaf certificate"
            errs.append(invalid(path, status[path.partition(".")[2]], text))
    seconds = (leaf.not_after - leaf.not_before).total_seconds()
    if seconds < _SECONDS_MIN:
        errs.append(
            invalid("status.certificateChain", f"{seconds:.0f}s", "leaf certificate lifetime must be >= 1 hour")
        )
    if seconds > longest_s:
        text = f"leaf certificate lifetime must be <= spec.maxExpirationSeconds ({longest_s})"
        errs.append(invalid("status.certificateChain", f"{seconds:.0f}s", text))
    for wrong, text in (
        (again - first < _MARGIN, "must be at least 10 minutes after status.notBefore"),
        (last - again < _MARGIN, "must be at least 10 minutes before status.notAfter"),
    ):
        if wrong:
            errs.append(invalid("status.beginRefreshAt", status["beginRefreshAt"], text))


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
