"""Snapshots of one member's state machine: files that let the log be cut short, and state shipped to a peer that lags.

Concurrency: a file is written, and state is shipped, in tasks beside the driver's loop; both read the store as it was
when they began. Receiving and installing are steps of their callers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.bootstrap.recovery import Recovery
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env.failpoints import hit
from rayplane.storage.keyvalue.stream import decode
from rayplane.storage.mvcc import BUCKETS
from rayplane.storage.wal import SnapshotMark

log = logging.getLogger(__name__)

#: Records of a received snapshot checked before the loop may do something else.
VERIFY_RECORDS = 1_000
#: A log of this many bytes is cut short however big the store is.
LOG_BYTES_MAX = 512 << 20


class Shipping(Protocol):
    """The transport, by which state gets to a peer."""

    async def send_snapshot(self, message: raft.Message, chunks: Iterator[bytes]) -> None:
        """Raises RpcError."""


class Snapshots:
    """Snapshots of one member. `shipped` is told how sending to a peer ended: raft sends it nothing more before."""

    def __init__(
        self, config: MemberConfig, recovery: Recovery, transport: Shipping, shipped: Callable[[int, bool], None]
    ) -> None:
        self._machine = recovery.machine
        self._wal = recovery.wal
        self._files = recovery.snapshots
        self._transport = transport
        self._shipped = shipped
        self._every = config.snapshot_count
        self._mark = recovery.mark.index if recovery.mark else 0
        self._next = self._mark + self._every
        self._log_bytes = recovery.log_bytes  # of entries since the last file
        self._writing: asyncio.Task[None] | None = None
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._receiving = False

    def log_grew(self, size: int) -> None:
        """Entries of `size` bytes are about to be in the log."""
        self._log_bytes += size

    # Files

    def write_if_due(self, applied: int) -> None:
        """Begin to write a file when enough entries were applied since the last one."""
        if self._writing is not None or applied < self._next:
            return
        self._next = applied + self._every // 10 + 1
        # A big store is written out only once the log has grown as big.
        if self._log_bytes >= min(self._machine.store.backend.size()[1], LOG_BYTES_MAX):
            self._writing = asyncio.get_running_loop().create_task(self._write())
            self._writing.add_done_callback(self._written)

    async def _write(self) -> None:
        mark, covered = SnapshotMark(*self._machine.store.applied), self._log_bytes
        await self._files.write(mark, gently(self._machine.store.snapshot()))
        self._log_bytes -= covered
        if mark.index > self._mark:
            await self._mark_durable(mark)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing = None
        if not task.cancelled() and task.exception() is not None:
            # The log goes on growing and stays correct; a failed log ends the loop by itself.
            log.error("writing a snapshot failed: %s", task.exception())

    async def _mark_durable(self, mark: SnapshotMark) -> None:
        """The file of `mark` is durable: the log may begin after it."""
        await self._wal.mark_snapshot(mark.index, mark.term)
        self._mark = mark.index
        self._next = mark.index + self._every
        await self._wal.release(mark.index)
        await self._files.prune_before(mark)

    # From a leader

    async def receive(self, snapshot: raft.Snapshot, chunks: AsyncIterator[bytes]) -> None:
        """Keep the state that a leader sends as a durable file. Raises TooManyRequests while another one comes."""
        if self._receiving:
            raise errors.TooManyRequests
        self._receiving = True
        try:
            mark = SnapshotMark(snapshot.index, snapshot.term)
            await self._files.write(mark, chunks)
            # Once it is marked in the log there is no way back: be sure that it can be restored.
            await self._files.verify(mark)
            for number, _ in enumerate(decode(self._files.content(mark), BUCKETS)):
                if number % VERIFY_RECORDS == 0:
                    await asyncio.sleep(0)
        finally:
            self._receiving = False

    async def install(self, snapshot: raft.Snapshot) -> None:
        """The leader's state, received before, replaces this member's."""
        mark = SnapshotMark(snapshot.index, snapshot.term)
        await cancel_and_wait(self._writing)
        hit("install.before_mark")
        await self._mark_durable(mark)
        self._log_bytes = 0
        hit("install.before_restore")
        await self._machine.store.restore_gently(self._files.content(mark))
        self._machine.load()
        hit("install.after_restore")

    # To a peer

    def send(self, message: raft.Message) -> None:
        """Ship the state as of now, which is newer than what raft asked for."""
        peer = message.to
        if peer in self._sending or message.snapshot is None:
            self._shipped(peer, False)
            return
        applied = self._machine.store.applied
        snapshot = raft.Snapshot(applied.index, applied.term, self._machine.conf_state)
        ship = self._ship(message._replace(snapshot=snapshot), self._machine.store.snapshot())
        task = asyncio.get_running_loop().create_task(ship)
        self._sending[peer] = task
        task.add_done_callback(lambda _: self._sending.pop(peer, None))

    async def _ship(self, message: raft.Message, chunks: Iterator[bytes]) -> None:
        try:
            await self._transport.send_snapshot(message, chunks)
        except Exception as e:
            # Whatever it was: raft must be told, or the member would get nothing more.
            log.log(logging.INFO if isinstance(e, RpcError) else logging.ERROR, "a snapshot to %x: %s", message.to, e)
            self._shipped(message.to, False)
        else:
            self._shipped(message.to, True)

    async def stop(self) -> None:
        """End what is written and sent."""
        tasks = [t for t in (self._writing, *self._sending.values()) if t is not None]
        await cancel_and_wait(*tasks)


async def gently(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Chunks, with other work in between."""
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)
