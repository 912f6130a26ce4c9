"""gRPC probes: of servers with TLS, whatever certificate they show, and of those without."""

import asyncio
import datetime
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rayplane.node.kubelet.prober import Prober

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def somebodys_certificate() -> tuple[bytes, bytes]:
    """A key and a certificate that nobody has signed, long over, of another name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody.example")])
    long_ago = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, long_ago, long_ago + datetime.timedelta(days=1))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, builder.sign(key, hashes.SHA256()).public_bytes(pem)


@asynccontextmanager
async def serving(*, tls: bool) -> AsyncIterator[int]:
    """The port of a server whose service `sick` is not well."""
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", SERVING)
    await servicer.set("sick", NOT_SERVING)
    if tls:
        credentials = grpc.ssl_server_credentials([somebodys_certificate()])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


class Run:
    """A run whose ports are this machine's."""

    async def connect(self, host: str, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return sock


async def probed(port: int, **action: Any) -> tuple[bool, str]:
    found: list[tuple[bool, str]] = []
    container = {
        "name": "c",
        "startupProbe": {"grpc": {"port": port, **action}, "timeoutSeconds": 20, "failureThreshold": 1},
    }
    run: Any = Run()
    await Prober().run(
        "startup",
        container,
        run,
        ip="127.0.0.1",
        runs=lambda: not found,
        report=lambda ok, message, decides: found.append((ok, message)),
    )
    return found[0]


@pytest.mark.parametrize("tls", [True, False])
async def test_a_server_is_well_where_it_is_asked_as_it_speaks(tls: bool) -> None:
    async with serving(tls=tls) as port:
        assert await probed(port, mode="TLS" if tls else "Plaintext") == (True, "")
        assert await probed(port, mode="TLS" if tls else "Plaintext", service="sick") == (False, "service unhealthy")
        ok, message = await probed(port, mode="Plaintext" if tls else "TLS")
        assert not ok and message.startswith("rpc failed: ")


async def test_a_probe_that_says_nothing_of_tls_uses_none() -> None:
    async with serving(tls=False) as port:
        assert await probed(port) == (True, "")
