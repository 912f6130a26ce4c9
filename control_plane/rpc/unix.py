"""gRPC over Unix sockets of this machine: what serves its own user's programs, and what reaches such a server.

The operating system says who is at the other end (SO_PEERCRED), and that a peer is gone: nobody is pinged.
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Sequence

from rayplane.control_plane.rpc.connection_io import Peer
from rayplane.control_plane.rpc.grpc_client import GrpcChannel
from rayplane.control_plane.rpc.listener import BACKLOG, GrpcListener
from rayplane.control_plane.rpc.service import MESSAGE_BYTES_MAX, Service
from rayplane.control_plane.rpc.sockets import connected, serving
from rayplane.storage.env.sockets import ADDRESS_BYTES_MAX

_OWN_USER_ONLY = 0o177
_CREDENTIALS = struct.Struct("iII")  # ucred: process, user, group
_NAME = "localhost"


class UnixListener(GrpcListener):
    """A server at a path, for the user that it runs as and for root. `path` names it once it has started."""

    def __init__(self, services: Sequence[Service]) -> None:
        super().__init__(services, None)
        self.path = ""

    async def listen(self, path: str) -> None:
        """Raises OSError. A socket that an earlier server left is replaced; its directory is this server's alone."""
        if len(os.fsencode(path)) > ADDRESS_BYTES_MAX:
            raise OSError(f"{path} is too long for a socket: use a --state-dir of fewer letters")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    os.unlink(path)
            before = os.umask(_OWN_USER_ONLY)
            try:
                sock.bind(path)
            finally:
                os.umask(before)
            loop = asyncio.get_running_loop()
            server = await serving(
                loop.create_unix_server(self.newcomer, sock=sock, backlog=BACKLOG, start_serving=False)
            )
        except BaseException:
            sock.close()
            raise
        self.path = path
        self.began(server, path)

    def admits(self, transport: asyncio.BaseTransport) -> bool:
        return peer_user(transport.get_extra_info("socket")) in (os.geteuid(), 0)

    async def stop(self, grace_s: float = 0.0) -> None:
        await super().stop(grace_s)
        if self.path:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def peer_user(sock: socket.socket) -> int:
    """The user id of who connected."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(data)[1]
    return user


def unix_channel(path: str, *, limit: int = MESSAGE_BYTES_MAX) -> GrpcChannel:
    """Calls to the server at a path, of this project or not. `limit`: of an answer, in bytes."""

    async def connect() -> socket.socket:
        return await connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)

    return GrpcChannel(path, None, connect=connect, peer=Peer(_NAME, pinged=False, answer_bytes_max=limit))
