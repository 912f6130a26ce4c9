"""The cluster's certificate authority and the credentials it issues (X.509, RFC 5280).

A client certificate's subject names the caller as Kubernetes reads it: CN is the user, each O is a group.
"""

import asyncio
import functools
import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.rpc.callers import Identity
from storage.env.private import make_private_dir, write_private

# Every server certificate carries this name, so that components may meet at any address.
INTERNAL_SERVER_NAME = "rayplane.internal"
_VALIDITY = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM: the authority to trust, and a certificate with its key to show."""

    ca: bytes
    cert: bytes
    key: bytes

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext, ssl.SSLContext]:
        """For servers of gRPC, for those that answer HTTP/1.1 too, and for clients.

        Servers demand a client certificate of the same authority. Who speaks both protocols (browsers, curl) and finds
        both gets HTTP/1.1: over HTTP/2 there is only gRPC, whose clients offer nothing else.
        """
        plain, web = (self._server_context(p) for p in (["h2"], ["http/1.1", "h2"]))
        client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=self.ca.decode())
        client.set_alpn_protocols(["h2"])
        # The ssl module loads certificates from files only.
        with tempfile.TemporaryDirectory() as directory:
            self.write(Path(directory))
            for context in (plain, web, client):
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.load_cert_chain(Path(directory) / "tls.crt", Path(directory) / "tls.key")
        return plain, web, client

    def _server_context(self, protocols: list[str]) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=self.ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(protocols)
        return context

    def grpc_channel(self) -> grpc.ChannelCredentials:
        """For clients that use the gRPC project's own library."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)

    def ssl_server(self, directory: Path) -> ssl.SSLContext:
        """An HTTPS server context that verifies a client certificate when one is shown.

        `directory`: where the files stand (see `write`); the ssl module loads keys from files only.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=self.ca.decode())
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def write(self, directory: Path) -> None:
        """Write ca.crt, tls.crt and tls.key (readable by the owner only)."""
        make_private_dir(directory)
        for name, data in (("ca.crt", self.ca), ("tls.crt", self.cert), ("tls.key", self.key)):
            write_private(directory / name, data)

    @staticmethod
    def read(directory: Path) -> "Credentials":
        return Credentials(*((directory / n).read_bytes() for n in ("ca.crt", "tls.crt", "tls.key")))


class Authority:
    """A certificate authority: P-256 keys, certificates good for ten years, as long as a test cluster lives."""

    def __init__(self, cert: bytes, key: bytes) -> None:
        self.cert = cert
        self.key = key
        self._cert = x509.load_pem_x509_certificate(cert)
        self._key = serialization.load_pem_private_key(key, password=None)

    @staticmethod
    def create(name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        cert = builder.sign(key, hashes.SHA256())
        return Authority(cert.public_bytes(serialization.Encoding.PEM), _pem(key))

    def issue(self, user: str, groups: Sequence[str] = (), *, hosts: Sequence[str] = ()) -> Credentials:
        """A certificate for a client and server in one: components call and are called."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
        if user:
            names.append(x509.NameAttribute(NameOID.COMMON_NAME, user))
        subject = x509.Name(names)
        alternatives = [_general_name(h) for h in dict.fromkeys((INTERNAL_SERVER_NAME, *hosts))]
        cert = (
            _builder(subject, self._cert.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._cert.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
            .sign(self._key, hashes.SHA256())  # type: ignore[arg-type]
        )
        return Credentials(self.cert, cert.public_bytes(serialization.Encoding.PEM), _pem(key))


def identity_of_transport(transport: asyncio.BaseTransport | None) -> Identity | None:
    """Who is at the other end of a TLS connection; None without TLS or without a client certificate that names one."""
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    identity = identity_of(certificate) if certificate else None
    # Groups alone are nobody, as in Kubernetes.
    return identity if identity is not None and identity.user else None


@functools.lru_cache(maxsize=1024)
def identity_of(certificate: bytes) -> Identity:
    """The user and groups that a client certificate (PEM or DER) names."""
    load = x509.load_pem_x509_certificate if certificate.startswith(b"-----") else x509.load_der_x509_certificate
    loaded = load(certificate)
    subject = loaded.subject
    user = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    groups = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return Identity(
        str(user[0].value) if user else "",
        tuple(str(g.value) for g in groups),
        loaded.not_valid_after_utc.timestamp(),
    )


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # Machines of one cluster may disagree about the time by a little.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _VALIDITY)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
