"""Requests for certificates as somebody's program makes them."""

import base64
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from rayplane.control_plane.api import signers

NODE_USAGES = ("client auth", "digital signature")


def certificate_request(
    name: str,
    user: str,
    *groups: str,
    others: tuple[str, ...] = (),
    signer: str = signers.CLIENT,
    names: tuple[x509.GeneralName, ...] = (),
    usages: tuple[str, ...] = ("client auth",),
    **spec: Any,
) -> dict[str, Any]:
    """A CertificateSigningRequest; its key is lost. `others`: more names of users, after the first."""
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, one) for one in (user, *others)]
    subject += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    text = base64.b64encode(made.public_bytes(Encoding.PEM)).decode()
    return {
        "metadata": {"name": name},
        "spec": {"request": text, "signerName": signer, "usages": [*usages], **spec},
    }


def unreadable(name: str, text: bytes) -> dict[str, Any]:
    """A request of whose subject a part is no text: `text` stands for a UTF8String of four bytes, head included."""
    csr = certificate_request(name, "jane", "dev1")
    lines = base64.b64decode(csr["spec"]["request"]).splitlines()
    der = base64.b64decode(b"".join(lines[1:-1])).replace(b"\x0c\x04dev1", text)
    pem = b"\n".join((lines[0], base64.b64encode(der), lines[-1], b""))
    return {**csr, "spec": {**csr["spec"], "request": base64.b64encode(pem).decode()}}


def node_request(name: str, node: str, **spec: Any) -> dict[str, Any]:
    """A node's request for its client certificate."""
    user, signer = f"system:node:{node}", signers.KUBELET_CLIENT
    return certificate_request(name, user, "system:nodes", signer=signer, usages=NODE_USAGES, **spec)
