"""The sync barrier: a Unix socket where a pod's processes wait until their writes are safe.

A line "sync" is answered "ok <generation>" once every change made before it was sent is durable on a majority of the
volume's replicas, or "error <reason>" (one line). A connection may send any number of lines, one answer each, in
order. Anything else is answered "error unknown command ...".
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Awaitable, Callable

from rayplane.control_plane.rpc.sockets import serving
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.volumes.errors import VolumeError
from rayplane.storage.env.sockets import ADDRESS_BYTES_MAX, short_directory

CONNECTIONS_MAX = 256
"""Further ones are closed at once."""
LINE_BYTES_MAX = 1024
_NAME_ROOM = len("/0123456789abcdef0123.sync")


def socket_directory() -> str:
    """Where the sockets of volumes are unless told."""
    name = f"rayplane-{os.getuid()}"
    return os.path.join(short_directory(len(name) + _NAME_ROOM), name)


class SyncBarrier:
    """The server of one volume's socket."""

    def __init__(self, path: str, sync: Callable[[], Awaitable[int]]) -> None:
        if len(os.fsencode(path)) > ADDRESS_BYTES_MAX:
            raise VolumeError(f"socket path {path} is longer than {ADDRESS_BYTES_MAX} bytes: use a shorter directory")
        self.path = path
        self._sync = sync
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        directory = os.path.dirname(self.path)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        status = os.lstat(directory)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise VolumeError(f"{directory} is not a directory of this user: remove it, or set another TMPDIR")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # left by a process that died
        made = asyncio.start_unix_server(self._accept, self.path, limit=LINE_BYTES_MAX, start_serving=False)
        self._server = await serving(made)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await cancel_and_wait(*self._connections)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(await self._answer(line.strip()))
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the client is gone, or its line was too long to be a command
        finally:
            writer.close()

    async def _answer(self, command: bytes) -> bytes:
        if command != b"sync":
            return b"error unknown command, send: sync\n"
        try:
            return b"ok %d\n" % await self._sync()
        except (VolumeError, OSError) as e:
            return b"error " + " ".join(str(e).split()).encode() + b"\n"
