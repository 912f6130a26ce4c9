"""Cluster trust bundles."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import invalid
from rayplane.control_plane.api.kinds.metadata import Errors, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME, NONE, Cell, Column, Printer
from rayplane.control_plane.api.meta import Object, name


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec, own = obj.get("spec") or {}, name(obj)
    signer = spec.get("signerName") or ""
    prefix = signer.replace("/", ":") + ":"
    if signer and not own.startswith(prefix):
        text = f'ClusterTrustBundle for signerName {signer} must be named with prefix "{prefix}"'
        errs.append(invalid("metadata.name", own, text))
    elif not signer and ":" in own:
        text = "ClusterTrustBundle without signer name must not have ':' in its name"
        errs.append(invalid("metadata.name", own, text))
    if "-----BEGIN CERTIFICATE-----" not in (spec.get("trustBundle") or ""):
        errs.append(invalid("spec.trustBundle", "<value omitted>", "at least one trust anchor must be provided"))
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    immutable(spec.get("signerName"), before.get("signerName"), "spec.signerName", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), (obj.get("spec") or {}).get("signerName") or NONE]


RULES = {
    "ClusterTrustBundle": replace(
        AS_WRITTEN,
        name=names.path_segment_errors,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("SignerName")), _row),
        fields=("metadata.name", "spec.signerName"),
    ),
}
