"""One API server as a process of its own: kube-apiserver's flags, its event loop, its end.

    python -m rayplane.control_plane.apiserver --etcd-servers=http://127.0.0.1:2379 --cert-dir=D --client-ca-file=CA ...

It takes what envtest of controller-runtime starts kube-apiserver with, and what test suites often add. `/readyz` says
when it serves. Everything it says goes to standard error. SIGTERM and SIGINT stop it in order. Exit codes: 0 stopped,
1 failed, 2 wrong usage; a failure is one line that says what to do.
"""

import asyncio
import logging
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rayplane.control_plane.api.admission.plugins import names
from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.apiserver.authorization.configuration import NODE, RBAC
from rayplane.control_plane.apiserver.config import ApiServerConfig, Files
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.apiserver.storage.encryption import BadEncryptionConfig
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.component_base import logs
from rayplane.control_plane.component_base.log_settings import TEXT
from rayplane.control_plane.component_base.standalone import run_command, start_unless, told_to_stop
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.storage.env import Env, LocalDisk, SystemClock, settle_heap
from rayplane.storage.errors import StorageError

_NAME = "kube-apiserver"
_DEFAULTS = ApiServerConfig()
_MODES = f"{RBAC} or {NODE},{RBAC}"
_FAILURES = (ApiError, StorageError, OSError)
_INFO_V = 2


class UsageError(ValueError):
    """A flag's value cannot be used; the message names the flag and a good value."""


@dataclass(frozen=True, slots=True)
class Standalone:
    """The parts of an API server's process: its configuration, and what lies around it."""

    config: ApiServerConfig
    credentials: Credentials
    directory: Path
    """Where it keeps what is its own."""


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def apiserver(
    *,
    etcd_servers: Annotated[str, typer.Option(help="URLs of etcd, http only, with commas.")],
    cert_dir: Annotated[
        str, typer.Option(help="Directory of apiserver.crt and apiserver.key; what it writes is here.")
    ],
    client_ca_file: Annotated[str, typer.Option(help="Authority of the clients' certificates, PEM.")],
    tls_cert_file: Annotated[str, typer.Option(help="Certificate to show.  [default: CERT-DIR/apiserver.crt]")] = "",
    tls_private_key_file: Annotated[str, typer.Option(help="Its key.  [default: CERT-DIR/apiserver.key]")] = "",
    bind_address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    secure_port: Annotated[int, typer.Option(help="Port to listen on.")] = 6443,
    advertise_address: Annotated[str, typer.Option(help="Address that others are told.  [default: it]")] = "",
    service_cluster_ip_range: Annotated[
        str, typer.Option(help="Addresses of services, CIDR.")
    ] = _DEFAULTS.service_cidr,
    service_node_port_range: Annotated[str, typer.Option(help="Ports of services on nodes.")] = "30000-32767",
    service_account_issuer: Annotated[str, typer.Option(help="Issuer of tokens.")] = _DEFAULTS.issuer,
    service_account_signing_key_file: Annotated[
        str, typer.Option(help="P-256 key that signs tokens, PEM; without it there are none.")
    ] = "",
    service_account_key_file: Annotated[
        str, typer.Option(help="Key or certificate that verifies them: that of the signing key.")
    ] = "",
    authorization_mode: Annotated[str, typer.Option(help=f"{_MODES}.")] = RBAC,
    enable_admission_plugins: Annotated[str, typer.Option(help="More of these, with commas.")] = "",
    disable_admission_plugins: Annotated[str, typer.Option(help="Without these, with commas.")] = "",
    authentication_config: Annotated[str, typer.Option(help="File of an AuthenticationConfiguration.")] = "",
    encryption_provider_config: Annotated[str, typer.Option(help="File of an EncryptionConfiguration.")] = "",
    allow_privileged: Annotated[str, typer.Option(help="true: containers may be privileged.")] = "true",
    verbosity: Annotated[int, typer.Option("-v", "--v", help=f"How much it tells; all from {_INFO_V} on.")] = 0,
) -> None:
    """Run one API server. Flags are kube-apiserver's."""
    logs.to_stderr(logging.INFO if verbosity >= _INFO_V else logging.WARNING, TEXT, logs.Speaker("apiserver", _NAME))
    _want("allow-privileged", allow_privileged, ("true",))
    _want("authorization-mode", authorization_mode, (RBAC, f"{NODE},{RBAC}", f"{RBAC},{NODE}"))
    directory = Path(cert_dir).absolute()
    shown = tls_cert_file or directory / "apiserver.crt", tls_private_key_file or directory / "apiserver.key"
    own = directory / "rayplane"
    config = ApiServerConfig(
        name=_NAME,
        etcd_endpoints=tuple(_etcd(url) for url in etcd_servers.split(",")),
        https_address=f"{bind_address}:{secure_port}",
        advertise_host=advertise_address,
        tls_dir=str(own / "tls"),
        token_key=_token_key(service_account_signing_key_file, service_account_key_file),
        encryption=_read("encryption-provider-config", encryption_provider_config),
        authentication=_read("authentication-config", authentication_config).decode(),
        authorization=_authorization(authorization_mode),
        files=Files(authentication=authentication_config and str(Path(authentication_config).absolute())),
        issuer=service_account_issuer,
        service_cidr=service_cluster_ip_range,
        node_port_range=_ports(service_node_port_range),
        admission_plugins_on=names(enable_admission_plugins),
        admission_plugins_off=names(disable_admission_plugins),
    )
    credentials = Credentials(
        _read("client-ca-file", client_ca_file),
        _read("tls-cert-file", shown[0]),
        _key("tls-private-key-file", shown[1]),
    )
    try:
        config.validate()
    except ValueError as e:
        raise UsageError(str(e)) from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Standalone(config, credentials, own)))


