"""A server follows the others of its group: seldom asked for while nothing changes, and known soon when it does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from rayplane.control_plane.apiserver.endpoints import ServerEntry
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation.loop import VirtualLoop
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.apiserver.conftest import Stack
from tests.apiserver.fake_etcd import FakeEtcd

ENTRIES = b"/registry/masterleases/"


class CountingEtcd(FakeEtcd):
    """An etcd that counts what is asked of the group, with a leader."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = self.lists = 0

    async def range(self, key: bytes, *args: Any, **options: Any) -> pb.RangeResponse:
        self.looks += key == ENTRIES
        return await super().range(key, *args, **options)

    async def member_list(self, **options: Any) -> pb.MemberListResponse:
        self.lists += 1
        return await super().member_list(**options)

    async def prefer_leader(self, *, again: bool = True) -> None:
        self.endpoints.prefer(self.endpoints.addresses[0])


class Leaderless(FakeEtcd):
    """An etcd that has no leader for a while: it refuses watches, and whoever asks for its revision waits."""

    leaderless = False

    async def watch(self, *args: Any, **options: Any) -> AsyncIterator[pb.WatchResponse]:
        if self.leaderless:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        async for response in super().watch(*args, **options):
            yield response


def test_who_reads_while_there_is_no_leader_is_answered_as_soon_as_there_is_one() -> None:
    async def main() -> None:
        stack = Stack()
        etcd = stack.etcd = Leaderless()
        hub = (await stack.add_server()).registry.hub
        etcd.leaderless, etcd.hang = True, asyncio.Event()
        etcd.break_streams()
        await etcd.put(b"/registry/things/a", b"{}")
        reading = asyncio.create_task(hub.fresh())
        # By then the pauses between two tries have grown.
        await asyncio.sleep(1.6)
        etcd.leaderless = False
        etcd.hang.set()
        began = asyncio.get_running_loop().time()
        assert await reading == etcd.revision
        assert asyncio.get_running_loop().time() - began < 0.05
        await stack.stop()

    VirtualLoop().run(main())


def test_what_does_not_change_is_not_asked_for_and_what_does_is_known_within_a_round() -> None:
    async def main() -> None:
        stack = Stack()
        etcd = stack.etcd = CountingEtcd()
        server = await stack.add_server()
        await asyncio.sleep(60)
        assert etcd.looks <= 22 and etcd.lists <= 32
        await etcd.put(ENTRIES + b"other", b'{"grpc": "10.0.0.2:7443", "https": ""}')
        await asyncio.sleep(1.2)
        other = ServerEntry("other", "10.0.0.2:7443", "")
        assert other in server._keeper.servers()
        await etcd.delete(ENTRIES + b"other")
        etcd.endpoints.failed(etcd.endpoints.addresses[0])
        lists = etcd.lists
        await asyncio.sleep(1.2)
        assert other not in server._keeper.servers()
        assert etcd.lists == lists + 1, "members are asked for at once when one is lost"
        await stack.stop()

    VirtualLoop().run(main())
