"""Certificate signing requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.certificates.pem import certificate_problem, request_problem
from rayplane.control_plane.api.kinds.metadata import Errors, one_of, unique
from rayplane.control_plane.api.kinds.references import signer_name
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, Absent, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.durations import human_duration

_DECISIONS = frozenset({"Approved", "Denied"})
_LASTING = _DECISIONS | {"Failed"}
_USAGES = (
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    problem = request_problem(spec.get("request") or "")
    if problem:
        errs.append(invalid("spec.request", spec.get("request") or "", problem))
    usages = spec.get("usages") or ()
    if not usages:
        errs.append(required("spec.usages"))
    for index, usage in enumerate(usages):
        one_of(usage, _USAGES, f"spec.usages[{index}]", errs)
    unique(usages, "spec.usages", errs)
    signer = spec.get("signerName") or ""
    if signer == "kubernetes.io/legacy-unknown":
        errs.append(invalid("spec.signerName", signer, "the legacy signerName is not allowed via this API version"))
    else:
        signer_name(signer, "spec.signerName", errs)
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        text = "may not specify a duration less than 600 seconds (10 minutes)"
        errs.append(invalid("spec.expirationSeconds", seconds, text))
    return errs


# --- conditions and the certificate -------------------------------------------------------------


def _conditions(obj: Object, old: Object, errs: Errors) -> None:
    at, seen = "status.conditions", set[str]()
    for index, condition in enumerate((obj.get("status") or {}).get("conditions") or ()):
        kind, state = condition.get("type") or "", condition.get("status") or ""
        if not kind:
            errs.append(required(f"{at}[{index}].type"))
        if not state:
            errs.append(required(f"{at}[{index}].status"))
        else:
            supported = ("True",) if kind in _LASTING else ("False", "True", "Unknown")
            one_of(state, supported, f"{at}[{index}].status", errs)
        if kind in _DECISIONS and seen & (_DECISIONS - {kind}):
            errs.append(invalid(at, kind, "Approved and Denied conditions are mutually exclusive"))
        if kind in seen:
            errs.append(duplicate(f"{at}[{index}].type", kind))
        seen.add(kind)
    for kind in ("Approved", "Denied", "Failed"):
        if len(_of_type(obj, kind)) < len(_of_type(old, kind)):
            errs.append(forbidden(at, f'updates may not remove a condition of type "{kind}"'))


def _of_type(obj: Object, kind: str) -> list[Any]:
    return [one for one in (obj.get("status") or {}).get("conditions") or () if one.get("type") == kind]


def _validate_approval(new: Object, old: Object) -> Errors:
    errs: Errors = []
    _conditions(new, old, errs)
    return errs


def _validate_status(new: Object, old: Object) -> Errors:
    """Who issues certificates does not say who gets them."""
    errs: Errors = []
    _conditions(new, old, errs)
    certificate, had = ((one.get("status") or {}).get("certificate") or "" for one in (new, old))
    problem = certificate_problem(certificate) if certificate != had else ""
    if problem:
        errs.append(invalid("status.certificate", "<certificate data>", problem))
    for kind in ("Approved", "Denied"):
        now, then = _of_type(new, kind), _of_type(old, kind)
        if len(now) > len(then):
            errs.append(forbidden("status.conditions", f'updates may not add a condition of type "{kind}"'))
        elif len(now) == len(then) and now != then:
            errs.append(forbidden("status.conditions", f'updates may not modify a condition of type "{kind}"'))
    if had and certificate != had:
        errs.append(forbidden("status.certificate", "updates may not modify existing certificate content"))
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    given = [one.get("type") for one in status.get("conditions") or ()]
    words = [one for one in ("Denied", "Approved") if one in given][:1] or ["Pending"]
    if "Failed" in given:
        words.append("Failed")
    if status.get("certificate"):
        words.append("Issued")
    seconds = spec.get("expirationSeconds")
    return [
        name(obj),
        age(obj, now),
        spec.get("signerName") or NONE,
        spec.get("username") or "",
        NONE if seconds is None else human_duration(seconds),
        ",".join(words),
    ]


_COLUMNS = (
    NAME, AGE, Column("SignerName"), Column("Requestor"), Column("RequestedDuration"),
    Column("Condition"),
)  # fmt: skip


def _prepare_update(new: Object, old: Object) -> None:
    """Who asked for what never changes."""
    new["spec"] = old.get("spec") or {}


RULES = {
    "CertificateSigningRequest": replace(
        AS_WRITTEN,
        name=names.path_segment_errors,
        defaults=NO_DEFAULTS,
        prepare_update=_prepare_update,
        validate=_validate,
        validate_update=Absent("its spec is kept as it was made"),
        revalidates=False,
        validate_status_update=_validate_status,
        validate_parts={"approval": _validate_approval},
        status=Status({}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=("metadata.name", "spec.signerName"),
    ),
}