async def serve(settings: Standalone) -> None:
    """Until it is told to stop."""
    assert settings.config.tls_dir is not None
    settings.credentials.write(Path(settings.config.tls_dir))
    network, in_the_clear = GrpcNetwork(settings.credentials), GrpcNetwork(None)
    env = Env(clock=SystemClock(), rng=random.Random(), disk=LocalDisk(str(settings.directory)))
    told = told_to_stop()
    try:
        try:
            etcd = EtcdClient(in_the_clear, settings.config.etcd_endpoints)
            server = ApiServer(settings.config, env, network, etcd=etcd)
        except (ConfigFileError, BadEncryptionConfig) as e:
            raise UsageError(str(e)) from e
        await start_unless(told, server.start())
        settle_heap()
        await told.wait()
        await server.stop()
    finally:
        await network.close()
        await in_the_clear.close()


def _want(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"--{flag}={value}: this server knows {' or '.join(known)}")


def _etcd(url: str) -> str:
    scheme, _, address = url.strip().rstrip("/").partition("://")
    if scheme != "http" or not address.rpartition(":")[2].isdecimal():
        raise UsageError(f"--etcd-servers {url!r} must be http://HOST:PORT")
    return address


def _read(flag: str, file: str | Path) -> bytes:
    """What is in a flag's file; nothing without one. An empty one is no way to leave the flag out."""
    if not file:
        return b""
    try:
        found = Path(file).read_bytes()
    except OSError as e:
        raise UsageError(f"--{flag} {file}: {e.strerror}") from e
    if not found.strip():
        raise UsageError(f"--{flag} {file} is empty; leave the flag out where there is none")
    return found


def _key(flag: str, file: str | Path) -> bytes:
    """A private key in the form that `Credentials` has it in (PKCS #8)."""
    try:
        key = serialization.load_pem_private_key(_read(flag, file), password=None)
    except (ValueError, TypeError) as e:
        raise UsageError(f"--{flag} {file} is no private key in PEM without a password") from e
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(*form, serialization.NoEncryption())


def _token_key(signing: str, verifying: str) -> bytes:
    """The key that signs tokens. UsageError where it is not the one that verifies them."""
    if not signing:
        if verifying:
            raise UsageError(f"--service-account-key-file {verifying} needs --service-account-signing-key-file too")
        return b""
    pem = _key("service-account-signing-key-file", signing)
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UsageError(f"--service-account-signing-key-file {signing} must be a P-256 key")
    if verifying and _public(_read("service-account-key-file", verifying), verifying) != key.public_key():
        raise UsageError(f"--service-account-key-file {verifying} must be of the key that signs, and of no other")
    return pem


def _public(pem: bytes, file: str) -> object:
    try:
        if b"CERTIFICATE" in pem:
            return x509.load_pem_x509_certificate(pem).public_key()
        if b"PRIVATE" in pem:
            return serialization.load_pem_private_key(pem, password=None).public_key()
        return serialization.load_pem_public_key(pem)
    except (ValueError, TypeError) as e:
        raise UsageError(f"--service-account-key-file {file} is neither a key nor a certificate in PEM") from e


def _authorization(modes: str) -> str:
    steps = "".join(f"- {{type: {mode}, name: {mode.lower()}}}\n" for mode in modes.split(","))
    return f"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n{steps}"


def _ports(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal()):
        raise UsageError(f"--service-node-port-range {text!r} must be LOW-HIGH, such as 30000-32767")
    return int(low), int(high)


def main() -> NoReturn:
    """Run the command of sys.argv and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    program = "python -m rayplane.control_plane.apiserver"
    return run_command(app, arguments, name=_NAME, program=program, usage=UsageError, failures=_FAILURES)
