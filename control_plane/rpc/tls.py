"""The cluster's certificate authority and the credentials it issues (X.509, RFC 5280).

A client certificate's subject names the caller as Kubernetes reads it: CN is the user, each O is a group.
"""

import asyncio
import contextlib
import functools
import hashlib
import ipaddress
import math
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rayplane.control_plane.rpc.callers import Identity
from rayplane.control_plane.rpc.errors import RpcError
from rayplane.storage.env.private import make_private_dir, write_private

# Every server certificate carries this name, so that components may meet at any address.
INTERNAL_SERVER_NAME = "rayplane.internal"
CA_VALIDITY = timedelta(days=3650)
VALIDITY = timedelta(days=365)
# Machines of one cluster may disagree about the time by a little.
_SKEW = timedelta(hours=1)
# What signers of certificates.k8s.io date back, and from which life on the end goes back with the beginning.
_GRANT_SKEW, _LONG = timedelta(minutes=5), timedelta(hours=8)
NOBODY = Identity("")
_KEY = b"-----BEGIN PRIVATE KEY-----"
_PAIR = "tls.pem"
_KEY_USAGES = frozenset({"digital signature", "key encipherment"})
_EXTENDED_USAGES = {"client auth": ExtendedKeyUsageOID.CLIENT_AUTH, "server auth": ExtendedKeyUsageOID.SERVER_AUTH}


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM: the authority to trust, and a certificate with its key to show."""

    ca: bytes
    cert: bytes
    key: bytes

    def contexts(self, serving: "Credentials | None" = None) -> tuple[ssl.SSLContext, ...]:
        """For servers of gRPC, for those that answer HTTP/1.1 too, for both where strangers may call, and for clients.

        Servers demand a client certificate of the same authority; where strangers may call, they only look at one that
        is shown. Who speaks both protocols (browsers, curl) and finds both gets HTTP/1.1: over HTTP/2 there is only
        gRPC, whose clients offer nothing else. `serving`: what servers show, where that is not what clients do.
        """
        servers = [self._server_context(protocols) for protocols in (["h2"], ["http/1.1", "h2"]) * 2]
        for open_to_all in servers[2:]:
            open_to_all.verify_mode = ssl.CERT_OPTIONAL
        client = client_context(self.ca)
        for context in (*servers, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            (self if serving is None or context is client else serving).load(context)
        return *servers, client

    def load(self, context: ssl.SSLContext) -> None:
        """Show this certificate in the handshakes that begin from now on."""
        # The ssl module loads from files only; this one is in memory.
        file = os.memfd_create("tls", os.MFD_CLOEXEC)
        try:
            os.write(file, self.cert + b"\n" + self.key)
            # No password: a key that needs one is refused, and nobody is asked at a terminal.
            context.load_cert_chain(f"/proc/self/fd/{file}", password="")
        finally:
            os.close(file)

    @property
    def is_sound(self) -> bool:
        """Whether the certificate is the key's own, and of the authority."""
        try:
            cert = x509.load_pem_x509_certificate(self.cert)
            key = serialization.load_pem_private_key(self.key, password=None)
            cert.verify_directly_issued_by(x509.load_pem_x509_certificate(self.ca))
        except (ValueError, TypeError, InvalidSignature):
            return False
        return cert.public_key() == key.public_key()

    @property
    def life(self) -> tuple[datetime, datetime]:
        """When the certificate begins and when it expires."""
        cert = x509.load_pem_x509_certificate(self.cert)
        return cert.not_valid_before_utc, cert.not_valid_after_utc

    @property
    def addresses(self) -> frozenset[str]:
        """IP addresses that the certificate names."""
        cert = x509.load_pem_x509_certificate(self.cert)
        try:
            names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return frozenset()
        return frozenset(str(address) for address in names.value.get_values_for_type(x509.IPAddress))

    def spent(self, now: datetime) -> float:
        """How much of the certificate's life is over: 0 at its beginning, 1 when it expires."""
        begin, end = self.life
        return (now - begin) / (end - begin)

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

        It shows what stands in `directory` (see `write`), also when another certificate is written there.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=self.ca.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        _ReloadingContext(context, directory / _PAIR)
        return context

    def write(self, directory: Path) -> None:
        """Write ca.crt, tls.crt and tls.key, and the last two in one file: they change together (owner only)."""
        make_private_dir(directory)
        files = {"ca.crt": self.ca, "tls.crt": self.cert, "tls.key": self.key, _PAIR: self.cert + self.key}
        for name, data in files.items():
            write_private(directory / name, data)

    @staticmethod
    def read(directory: Path) -> "Credentials":
        """Raises FileNotFoundError."""
        ca = (directory / "ca.crt").read_bytes()
        with contextlib.suppress(FileNotFoundError):  # an older version wrote two files only
            cert, begin, key = (directory / _PAIR).read_bytes().partition(_KEY)
            return Credentials(ca, cert, begin + key)
        return Credentials(ca, (directory / "tls.crt").read_bytes(), (directory / "tls.key").read_bytes())


