"""Certificates and requests for them as objects carry them: PEM, in base64 where a field holds bytes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_BLOCK: Final = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{1,64})-----[ \t]*\r?\n"
    rb"((?:[!-9;-~]{1,64}:[^\n]{0,256}\n){0,8})([A-Za-z0-9+/=\s]*)-----END \1-----"
)
_BYTES_MAX = 1 << 20
_RSA_BITS: Final = (3072, 4096)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
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
    der = _request_block(text)
    if der is None:
        return "PEM block type must be CERTIFICATE REQUEST"
    request = _request_of(der)
    return "x509: malformed certificate request" if request is None else _signature_problem(request)


def request_in(text: str) -> x509.CertificateSigningRequest | None:
    """The request in a field, the one that every client sees there; None where it cannot be read."""
    der = _request_block(text)
    return _request_of(der) if der is not None else None


def _request_block(text: str) -> bytes | None:
    first = next(blocks(decoded(text)), None)
    return first.der if first is not None and first.kind == "CERTIFICATE REQUEST" else None


def stub_problem(der: bytes) -> str:
    """What is wrong with a request that only shows a key, and by its signature who has it; empty for nothing."""
    request = _request_of(der)
    if request is None:
        return "must be a valid PKCS#10 CSR"
    return _key_problem(request.public_key()) or _signature_problem(request)


class Leaf(NamedTuple):
    """A certificate's key in PKIX form, and when it is good."""

    key: bytes
    not_before: datetime
    not_after: datetime


def leaf_of(text: str) -> Leaf | None:
    """The first of one or more certificates, each of which is one; None else."""
    chain = [certificate_of(b.der or b"") if b.kind == "CERTIFICATE" else None for b in blocks(text.encode())]
    leaf = chain[0] if chain else None
    if leaf is None or None in chain:
        return None
    try:
        return Leaf(_spki(leaf), leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    except _UNREADABLE:
        return None


def key_of(der: bytes) -> bytes:
    """The key of a request, in PKIX form; empty where there is none."""
    request = _request_of(der)
    return b"" if request is None else _spki(request)


def _spki(holder: x509.CertificateSigningRequest | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _request_of(der: bytes) -> x509.CertificateSigningRequest | None:
    """The request, with a key that is known and a subject that can be read; None where there is none."""
    try:
        request = x509.load_der_x509_csr(der)
        _ = request.public_key(), request.subject
    except _UNREADABLE:
        return None
    return request


def _signature_problem(request: x509.CertificateSigningRequest) -> str:
    key = request.public_key()
    try:
        if request.is_signature_valid:
            return ""
    except _UNREADABLE:
        return "x509: malformed certificate request"
    return next((text for kind, text in _SIGNATURES if isinstance(key, kind)), "x509: cannot verify signature")


def _key_problem(key: object) -> str:
    """Why a pod may not have a key of this kind; empty where it may."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size in _RSA_BITS:
            return ""
        return f"{key.key_size}-bit modulus: RSA keys must have modulus size 3072 or 4096"
    if isinstance(key, ec.EllipticCurvePublicKey):
        known = isinstance(key.curve, _CURVES)
        return "" if known else "elliptic public keys must use curve P256, P384, or P521"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return ""
    return "unknown public key type; supported types are Ed25519, ECDSA, and RSA"


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
