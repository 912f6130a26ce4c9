"""Errors of the etcd API: each is itself again on the other side of the wire."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from rayplane.control_plane import etcd_errors
from rayplane.control_plane.etcd_errors import Code, EtcdError, recognised
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.etcd.harness import SERVICES
from tests.rpc.open_service import open_service

ROWS = EtcdError.__subclasses__()


class Refusing:
    """A KV service that raises, for a key, the error of that name."""

    async def Range(self, request: pb.RangeRequest, context: Any) -> pb.RangeResponse:
        raise getattr(etcd_errors, request.key.decode())


@pytest.fixture(params=["memory", "grpc"])
async def refusals(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    network: Network = MemoryNetwork(Fabric(), "m0") if request.param == "memory" else GrpcNetwork()
    address = "m0:2379" if request.param == "memory" else "127.0.0.1:0"
    server = await network.serve(address, [open_service(SERVICES["KV"], Refusing())])
    yield Stub(network.channel(server.address), SERVICES["KV"])
    await server.stop()
    if isinstance(network, GrpcNetwork):
        await network.close()


async def test_each_error_is_itself_again_on_the_other_side(refusals: Any) -> None:
    found = []
    for row in ROWS:
        with pytest.raises(RpcError) as caught:
            await refusals.Range(pb.RangeRequest(key=row.__name__.encode()))
        found.append(type(recognised(caught.value)))
    assert found == ROWS


def test_no_two_errors_read_the_same() -> None:
    assert len({row.prefix + row.text for row in ROWS}) == len(ROWS)


def test_what_a_connection_says_is_no_error_of_etcd() -> None:
    for error in (
        RpcError(Code.UNAVAILABLE, "connection reset by peer"),
        RpcError(Code.UNKNOWN, etcd_errors.NoLeader().message),
        RpcError(Code.UNAVAILABLE, etcd_errors.NoLeader().message, refused=True),
    ):
        assert recognised(error) is error
