"""WebSockets in all the protocols that clients ask for: commands, ports, logs and watches."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
import pytest_asyncio

from tests.apiserver.secure import Cluster, cluster

__all__ = ["cluster"]
PODS = "/api/v1/namespaces/default/pods"
Connect = Callable[..., Awaitable[aiohttp.ClientWebSocketResponse]]
Message = tuple[aiohttp.WSMsgType, object]
BINARY, TEXT = aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT


@pytest_asyncio.fixture
async def connect(cluster: Cluster) -> AsyncIterator[Connect]:
    tls = ssl.create_default_context(cadata=cluster.authority.cert.decode())
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(f"https://{cluster.balancer.address}"))

        async def make(path: str, *protocols: str, token: str = "Bearer sesame") -> aiohttp.ClientWebSocketResponse:
            headers = {"Authorization": token} if token else {}
            asked = session.ws_connect(path, protocols=protocols, headers=headers, ssl=tls)
            return await stack.enter_async_context(asked)

        yield make


async def all_of(socket: aiohttp.ClientWebSocketResponse) -> list[Message]:
    return [(message.type, message.data) async for message in socket]


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"])
async def test_from_version_4_on_a_command_ends_with_a_status(connect: Connect, protocol: str) -> None:
    socket = await connect(f"{PODS}/p/exec?command=echo&command=hi&stdout=true&stderr=true", protocol)
    assert socket.protocol == protocol
    messages = await all_of(socket)
    if "base64" in protocol:
        assert {kind for kind, _ in messages} == {TEXT}
        texts = [bytes((int(str(data)[0]),)) + base64.b64decode(str(data)[1:]) for _, data in messages]
    else:
        assert {kind for kind, _ in messages} == {BINARY}
        texts = [data for _, data in messages if isinstance(data, bytes)]
    *output, outcome = texts
    assert output == [b"\x01echo hi\n", b"\x02trouble\n"]
    assert json.loads(outcome[1:])["reason"] == "NonZeroExitCode"


@pytest.mark.parametrize("protocols", [("channel.k8s.io",), ()])
async def test_before_version_4_a_failure_is_text(connect: Connect, protocols: tuple[str, ...]) -> None:
    messages = await all_of(await connect(f"{PODS}/p/exec?command=echo&stdout=true", *protocols))
    assert messages[-1] == (BINARY, b"\x03command terminated with non-zero exit code: exit status 7")


async def test_an_input_can_be_closed_by_itself(connect: Connect) -> None:
    socket = await connect(f"{PODS}/p/exec?command=cat&stdin=true&stdout=true", "v5.channel.k8s.io")
    await socket.send_bytes(b"\xff\x00")
    outcome = await socket.receive_bytes()
    assert (outcome[:1], json.loads(outcome[1:])["status"]) == (b"\3", "Success")


async def test_what_is_typed_may_come_as_text(connect: Connect) -> None:
    socket = await connect(f"{PODS}/p/exec?command=cat&stdin=True&stdout=true", "v5.channel.k8s.io")
    await socket.send_str("\0grüß dich")
    await socket.send_bytes(b"\xff\x00")
    assert (await all_of(socket))[0] == (BINARY, "\1grüß dich".encode())
    socket = await connect(f"{PODS}/p/exec?command=cat&stdin=1&stdout=true", "base64.channel.k8s.io")
    await socket.send_str("0" + base64.b64encode(b"twice").decode())
    await socket.send_str("0no base64!")
    assert await socket.receive_str() == "1" + base64.b64encode(b"twice").decode()


async def test_ports_are_pairs_of_channels(connect: Connect) -> None:
    socket = await connect(f"{PODS}/p/portforward?ports=80,81&ports=9999", "v4.channel.k8s.io")
    greetings = [await socket.receive_bytes() for _ in range(6)]
    numbers = (80, 80, 81, 81, 9999, 9999)
    assert greetings == [bytes((n,)) + port.to_bytes(2, "little") for n, port in enumerate(numbers)]
    for channel, port in ((0, 80), (4, 9999)):
        await socket.send_bytes(bytes((channel,)) + b"hello")
        assert await socket.receive_bytes() == bytes((channel,)) + f"port {port}: hello".encode()


TOO_MANY = "ports=" + ",".join(map(str, range(1, 66)))


@pytest.mark.parametrize("ports", ["", "ports=0", "ports=65536", "ports=x", TOO_MANY])
async def test_ports_that_are_none_are_refused(connect: Connect, ports: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
        await connect(f"{PODS}/p/portforward?{ports}", "v4.channel.k8s.io")


async def test_a_protocol_that_nobody_speaks_is_refused(connect: Connect) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
        await connect(f"{PODS}/p/exec?command=cat", "v9.channel.k8s.io")


SESAME = "base64url.bearer.authorization.k8s.io.c2VzYW1l"


async def test_a_browser_shows_its_token_among_the_protocols(connect: Connect) -> None:
    socket = await connect(f"{PODS}/p/exec?command=echo&stdout=true", SESAME, "v5.channel.k8s.io", token="")
    assert socket.protocol == "v5.channel.k8s.io"
    assert (await all_of(socket))[0] == (BINARY, b"\x01echo\n")


@pytest.mark.parametrize(
    "protocols", [(), (SESAME,), (SESAME, SESAME + "AA"), (SESAME[:-1],), (SESAME + "!",), (SESAME + "_w",)]
)
async def test_what_is_no_token_among_the_protocols_lets_nobody_in(
    connect: Connect, protocols: tuple[str, ...]
) -> None:
    others = () if protocols == (SESAME,) else ("v5.channel.k8s.io",)
    with pytest.raises(aiohttp.WSServerHandshakeError, match=r"401|403"):
        await connect(f"{PODS}/p/exec?command=echo&stdout=true", *others, *protocols, token="")


async def test_logs_come_in_messages(connect: Connect) -> None:
    lines = [(BINARY, f"line {n} of c\n".encode()) for n in range(5)]
    assert await all_of(await connect(f"{PODS}/p/log?follow", "binary.k8s.io")) == lines
    assert await all_of(await connect(f"{PODS}/p/log")) == lines
    encoded = await all_of(await connect(f"{PODS}/p/log?tailLines=1", "base64.binary.k8s.io"))
    assert encoded == [(TEXT, base64.b64encode(b"line 4 of c\n").decode())]


async def test_each_event_of_a_watch_is_a_message(cluster: Cluster, connect: Connect) -> None:
    socket = await connect(f"{PODS}?watch=True")
    event = json.loads(await asyncio.wait_for(socket.receive_str(), 10))
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "p")
    await cluster.client().delete("pods", "p", "default")
    types = [json.loads(await asyncio.wait_for(socket.receive_str(), 10))["type"]]
    assert types[0] in ("MODIFIED", "DELETED")
