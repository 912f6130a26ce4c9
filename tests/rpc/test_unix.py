"""gRPC over Unix sockets: who may connect, what is left, and calls by the gRPC project's own client."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from rayplane.control_plane.rpc import RpcError, Stub, unix
from rayplane.control_plane.rpc.unix import UnixListener, unix_channel
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.rpc.grpc_peers import SERVICES, Handler, services

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[UnixListener]:
    server = UnixListener(services(Handler()))
    await server.listen(str(tmp_path / "s"))
    yield server
    await server.stop()


async def test_calls_pass_both_ways_between_us_and_others(listener: UnixListener) -> None:
    channel = unix_channel(listener.path)
    answer = await Stub(channel, SERVICES["KV"]).Range(pb.RangeRequest(key=b"k"))
    await channel.close()
    async with grpc.aio.insecure_channel(f"unix:{listener.path}") as theirs:
        call = theirs.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=pb.RangeRequest.SerializeToString,
            response_deserializer=pb.RangeResponse.FromString,
        )
        assert await call(pb.RangeRequest(key=b"k")) == answer


async def test_its_file_is_its_users_alone_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))  # by a server that was killed
    server = UnixListener(services(Handler()))
    await server.listen(str(path))
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    await server.stop()
    assert not path.exists()


async def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    server = UnixListener(services(Handler()))
    with pytest.raises(OSError):
        await server.listen(str(path))
    await server.stop()
    assert path.read_text() == "mine"


async def test_other_users_are_turned_away(listener: UnixListener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "peer_user", lambda sock: os.geteuid() + 1)
    channel = unix_channel(listener.path)
    with pytest.raises(RpcError) as refused:
        await Stub(channel, SERVICES["KV"]).Range(pb.RangeRequest(key=b"k"))
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    await channel.close()


async def test_who_has_connected_is_known(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unix.peer_user(ours) == os.geteuid()


async def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    channel = unix_channel(str(tmp_path / "nobody"))
    with pytest.raises(RpcError, match="nobody"):
        await Stub(channel, SERVICES["KV"]).Range(pb.RangeRequest(key=b"k"))
    await channel.close()


async def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    server = UnixListener(services(Handler()))
    with pytest.raises(OSError, match="too long for a socket"):
        await server.listen(str(tmp_path / ("x" * 200)))
    await server.stop()


async def test_answers_above_the_limit_are_refused(listener: UnixListener) -> None:
    channel = unix_channel(listener.path, limit=1)
    with pytest.raises(RpcError) as refused:
        await asyncio.wait_for(Stub(channel, SERVICES["KV"]).Range(pb.RangeRequest(key=b"k")), 10)
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await channel.close()
