"""What tests of CRI share: clients of a socket, and nodes whose runtime is there."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from rayplane.control_plane.rpc import Stub
from rayplane.control_plane.rpc.unix import unix_channel
from rayplane.node.config import NodeConfig
from rayplane.proto.cri import cri_pb2 as pb

SERVICES = pb.DESCRIPTOR.services_by_name


def upper(path: Path) -> NodeConfig:
    return NodeConfig("n2", runtime=f"cri:unix://{path}")


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[tuple[Stub, Stub]]:
    """RuntimeService and ImageService at a socket."""
    channel = unix_channel(str(path))
    try:
        yield Stub(channel, SERVICES["RuntimeService"]), Stub(channel, SERVICES["ImageService"])
    finally:
        await channel.close()
