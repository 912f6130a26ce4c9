"""Cluster trust bundles."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from cryptography import x509

from rayplane.control_plane.api.errors import invalid, too_long
from rayplane.control_plane.api.kinds.certificates.pem import Block, blocks, certificate_of
from rayplane.control_plane.api.kinds.metadata import Errors, immutable
from rayplane.control_plane.api.kinds.references import signer_name
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME, NONE, Cell, Column, Printer
from rayplane.control_plane.api.meta import Object, name

_BUNDLE_BYTES_MAX = 1024 * 1024


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
    if signer:
        signer_name(signer, "spec.signerName", errs)
    return errs


def _anchors(text: str, path: str) -> Errors:
    """Certificates of authorities, each once; nothing else is trusted."""
    if len(text.encode()) > _BUNDLE_BYTES_MAX:
        return [too_long(path, _BUNDLE_BYTES_MAX)]
    problems: list[str] = []
    indexes: dict[bytes, list[int]] = {}
    for index, block in enumerate(blocks(text.encode())):
        problem = _anchor_problem(block)
        if problem:
            problems.append(f"entry {index} {problem}")
        elif block.der is not None:
            indexes.setdefault(block.der, []).append(index)
    if not problems:
        problems = [
            f"duplicate trust anchor (indices [{' '.join(map(str, one))}])" for one in indexes.values() if len(one) > 1
        ]
        if not indexes:
            problems = ["at least one trust anchor must be provided"]
    return [invalid(path, "<value omitted>", problem) for problem in problems]


def _anchor_problem(block: Block) -> str:
    if block.kind != "CERTIFICATE":
        return f"has bad block type: {block.kind}"
    if block.has_headers:
        return "has PEM block headers"
    certificate = certificate_of(block.der or b"")
    if certificate is None:
        return "does not parse as X.509"
    try:
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        is_authority = False
    return "" if is_authority else "does not have the CA bit set"


def _validate_create(obj: Object) -> Errors:
    return [*_validate(obj), *_anchors((obj.get("spec") or {}).get("trustBundle") or "", "spec.trustBundle")]


def _validate_update(new: Object, old: Object) -> Errors:
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    errs = _validate(new) if spec.get("trustBundle") == before.get("trustBundle") else _validate_create(new)
    immutable(spec.get("signerName"), before.get("signerName"), "spec.signerName", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), (obj.get("spec") or {}).get("signerName") or NONE]


RULES = {
    "ClusterTrustBundle": replace(
        AS_WRITTEN,
        name=names.path_segment_errors,
        defaults=NO_DEFAULTS,
        validate=_validate_create,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("SignerName")), _row),
        fields=("metadata.name", "spec.signerName"),
    ),
}
