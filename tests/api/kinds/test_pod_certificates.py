"""Requests of pods for certificates: the key they show, and what is issued for it."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.api.kinds.changes import GONE, Changes, refused, status_refused

STAMP = {"lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "R", "message": "m"}

KEY = ec.generate_private_key(ec.SECP256R1())
SECP256K1, ED25519 = ec.generate_private_key(ec.SECP256K1()), ed25519.Ed25519PrivateKey.generate()
RSA_2048 = rsa.generate_private_key(65537, 2048)
POINT = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def asked(key: Any = KEY, by: Any = KEY) -> str:
    """A request for a certificate for a key, signed by the same or another."""
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    shown = made.sign(by, None if isinstance(by, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    der = shown.public_bytes(serialization.Encoding.DER)
    taken = der.replace(by.public_key().public_bytes(*POINT), key.public_key().public_bytes(*POINT))
    return base64.b64encode(taken).decode()


CHAIN, STUB = "status.certificateChain", "spec.stubPKCS10Request"
POD_CERTIFICATE: dict[str, Any] = {
    "apiVersion": "certificates.k8s.io/v1",
    "kind": "PodCertificateRequest",
    "spec": {
        "signerName": "a.io/b",
        **{f"{field}{part}": "x" for field in ("pod", "serviceAccount", "node") for part in ("Name", "UID")},
        "stubPKCS10Request": asked(),
    },
}
ISSUED = {"type": "Issued", "status": "True", **STAMP}
DENIED = {**ISSUED, "type": "Denied"}


def issued(key: Any = KEY, *, hours: int = 2, **status: Any) -> dict[str, Any]:
    """A status with a certificate for a key, from a moment on."""
    first, name = datetime(2026, 1, 1, tzinfo=UTC), x509.Name([])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(key.public_key())
    leaf = made.not_valid_before(first).not_valid_after(first + timedelta(hours=hours)).sign(KEY, hashes.SHA256())
    times = {"notBefore": 0, "beginRefreshAt": 1, "notAfter": hours}
    said = {field: f"2026-01-01T{at:02}:00:00Z" for field, at in times.items()}
    chain = leaf.public_bytes(serialization.Encoding.PEM).decode()
    return {"conditions": [ISSUED], "certificateChain": chain, **said, **status}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"spec.stubPKCS10Request": GONE}, ["spec.stubPKCS10Request: Required value"]),
        ({"spec.stubPKCS10Request": "AAAA" * 4000}, [f"{STUB}: Too long: may not be more than 10240 bytes"]),
        ({"spec.stubPKCS10Request": "AAAA"}, ["spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR"]),
        ({"spec.stubPKCS10Request": asked(by=ec.generate_private_key(ec.SECP256R1()))},
         ["spec.stubPKCS10Request: Invalid value: x509: ECDSA verification failure"]),
        ({"spec.stubPKCS10Request": asked(SECP256K1, SECP256K1)},
         ["spec.stubPKCS10Request: Invalid value: elliptic public keys must use curve P256, P384, or P521"]),
        ({"spec.stubPKCS10Request": asked(RSA_2048, RSA_2048)},
         ["spec.stubPKCS10Request: Invalid value: 2048-bit modulus: RSA keys must have modulus size 3072 or 4096"]),
        ({"spec.stubPKCS10Request": asked(ED25519, ED25519)}, []),
        ({"spec.unverifiedUserAnnotations": {"a": "b"}},
         ['spec.unverifiedUserAnnotations: Invalid value: "a": must be a domain-prefixed key (such as "acme.io/foo")']),
        ({"spec.signerName": GONE}, ["spec.signerName: Required value"]),
        ({"spec.podUID": ""}, ['spec.podUID: Invalid value: "": must not be empty']),
        ({"spec.nodeUID": "a" * 129}, ["spec.nodeUID: Too long: may not be more than 128 bytes"]),
        ({"spec.maxExpirationSeconds": 91 * 86400}, []),
        ({"spec.maxExpirationSeconds": 3599},
         ["spec.maxExpirationSeconds: Invalid value: 3599: must be in the range [3600, 7862400]"]),
        ({"spec.signerName": "kubernetes.io/x", "spec.maxExpirationSeconds": 86401},
         ["spec.maxExpirationSeconds: Invalid value: 86401: must be in the range [3600, 86400]"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_requests_of_pods(change: Changes, found: list[str]) -> None:
    assert refused(POD_CERTIFICATE, change) == found


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ([], [DENIED], []),
        ([], [{**ISSUED, "type": "Odd"}],
         ['status.conditions[0].type: Unsupported value: "Odd": supported values: "Issued", "Denied", "Failed"']),
        ([], [{**ISSUED, "status": "False"}],
         ['status.conditions[0].status: Unsupported value: "False": supported values: "True"']),
        ([], [ISSUED, {**ISSUED, "type": "Denied"}],
         ['status.conditions[1].type: Invalid value: "Denied": There may be at most one condition with type "Issued", '
          '"Denied", or "Failed"']),
        ([ISSUED], [], ["status: Invalid value: {}: immutable after PodCertificateRequest is issued, denied, or "
                        "failed"]),
    ],
)  # fmt: skip
def test_ends_of_requests_of_pods(before: Any, after: Any, found: list[str]) -> None:
    first = {"conditions": before} if before else {}
    assert status_refused(POD_CERTIFICATE, first, {"conditions": after} if after else {}) == found


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (issued(), []),
        ({"conditions": [ISSUED]}, [f"{CHAIN}: Invalid value: issued certificate chain must consist of one or more "
                                    "valid CERTIFICATE PEM blocks"]),
        (issued(certificateChain="a" * 102_401), [f"{CHAIN}: Too long: may not be more than 102400 bytes"]),
        (issued(ec.generate_private_key(ec.SECP256R1())),
         ["status.certificateChain: Invalid value: leaf certificate was not issued to the requested public key"]),
        (issued(notAfter=None), ["status.notAfter: Required value: must be present and consistent with the issued "
                                 "certificate"]),
        (issued(notBefore="9999-12-31T23:59:59Z"),
         ['status.notBefore: Invalid value: "9999-12-31T23:59:59Z": must be set to the NotBefore time encoded in the '
          "leaf certificate",
          'status.beginRefreshAt: Invalid value: "2026-01-01T01:00:00Z": must be at least 10 minutes after '
          "status.notBefore"]),
        (issued(hours=0) | {"beginRefreshAt": "2026-01-01T00:00:00Z"},
         ['status.certificateChain: Invalid value: "0s": leaf certificate lifetime must be >= 1 hour',
          'status.beginRefreshAt: Invalid value: "2026-01-01T00:00:00Z": must be at least 10 minutes after '
          "status.notBefore",
          'status.beginRefreshAt: Invalid value: "2026-01-01T00:00:00Z": must be at least 10 minutes before '
          "status.notAfter"]),
        ({**issued(), "conditions": [DENIED]}, None),
        ({"notAfter": "2026-01-01T00:00:00Z"},
         ['status: Invalid value: {"notAfter":"2026-01-01T00:00:00Z"}: status is immutable unless transitioning to '
          '"Issued", "Denied", or "Failed"']),
    ],
)  # fmt: skip
def test_what_is_issued_is_for_the_key_that_was_shown(status: dict[str, Any], found: list[str] | None) -> None:
    said = status_refused(POD_CERTIFICATE, {}, {field: value for field, value in status.items() if value})
    if found is None:
        assert said[0].endswith("must be empty when denying or failing the PodCertificateRequest")
    else:
        assert said == found
