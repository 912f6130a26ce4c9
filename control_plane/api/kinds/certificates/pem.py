"""Certificates and requests for them as objects carry them: PEM, in base64 where a field holds bytes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

_BLOCK: Final = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{1,64})-----[ \t]*\r?\n"
    rb"((?:[!-9;-~]{1,64}:[^\n]{0,256}\n){0,8})([A-Za-z0-9+/=\s]*)-----END \1-----"
)
_BYTES_MAX = 1 << 20
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


class Block(NamedTuple):
    """One block: what it says it is, whether it has headers, and its bytes, None where they are not base64."""

    kind: str
    has_headers: bool
    der: bytes | None


def blocks(data: bytes) -> Iterator[Block]:
    for found in _BLOCK.finditer(data[:_BYTES_MAX]):
        try:
            der = base64.b64decode(b"".join(found[3].split()), validate=True)
        except binascii.Error:
            continue
        yield Block(found[1].decode(), bool(found[2]), der)


def decoded(text: str) -> bytes:
    """The bytes of a field that holds some; none where it is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def certificate_of(der: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(der)
    except _UNREADABLE:
        return None


def request_problem(text: str) -> str:
    """What is wrong with a request for a certificate; empty for nothing."""
    first = next(blocks(decoded(text)), None)
    if first is None or first.der is None or first.kind != "CERTIFICATE REQUEST":
        return "PEM block type must be CERTIFICATE REQUEST"
    try:
        request = x509.load_der_x509_csr(first.der)
        key = request.public_key()
        if request.is_signature_valid:
            return ""
    except _UNREADABLE:
        return "x509: malformed certificate request"
    return next((text for kind, text in _SIGNATURES if isinstance(key, kind)), "x509: cannot verify signature")


_SIGNATURES: Final[tuple[tuple[type, str], ...]] = (
    (rsa.RSAPublicKey, "crypto/rsa: verification error"),
    (ec.EllipticCurvePublicKey, "x509: ECDSA verification failure"),
    (ed25519.Ed25519PublicKey, "x509: Ed25519 verification failure"),
)


def certificate_problem(text: str) -> str:
    """What is wrong with certificates that were issued; empty for nothing, and for none."""
    data = decoded(text)
    if not data:
        return ""
    count = 0
    for block in blocks(data):
        if block.kind != "CERTIFICATE":
            return f'only CERTIFICATE PEM blocks are allowed, found "{block.kind}"'
        if block.has_headers:
            return "no PEM block headers are permitted"
        if block.der is None or certificate_of(block.der) is None:
            return "x509: malformed certificate"
        count += 1
    return "" if count else "must contain at least one CERTIFICATE PEM block"
