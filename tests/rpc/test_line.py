"""Weather on real connections: what is sent and what comes waits, arrives in order, or never does."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from rayplane.control_plane.rpc import RpcError, client_connection, grpc_client
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.line import Way
from rayplane.control_plane.rpc.weather import Weather
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.rpc.grpc_peers import stub_of

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture
async def weather(ours: Any) -> AsyncIterator[tuple[Weather, Any]]:
    """Between a client `here` and the server `there`."""
    _, server = ours
    weather = Weather(random.Random(1), None, {server.address: "there"})
    network = GrpcNetwork(link=weather, here="here")
    weather.sever = network.sever
    yield weather, stub_of(network, server.address)
    await network.close()


@pytest.mark.parametrize("cut", [(["here"], ["there"]), (["there"], ["here"]), None])
async def test_what_cannot_pass_arrives_when_it_can_again(weather: Any, cut: Any) -> None:
    link, stub = weather
    await stub.Range(pb.RangeRequest(key=b"k"))
    link.cut(*cut) if cut else link.part(["here"])
    call = asyncio.ensure_future(stub.Range(pb.RangeRequest(key=b"k"), timeout=60.0))
    done, _ = await asyncio.wait([call], timeout=0.5)
    assert not done
    link.heal()
    await call


async def test_a_cable_that_was_pulled_is_noticed_by_the_silence(weather: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "SILENCE_CHECK_S", 0.05)
    monkeypatch.setattr(grpc_client, "CONNECT_TIMEOUT_S", 0.1)
    link, stub = weather
    await stub.Range(pb.RangeRequest(key=b"k"))
    link.part(["here"])
    for said in ("the connection was", "cannot connect"):
        with pytest.raises(RpcError, match=said) as failed:
            await stub.Range(pb.RangeRequest(key=b"k"), timeout=60.0)
        assert failed.value.code is grpc.StatusCode.UNAVAILABLE and not failed.value.refused


async def test_connections_that_break_are_made_again(weather: Any, ours: Any) -> None:
    link, stub = weather
    await stub.Range(pb.RangeRequest(key=b"k"))
    link.cut(["there"], ["here"])
    call = asyncio.ensure_future(stub.Range(pb.RangeRequest(key=b"k"), timeout=60.0))
    await asyncio.sleep(0)
    link.sever(lambda here, there: (here, there) == ("here", ours[1].address))
    with pytest.raises(RpcError):
        await call
    link.heal()
    await stub.Range(pb.RangeRequest(key=b"k"))


async def test_what_is_slow_stays_in_order() -> None:
    came: list[bytes] = []
    link = Weather(random.Random(1), None)
    way = Way(link, "a", "b", came.append)
    link.slow_s = 0.05
    for n in range(20):
        way.carry(bytes([n]))
    link.cut(["a"], ["b"])
    way.carry(b"x")
    link.slow_s = 0.0
    while len(came) < 20:
        await asyncio.sleep(0.01)
    assert came == [bytes([n]) for n in range(20)]
    link.heal()
    while len(came) < 21:
        await asyncio.sleep(0.01)
    way.carry(b"y")
    assert came[20:] == [b"x", b"y"]
    way.close()