def front_proxy_dir(tls_dir: Path) -> Path:
    """Where, below its own, an API server has the certificate that it shows to servers of aggregated APIs."""
    return tls_dir / "front-proxy"


def client_context(ca: bytes) -> ssl.SSLContext:
    """For clients of gRPC that trust this authority (PEM) and show nothing."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=ca.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


class Renewed:
    """The credentials in a directory (see `Credentials.write`), as they are now."""

    def __init__(self, directory: Path) -> None:
        """Raises FileNotFoundError."""
        self._directory = directory
        self._found = Credentials.read(directory)
        self._read: tuple[int, int] | None = None

    def current(self) -> Credentials:
        # A file that is gone leaves what there is.
        with contextlib.suppress(OSError):
            found = (self._directory / _PAIR).stat()
            stamp = found.st_ino, found.st_mtime_ns
            if stamp != self._read:
                self._found, self._read = Credentials.read(self._directory), stamp
        return self._found


class _ReloadingContext:
    """A context that looks at each handshake whether the file has changed, and has the next ones show what is there
    now.
    """

    def __init__(self, context: ssl.SSLContext, file: Path) -> None:
        self._file = file
        self._loaded = self._stamp()
        context.load_cert_chain(file)
        # Called of clients that name no server too.
        context.sni_callback = self._look

    def _stamp(self) -> tuple[int, int]:
        found = self._file.stat()
        return found.st_ino, found.st_mtime_ns

    def _look(self, connection: object, name: str | None, context: ssl.SSLContext) -> None:
        # A file that is gone or no certificate leaves what there is; the next handshake looks again.
        with contextlib.suppress(OSError, ssl.SSLError):
            stamp = self._stamp()
            if stamp != self._loaded:
                context.load_cert_chain(self._file)
                self._loaded = stamp


class Authority:
    """A certificate authority: P-256 keys, good for ten years, as long as a test cluster lives."""

    def __init__(self, cert: bytes, key: bytes) -> None:
        self.cert = cert
        self.key = key
        self._cert = x509.load_pem_x509_certificate(cert)
        self._key = serialization.load_pem_private_key(key, password=None)

    @staticmethod
    def create(name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        life = _life(datetime.now(UTC), CA_VALIDITY)
        builder = _builder(subject, subject, key.public_key(), life).add_extension(
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

    def issue(
        self,
        user: str,
        groups: Sequence[str] = (),
        *,
        hosts: Sequence[str] = (),
        now: datetime | None = None,
        validity: timedelta = VALIDITY,
        life: tuple[datetime, datetime] | None = None,
    ) -> Credentials:
        """A certificate, with its key, for a client and server in one: components call and are called.

        `life`: its beginning and its end, instead of `now` and `validity`.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        life = life or _life(now or datetime.now(UTC), validity)
        return Credentials(
            self.cert, self._certificate(key.public_key(), Identity(user, tuple(groups)), hosts, life), _pem(key)
        )

    def sign(
        self, request: bytes, identity: Identity, *, hosts: Sequence[str], now: datetime, validity: timedelta
    ) -> bytes:
        """The certificate for the key of a request (PEM, RFC 2986), whatever name it asks for. Raises ValueError."""
        try:
            asked = x509.load_pem_x509_csr(request)
            key, signed = asked.public_key(), asked.is_signature_valid
        except (UnsupportedAlgorithm, x509.InvalidVersion) as e:
            raise ValueError(str(e)) from e
        if not signed or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("it is not signed by its own elliptic curve key")
        return self._certificate(key, identity, hosts, _life(now, validity))

    def grant(self, request: bytes, usages: Sequence[str], *, now: datetime, validity: timedelta) -> bytes:
        """The certificate that a request (PEM, RFC 2986) asks for: its name, its other names, its key.

        `usages` as certificates.k8s.io has them. It begins five minutes ago, and never outlives the authority. Raises
        ValueError.
        """
        try:
            asked = x509.load_pem_x509_csr(request)
            key, signed = asked.public_key(), asked.is_signature_valid
            names = [e for e in asked.extensions if isinstance(e.value, x509.SubjectAlternativeName)]
        except (UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as e:
            raise ValueError(str(e)) from e
        if not signed:
            raise ValueError("it is not signed by its own key")
        hosts = [host for e in names for host in e.value.get_values_for_type(x509.DNSName)]
        if any(host.lower().rstrip(".") == INTERNAL_SERVER_NAME for host in hosts):
            raise ValueError(f"the name {INTERNAL_SERVER_NAME} is the cluster's own")
        builder = _builder(asked.subject, self._cert.subject, key, self._granted(now, validity))
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if not _KEY_USAGES.isdisjoint(usages):
            # One without any usage would be good for nothing.
            builder = builder.add_extension(_key_usage(usages), critical=True)
        extended = [_EXTENDED_USAGES[one] for one in usages if one in _EXTENDED_USAGES]
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        for extension in names:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        return self._signed(builder)

    def _granted(self, now: datetime, validity: timedelta) -> tuple[datetime, datetime]:
        """The life of what a signer gives. Source: kubernetes/pkg/controller/certificates/authority (policies)."""
        end = now + validity - (_GRANT_SKEW if validity >= _LONG else timedelta(0))
        return now - _GRANT_SKEW, min(end, self._cert.not_valid_after_utc)

    def _certificate(
        self,
        key: ec.EllipticCurvePublicKey,
        identity: Identity,
        hosts: Sequence[str],
        life: tuple[datetime, datetime],
    ) -> bytes:
        alternatives = [_general_name(h) for h in dict.fromkeys((INTERNAL_SERVER_NAME, *hosts))]
        builder = (
            _builder(_subject(identity), self._cert.subject, key, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
        )
        return self._signed(builder)

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._cert.public_key())  # type: ignore[arg-type]
        cert = builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())  # type: ignore[arg-type]
        return cert.public_bytes(serialization.Encoding.PEM)


