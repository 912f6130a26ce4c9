"""The loop between raft, log, store and peers: takes each Ready and does what it says, in its order.

    messages       -> peers            at once: a leader's appends travel while its own log syncs
    entries        -> log              one sync for all that came in during the last one (group commit)
    committed      -> state machine    while the log syncs
    after append   -> peers            once the log is durable

Concurrency: one task runs the loop; everything else (ticks, received messages, proposals) only puts input into raft
and wakes it. Applying is synchronous in pieces of `APPLY_MAX` entries, with other work in between.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from google.protobuf.message import Message

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server import errors
from rayplane.control_plane.etcd.server.bootstrap.recovery import Recovery, shorten
from rayplane.control_plane.etcd.server.codec import (
    Kind,
    decode_head,
    decode_member,
    decode_request,
    encode_hard_state,
    to_record,
)
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.replication.pending import Proposals, ReadRounds
from rayplane.control_plane.etcd.server.replication.transport import PeerTransport
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd.rpc_pb2 import MemberListResponse
from rayplane.storage.env.failpoints import hit
from rayplane.storage.keyvalue.stream import decode
from rayplane.storage.mvcc import BUCKETS
from rayplane.storage.wal import SnapshotMark

log = logging.getLogger(__name__)

#: Entries, and bytes of them, applied before the loop may do something else.
APPLY_MAX = 256
APPLY_BYTES = 64 * 1024
#: Records of a received snapshot checked before the loop may do something else.
VERIFY_RECORDS = 1_000
#: Compacted changes removed from the backend per tick, besides twice as many as were written in it: what is written
#: may never outrun what is removed.
SCRUB_PER_TICK = 2_000
#: A log of this many bytes is cut short however big the store is.
LOG_BYTES_MAX = 512 << 20


class Driver:
    """Owns the raft node, its log and its storage. The member is told of what concerns it by callbacks."""

    def __init__(
        self,
        config: MemberConfig,
        recovery: Recovery,
        node: raft.RawNode,
        *,
        on_leader: Callable[[raft.SoftState], None],
        on_members: Callable[[], None],
        on_restored: Callable[[], None],
        now: Callable[[], float],
        first_read: int,
    ) -> None:
        self.node = node
        self.machine: StateMachine = recovery.machine
        self.proposals = Proposals()
        self.reads = ReadRounds(self._read_index, first=first_read)
        self.applied = self.machine.store.applied.index
        self.transport: PeerTransport | None = None
        self._config = config
        self._wal = recovery.wal
        self._snapshots = recovery.snapshots
        self._storage = recovery.storage
        self._mark = recovery.mark.index if recovery.mark else 0
        self._next_checkpoint = self._mark + config.snapshot_count
        self._log_bytes = recovery.log_bytes  # of entries since the last snapshot file
        self._applied_term = self.machine.store.applied.term
        self._on_leader = on_leader
        self._on_members = on_members
        self._on_restored = on_restored
        self._now = now
        self._wake = asyncio.Event()
        self._checkpoint: asyncio.Task[None] | None = None
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._receiving = False
        self._scrubbed_at = 0  # changes written when the store was scrubbed last
        self._failed = False
        self.abandoned = False

    # Inputs

    def wake(self) -> None:
        self._wake.set()

    def step(self, messages: Sequence[raft.Message]) -> None:
        """Messages of other members. Raises raft's InvariantViolated; then nothing more may come of this member."""
        try:
            for message in messages:
                self.node.step(message)
        except Exception:
            self._failed = True
            raise
        self._wake.set()

    def tick(self, now: float) -> None:
        """One unit of raft's time has passed."""
        self.node.tick()
        self.proposals.expire(now)
        self.reads.sweep(now, retry_after=self._config.election_ticks // 2)
        try:
            hit("apply.before_scrub")
            written, self._scrubbed_at = self.machine.store.changes - self._scrubbed_at, self.machine.store.changes
            self.machine.store.scrub(SCRUB_PER_TICK + 2 * written)
            hit("apply.after_scrub")
            if self.machine.store.backend.pending:
                self.machine.store.commit()
        except Exception:
            self._failed = True
            raise
        self._wake.set()

    def _read_index(self, context: bytes) -> None:
        self.node.read_index(context)
        self._wake.set()

    async def receive_snapshot(self, message: raft.Message, chunks: AsyncIterator[bytes]) -> None:
        """Keep the state that a leader sends as a durable file, then let raft decide about it."""
        snapshot = message.snapshot
        if snapshot is None or self._receiving:
            raise errors.TooManyRequests
        if snapshot.index <= self.applied:
            self.step([message])
            return
        self._receiving = True
        try:
            mark = SnapshotMark(snapshot.index, snapshot.term)
            await self._snapshots.write(mark, chunks)
            # Once it is marked in the log there is no way back: be sure that it can be restored.
            await self._snapshots.verify(mark)
            for number, _ in enumerate(decode(self._snapshots.content(mark), BUCKETS)):
                if number % VERIFY_RECORDS == 0:
                    await asyncio.sleep(0)
            self.step([message])
        finally:
            self._receiving = False

    # The loop

    async def run(self) -> None:
        """Until cancelled, or until something fails that a member cannot go on with."""
        while not self._failed:
            if not self.node.has_ready():
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                ready = self.node.ready()
                await self._handle(ready)
                self.node.advance(ready)
                self._after_apply()
            except Exception:
                self._failed = True
                raise

    async def _handle(self, ready: raft.Ready) -> None:
        if ready.soft_state is not None:
            self._on_leader(ready.soft_state)
        self._send(ready.messages)
        if ready.snapshot is not None:
            await self._install(ready.snapshot)
        saving = self._save(ready)
        if ready.committed_entries:
            await self._apply_all(ready.committed_entries)
        for state in ready.read_states:
            self.reads.confirmed(state, self.applied)
        if saving is not None:
            await saving
        self._storage.append(ready.entries)
        if ready.hard_state is not None:
            self._storage.set_hard_state(ready.hard_state)
        self._send(ready.messages_after_append)

    def _save(self, ready: raft.Ready) -> asyncio.Task[None] | None:
        if not ready.entries and ready.hard_state is None:
            return None
        records = [to_record(e) for e in ready.entries]
        self._log_bytes += sum([len(r.data) for r in records])
        state = encode_hard_state(ready.hard_state) if ready.hard_state is not None else None
        save = self._wal.save(state, records, sync=ready.must_sync)
        return asyncio.get_running_loop().create_task(save, name="wal-save")

    def _send(self, messages: Sequence[raft.Message]) -> None:
        if not messages or self.transport is None:
            return
        if any(m.snapshot is not None for m in messages):
            for message in messages:
                if message.snapshot is not None:
                    self._send_snapshot(message)
            messages = [m for m in messages if m.snapshot is None]
        self.transport.send(messages)

    # Applying

    async def _apply_all(self, entries: Sequence[raft.Entry]) -> None:
        # Lets a save that was begun before get to its sync, which then runs beside the applying.
        await asyncio.sleep(0)
        hit("apply.before_entries")
        for number, piece in enumerate(_pieces(entries)):
            if number:
                await asyncio.sleep(0)
            now = self._now()
            for entry in piece:
                if entry.term != self._applied_term:
                    self._applied_term = entry.term
                    self.proposals.fail_before(entry.term)
                if entry.type is raft.EntryType.CONF_CHANGE:
                    self._apply_conf_change(entry)
                elif entry.data:
                    self._apply_request(entry, now)
            last = piece[-1]
            self.applied = last.index
            self.machine.store.set_applied(last.index, last.term)
            self.reads.applied(last.index)
        hit("apply.after_entries")

    def _apply_request(self, entry: raft.Entry, now: float) -> None:
        request_id, kind = decode_head(entry.data)
        proposal = self.proposals.take(request_id)
        request = proposal.request if proposal is not None else None
        if request is None:
            request = decode_request(entry.data, kind)
        outcome: Message | errors.EtcdError
        try:
            outcome = self.machine.apply(kind, request, now)
        except errors.EtcdError as e:
            outcome = e
        if kind in (Kind.ATTRIBUTES, Kind.MEMBER_UPDATE):
            self._on_members()
        if proposal is not None and not proposal.future.done():
            if isinstance(outcome, errors.EtcdError):
                proposal.future.set_exception(outcome)
            else:
                proposal.future.set_result(outcome)

    def _apply_conf_change(self, entry: raft.Entry) -> None:
        change = raft.ConfChange.decode(entry.data)
        if change.node_id == raft.NONE:
            self.node.apply_conf_change(change)
            return
        request_id, member = decode_member(change.context)
        proposal = self.proposals.take(request_id)
        refusal: errors.EtcdError | None = None
        hit("apply.before_conf_change")
        try:
            self.machine.apply_conf_change(change, member)
        except errors.EtcdError as e:
            refusal = e
            change = raft.ConfChange(change.type, raft.NONE)
        self.machine.save_conf_state(self.node.apply_conf_change(change))
        hit("apply.after_conf_change")
        if refusal is None:
            self._on_members()
        if proposal is not None and not proposal.future.done():
            if refusal is not None:
                proposal.future.set_exception(refusal)
            else:
                proposal.future.set_result(MemberListResponse(members=self.machine.members.all()))

    # Snapshots

    def _after_apply(self) -> None:
        """Now and then: shorten the log in memory, and the one on disk behind a snapshot file."""
        count = self._config.snapshot_count
        shorten(self._storage, self.machine, self._config)
        if self._checkpoint is None and self.applied >= self._next_checkpoint:
            self._next_checkpoint = self.applied + count // 10 + 1
            # A big store is written out only once the log has grown as big.
            if self._log_bytes >= min(self.machine.store.backend.size()[1], LOG_BYTES_MAX):
                self._checkpoint = asyncio.get_running_loop().create_task(self._write_checkpoint())
                self._checkpoint.add_done_callback(self._checkpoint_done)

    async def _write_checkpoint(self) -> None:
        mark, covered = SnapshotMark(*self.machine.store.applied), self._log_bytes
        await self._snapshots.write(mark, gently(self.machine.store.snapshot()))
        self._log_bytes -= covered
        if mark.index > self._mark:
            await self._mark_durable(mark)

    async def _mark_durable(self, mark: SnapshotMark) -> None:
        """The file of `mark` is durable: the log may begin after it."""
        await self._wal.mark_snapshot(mark.index, mark.term)
        self._mark = mark.index
        self._next_checkpoint = mark.index + self._config.snapshot_count
        await self._wal.release(mark.index)
        await self._snapshots.prune_before(mark)

    def _checkpoint_done(self, task: asyncio.Task[None]) -> None:
        self._checkpoint = None
        if not task.cancelled() and task.exception() is not None:
            # The log goes on growing and stays correct; a failed log ends the loop by itself.
            log.error("writing a snapshot failed: %s", task.exception())

    async def _install(self, snapshot: raft.Snapshot) -> None:
        """The leader's state replaces this member's."""
        mark = SnapshotMark(snapshot.index, snapshot.term)
        await cancel_and_wait(self._checkpoint)
        hit("install.before_mark")
        await self._mark_durable(mark)
        self._log_bytes = 0
        hit("install.before_restore")
        await self.machine.store.restore_gently(self._snapshots.content(mark))
        self.machine.load()
        hit("install.after_restore")
        self._storage.apply_snapshot(snapshot)
        self.applied = snapshot.index
        self._applied_term = snapshot.term
        self.proposals.fail_handed_over()
        self.reads.applied(self.applied)
        self._on_restored()

    def _send_snapshot(self, message: raft.Message) -> None:
        """Ship the state as of now, which is newer than what raft asked for."""
        peer = message.to
        if peer in self._sending or message.snapshot is None:
            self.node.report_snapshot(peer, False)
            return
        applied = self.machine.store.applied
        snapshot = raft.Snapshot(applied.index, applied.term, self.machine.conf_state)
        ship = self._ship(message._replace(snapshot=snapshot), self.machine.store.snapshot())
        task = asyncio.get_running_loop().create_task(ship)
        self._sending[peer] = task
        task.add_done_callback(lambda _: self._sending.pop(peer, None))

    async def _ship(self, message: raft.Message, chunks: Iterator[bytes]) -> None:
        assert self.transport is not None
        try:
            await self.transport.send_snapshot(message, chunks)
        except Exception as e:
            # Whatever it was: raft must be told, or the member would get nothing more.
            log.log(logging.INFO if isinstance(e, RpcError) else logging.ERROR, "a snapshot to %x: %s", message.to, e)
            self.node.report_snapshot(message.to, False)
        else:
            self.node.report_snapshot(message.to, True)
        self._wake.set()

    def abandon(self) -> None:
        """The process dies: neither log nor store is brought to an end."""
        self.abandoned = True

    async def stop(self) -> None:
        """After the loop's task has ended: end what it started, close the log and the store.

        After a failure the store may hold half of an entry's effect: it is left as it was committed last.
        """
        tasks = [t for t in (self._checkpoint, *self._sending.values()) if t is not None]
        await cancel_and_wait(*tasks)
        if self.abandoned:
            return
        await self._wal.close()
        if self._failed:
            self.machine.store.backend.abandon()
        else:
            self.machine.store.close()


def _pieces(entries: Sequence[raft.Entry]) -> Iterator[Sequence[raft.Entry]]:
    """Entries in pieces of some milliseconds of work."""
    start = size = 0
    for number, entry in enumerate(entries, 1):
        size += len(entry.data)
        if size >= APPLY_BYTES or number - start >= APPLY_MAX:
            yield entries[start:number]
            start, size = number, 0
    if start < len(entries):
        yield entries[start:]


async def gently(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Chunks, with other work in between."""
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)
