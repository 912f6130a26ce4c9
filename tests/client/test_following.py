"""A client of the API servers learns of those that came, also while those it knows go."""

import asyncio
import contextlib

import pytest

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.client import api as api_module
from rayplane.control_plane.rpc import Context, Service
from rayplane.control_plane.rpc.callers import EVERYONE, each
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

DISCOVERY = pb.DESCRIPTOR.services_by_name["Discovery"]


class Server:
    """A server that knows which servers there are, and nothing else."""

    async def Endpoints(self, request: pb.EndpointsRequest, context: Context) -> pb.EndpointsResponse:
        return pb.EndpointsResponse(grpc=["b:1", "c:1"], supervisors=["elsewhere:1"])


def test_one_server_that_is_gone_keeps_nobody_from_asking_another() -> None:
    """The others may be gone before the next look is due."""

    async def main() -> None:
        fabric = Fabric()
        service = Service(DISCOVERY, Server(), callers=each(EVERYONE, "Endpoints"))
        await MemoryNetwork(fabric, "b").serve("b:1", [service])
        client = ApiClient(MemoryNetwork(fabric, "client"), ["a:1", "b:1"], discovery=["lost:1"])

        async def call() -> None:
            with contextlib.suppress(ApiError):
                await client.get("nodes", "n")

        await call()
        await asyncio.sleep(api_module.DISCOVER_EVERY_S)
        for _ in range(4):
            await call()
            await asyncio.sleep(2 * api_module.DISCOVER_AGAIN_S)
        assert client.endpoints.addresses == ("b:1", "c:1")
        assert client.supervisors == ("elsewhere:1",), "and of the supervisor, whose machine was lost"

    VirtualLoop().run(main())


@pytest.mark.parametrize("watches", [False, True])
def test_who_knows_only_servers_that_are_gone_asks_others_where_there_are_some(watches: bool) -> None:
    async def main() -> None:
        fabric = Fabric()
        service = Service(DISCOVERY, Server(), callers=each(EVERYONE, "Endpoints"))
        await MemoryNetwork(fabric, "s").serve("s:1", [service])
        client = ApiClient(MemoryNetwork(fabric, "client"), ["a:1"], discovery=["gone:1", "s:1"])

        async def call() -> None:
            with contextlib.suppress(ApiError):
                if watches:
                    async for _ in client.watch("nodes"):
                        pass
                else:
                    await client.get("nodes", "n")

        await call()
        await asyncio.sleep(api_module.DISCOVER_EVERY_S)
        await call()
        assert client.endpoints.addresses == ("b:1", "c:1")

    VirtualLoop().run(main())