class Request:
    """A new key, and the request to certify it (PKCS #10, RFC 2986). The key stays here.

    `identity`, `hosts`: the names that it asks for, where whoever signs does not know them.
    """

    def __init__(self, identity: Identity = NOBODY, hosts: Sequence[str] = ()) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._key = _pem(key)
        builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(identity))
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(map(_general_name, hosts)), critical=False)
        self.pem: bytes = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def answered(self, ca: bytes, cert: bytes) -> Credentials:
        """With the certificate that came back."""
        return Credentials(ca, cert, self._key)


def key_hash(cert: bytes) -> str:
    """What pins a certificate's key (PEM), as kubeadm writes it: `sha256:` and the digest of its public key's DER."""
    key = x509.load_pem_x509_certificate(cert).public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(spki).hexdigest()}"


def identity_of_transport(transport: asyncio.BaseTransport | None) -> Identity | None:
    """Who is at the other end of a TLS connection; None without TLS or without a client certificate that names one."""
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    try:
        identity = identity_of(certificate) if certificate else None
    except (ValueError, TypeError, x509.InvalidVersion):
        return None  # an authority has signed what is none to the letter: whose it is cannot be told
    # Groups alone are nobody, as in Kubernetes.
    return identity if identity is not None and identity.user else None


def expiry(identity: Identity | None) -> RpcError | None:
    """UNAUTHENTICATED for a certificate that has expired, also since its connection began; None for others."""
    if identity is None or identity.not_after == math.inf or identity.not_after > time.time():
        return None
    return RpcError(grpc.StatusCode.UNAUTHENTICATED, f"the certificate of {identity.user} has expired: renew it")


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


def _life(now: datetime, validity: timedelta) -> tuple[datetime, datetime]:
    return now - _SKEW, now + validity


def _subject(identity: Identity) -> x509.Name:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in identity.groups]
    if identity.user:
        names.append(x509.NameAttribute(NameOID.COMMON_NAME, identity.user))
    return x509.Name(names)


def _key_usage(usages: Sequence[str]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital signature" in usages,
        key_encipherment="key encipherment" in usages,
        key_cert_sign=False,
        crl_sign=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: CertificatePublicKeyTypes, life: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(life[0])
        .not_valid_after(life[1])
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
