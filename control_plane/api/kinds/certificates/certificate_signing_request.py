"""Certificate signing requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import duplicate, invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, Absent, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.durations import human_duration

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
    for field in ("request", "signerName"):
        if not spec.get(field):
            errs.append(required(f"spec.{field}"))
    usages = spec.get("usages") or ()
    if not usages:
        errs.append(required("spec.usages", "usages must contain at least one value"))
    for index, usage in enumerate(usages):
        one_of(usage, _USAGES, f"spec.usages[{index}]", errs)
        if usage in usages[:index]:
            errs.append(duplicate(f"spec.usages[{index}]", usage))
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        text = "may not specify a duration less than 600 seconds (10 minutes)"
        errs.append(invalid("spec.expirationSeconds", seconds, text))
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
        status=Status({}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=("metadata.name", "spec.signerName"),
    ),
}
