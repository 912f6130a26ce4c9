"""exec and port-forward over SPDY/3.1, as kubectl before 1.30 speaks, through TLS and the load balancer."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from rayplane.control_plane.streams import spdy
from tests.apiserver.secure import Cluster, cluster
from tests.apiserver.spdy_client import SpdyClient

__all__ = ["cluster"]
POD = "/api/v1/namespaces/default/pods/p"
Connect = Callable[..., Awaitable[SpdyClient]]


@pytest_asyncio.fixture
async def connect(cluster: Cluster) -> AsyncIterator[Connect]:
    tls = ssl.create_default_context(cadata=cluster.authority.cert.decode())
    async with AsyncExitStack() as stack:

        async def make(path: str, *protocols: str) -> SpdyClient:
            client = await SpdyClient.connect(cluster.balancer.address, path, *protocols, tls=tls, token="sesame")
            stack.push_async_callback(client.close)
            return client

        yield make


async def test_a_command_has_streams_and_an_outcome(connect: Connect) -> None:
    client = await connect(
        f"{POD}/exec?command=echo&command=hi&stdout=1&stderr=true", "v5.channel.k8s.io", "v4.channel.k8s.io"
    )
    assert (client.headers["status"], client.headers["upgrade"]) == ("101", "SPDY/3.1")
    assert client.headers["x-stream-protocol-version"] == "v4.channel.k8s.io"
    error, out, err = (client.open(streamtype=name) for name in ("error", "stdout", "stderr"))
    await client.read()
    assert (client.data[out], client.data[err]) == (b"echo hi\n", b"trouble\n")
    status = json.loads(client.data[error])
    assert (status["reason"], status["details"]["causes"][0]["message"]) == ("NonZeroExitCode", "7")
    assert client.ended == {error, out, err}
    assert client.frames[-1].type == spdy.GOAWAY


async def test_what_is_typed_comes_back_whole(connect: Connect) -> None:
    client = await connect(f"{POD}/exec?command=cat&stdin=true&stdout=true", "v4.channel.k8s.io")
    error, typed, out = (client.open(streamtype=name) for name in ("error", "stdin", "stdout"))
    data = bytes(range(256)) * 8000
    async with asyncio.TaskGroup() as group:
        group.create_task(client.send(typed, data, last=True))
        group.create_task(client.read())
    assert client.data[out] == data
    assert json.loads(client.data[error])["status"] == "Success"


@pytest.mark.parametrize("protocols", [("v3.channel.k8s.io", "v2.channel.k8s.io"), ()])
async def test_before_version_4_the_outcome_is_text(connect: Connect, protocols: tuple[str, ...]) -> None:
    client = await connect(f"{POD}/exec?command=echo&stdout=true&tty=true&stderr=true", *protocols)
    assert client.headers["x-stream-protocol-version"] == (protocols or ("channel.k8s.io",))[0]
    names = ("error", "stdout", "resize") if protocols else ("error", "stdout")
    error, out, *_ = (client.open(streamtype=name) for name in names)
    await client.read()
    assert client.data[out] == b"echo\n"
    assert client.data[error] == b"command terminated with non-zero exit code: exit status 7"


async def test_streams_that_nobody_asked_for_are_reset(connect: Connect) -> None:
    client = await connect(f"{POD}/exec?command=echo&stdout=true", "v4.channel.k8s.io")
    for name in ("stdin", "", "nonsense"):
        client.open(streamtype=name)
    error, out = client.open(streamtype="error"), client.open(streamtype="stdout")
    again = client.open(streamtype="stdout")
    client.ping(b"\0\0\0\1")
    await client.read()
    assert client.ended == {error, out}
    assert {f.data[:4] for f in client.frames if f.type == spdy.RST_STREAM} >= {
        stream.to_bytes(4, "big") for stream in (1, 3, 5, again)
    }


async def test_protocols_that_nobody_speaks_are_refused(connect: Connect) -> None:
    for path, protocol in ((f"{POD}/exec?command=echo", "v9"), (f"{POD}/portforward", "v4.channel.k8s.io")):
        client = await connect(path, protocol)
        assert client.headers["status"] == "403"


async def test_a_client_that_speaks_no_spdy_is_left(connect: Connect) -> None:
    client = await connect(f"{POD}/exec?command=cat&stdin=true&stdout=true", "v4.channel.k8s.io")
    client.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
    await client.read()


async def test_connections_are_forwarded(connect: Connect) -> None:
    client = await connect(f"{POD}/portforward", "portforward.k8s.io")
    assert client.headers["x-stream-protocol-version"] == "portforward.k8s.io"
    pairs = {}
    for number in range(3):
        headers = {"port": str(8000 + number), "requestid": str(number)}
        client.open(streamtype="error", **headers)
        pairs[client.open(streamtype="data", **headers)] = 8000 + number
    for stream in pairs:
        await client.send(stream, b"hello", last=True)
    await client.read(*pairs)
    assert {stream: bytes(client.data[stream]) for stream in pairs} == {
        stream: f"port {port}: hello".encode() for stream, port in pairs.items()
    }
