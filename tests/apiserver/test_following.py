"""A server follows the others of its group: seldom asked for while nothing changes, and known soon when it does."""

import asyncio
from typing import Any

from rayplane.control_plane.apiserver.endpoints import ServerEntry
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

    async def prefer_leader(self) -> None:
        self.endpoints.prefer(self.endpoints.addresses[0])


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
