"""The driver: the one owner of the raft node, between raft, log, store and peers. Does what each Ready says, in order.

    messages       -> peers            at once: a leader's appends travel while its own log syncs
    entries        -> log              one sync for all that came in during the last one (group commit)
    committed      -> state machine    while the log syncs
    after append   -> peers            once the log is durable

Concurrency: one task runs the loop; everything else (ticks, received messages, proposals) only puts input into raft
and wakes it. Applying is synchronous in pieces of `APPLY_MAX` entries, with other work in between.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft
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
from rayplane.control_plane.etcd.server.replication.proposals import Proposals
from rayplane.control_plane.etcd.server.replication.read_index import ReadIndex
from rayplane.control_plane.etcd.server.replication.snapshots import Shipping, Snapshots
from rayplane.control_plane.tasks import end_each
from rayplane.proto.etcd.rpc_pb2 import MemberListResponse, ResponseHeader
from rayplane.storage.env.failpoints import hit

#: Entries, and bytes of them, applied before the loop may do something else.
APPLY_MAX = 256
APPLY_BYTES = 64 * 1024
#: Compacted changes removed from the backend per tick, besides twice as many as were written in it: what is written
#: may never outrun what is removed.
SCRUB_PER_TICK = 2_000


class Transport(Shipping, Protocol):
    """The links to peers."""

    def send(self, messages: Iterable[raft.Message]) -> None: ...


class Driver:
    """A driver that owns the raft node, its log and its storage.

    What concerns others is told by the lists of callbacks.
    """

    def __init__(
        self,
        config: MemberConfig,
        recovery: Recovery,
        transport: Transport,
        rng: random.Random,
        *,
        now: Callable[[], float],
        fail: Callable[[Exception], None],
    ) -> None:
        """`fail` is told of what a member cannot go on after, wherever the driver found it."""
        identity, machine = recovery.identity, recovery.machine
        self.member_id, self.cluster_id = identity.member_id, identity.cluster_id
        self.applied = machine.store.applied.index
        self._node = raft.RawNode(
            raft.Config(id=self.member_id, election_ticks=config.election_ticks, applied=self.applied),
            recovery.storage,
            rng,
        )
        self.proposals = Proposals()
        self.reads = ReadIndex(self._read_index, first=rng.getrandbits(60), timeout_s=config.request_timeout_s)
        self.on_leader: list[Callable[[raft.SoftState], None]] = []
        """There is another leader, or none."""
        self.on_members: list[Callable[[], None]] = []
        """The members, or what is known of them, are others."""
        self.on_restored: list[Callable[[], None]] = []
        """The state machine was replaced by a snapshot."""
        self.on_removed: list[Callable[[], None]] = []
        """A peer says that this member is none any more."""
        self._machine = machine
        self._config = config
        self._wal = recovery.wal
        self._storage = recovery.storage
        self._transport = transport
        self._snapshots = Snapshots(config, recovery, transport, self._shipped)
        self._applied_term = machine.store.applied.term
        self._now = now
        self._fail = fail
        self._wake = asyncio.Event()
        self._scrubbed_at = 0  # changes written when the store was scrubbed last
        self._failed = False

    # What it knows

    @property
    def term(self) -> int:
        return self._node.term

    @property
    def is_leader(self) -> bool:
        return self._node.is_leader

    @property
    def leader_id(self) -> int:
        """0 while no leader is known."""
        return self._node.leader

    @property
    def is_learner(self) -> bool:
        return self._node.is_learner

    def status(self) -> raft.Status:
        """A picture of the raft node."""
        return self._node.status()

    def standing(self) -> raft.Standing:
        """See RawNode."""
        return self._node.standing()

    async def reached(self, index: int) -> None:
        """Return when the state machine has come to a committed `index`. Raises Timeout, Stopped."""
        if self.applied < index:
            await self.reads.reached(index)

    def acknowledged(self, member_id: int, term: int) -> tuple[int, int]:
        """See RawNode."""
        return self._node.acknowledged(member_id, term)

    def header(self, revision: int) -> ResponseHeader:
        """The header of an answer about `revision`."""
        return ResponseHeader(
            cluster_id=self.cluster_id, member_id=self.member_id, revision=revision, raft_term=self._node.term
        )

    # Wishes

    def append(self, data: bytes) -> None:
        """A proposal to the leader's log. Raises ProposalDropped unless this member leads and takes it."""
        self._node.propose(data)
        self._wake.set()

    def append_change(self, change: raft.ConfChange) -> None:
        """A change of membership to the leader's log. Raises ProposalDropped, ConfChangeRefused."""
        self._node.propose_conf_change(change)
        self._wake.set()

    def transfer_leader(self, to: int) -> None:
        """Begin to hand leadership to a voter. Raises TransferRefused."""
        self._node.transfer_leader(to)
        self._wake.set()

    def campaign(self) -> None:
        """Stand for election now, if this member may."""
        if self._node.campaign():
            self._wake.set()

    def _read_index(self, context: bytes) -> None:
        self._node.read_index(context)
        self._wake.set()

    # Input from peers

    def receive(self, messages: Iterable[raft.Message], proposals: Iterable[bytes] = ()) -> list[int]:
        """What came from a peer; the ids of proposals that were not taken. Raises Stopped, when this member cannot
        go on.
        """
        if self._failed:
            raise errors.Stopped
        try:
            for message in messages:
                self._node.step(message)
        except Exception as e:
            # What contradicts all that this member knows ends it, once, and not only one call.
            self._failed = True
            self._fail(e)
            raise errors.Stopped from e
        refused = []
        for data in proposals:
            try:
                self._node.propose(data)
            except raft.ProposalDropped:
                refused.append(decode_head(data)[0])
        self._look()
        return refused

    async def receive_snapshot(self, message: raft.Message, chunks: AsyncIterator[bytes]) -> None:
        """Keep the state that a leader sends, then let raft decide about it. Raises TooManyRequests, Stopped."""
        if message.snapshot is None:
            raise errors.TooManyRequests
        if message.snapshot.index > self.applied:
            await self._snapshots.receive(message.snapshot, chunks)
        self.receive([message])

    def refused(self, peer: int, request_ids: Iterable[int]) -> None:
        """A peer did not take these proposals."""
        self.proposals.refused(peer, request_ids)

    def unreachable(self, peer: int) -> None:
        """Messages to a peer were lost."""
        self._node.report_unreachable(peer)
        self.proposals.fail_forwarded(peer)
        self._wake.set()

    def gone(self, peer: int) -> None:
        """Nothing listens any more where `peer` did: if it led, the others need not wait for its silence."""
        if self._node.forget_leader(peer):
            self._wake.set()

    def told_removed(self) -> None:
        """A peer says that this member is none any more."""
        _tell(self.on_removed)

    def _shipped(self, peer: int, ok: bool) -> None:
        self._node.report_snapshot(peer, ok)
        self._wake.set()

    # Time

    def tick(self, now: float) -> None:
        """One unit of raft's time has passed."""
        self._node.tick()
        self.reads.sweep(now, retry_after=self._config.election_ticks // 2)
        store = self._machine.store
        try:
            hit("apply.before_scrub")
            written, self._scrubbed_at = store.changes - self._scrubbed_at, store.changes
            store.scrub(SCRUB_PER_TICK + 2 * written)
            hit("apply.after_scrub")
            if store.backend.pending:
                store.commit()
        except Exception:
            self._failed = True
            raise
        self._look()

    # The loop

    def _look(self) -> None:
        """Wake the loop if there is anything for it: most heartbeats and their answers leave nothing to do."""
        if self._node.has_ready():
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled, or until something fails that a member cannot go on with."""
        while not self._failed:
            if not self._node.has_ready():
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                ready = self._node.ready()
                await self._handle(ready)
                self._node.advance(ready)
                self._after_apply()
            except Exception:
                self._failed = True
                raise

    async def _handle(self, ready: raft.Ready) -> None:
        if ready.soft_state is not None:
            for told in self.on_leader:
                told(ready.soft_state)
        self._send(ready.messages)
        if ready.snapshot is not None:
            await self._install(ready.snapshot)
        saving = await self._save(ready)
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

    async def _save(self, ready: raft.Ready) -> asyncio.Task[None] | None:
        """Begin to save; what has to be waited for, if anything."""
        if not ready.entries and ready.hard_state is None:
            return None
        records = [to_record(e) for e in ready.entries]
        self._snapshots.log_grew(sum([len(r.data) for r in records]))
        state = encode_hard_state(ready.hard_state) if ready.hard_state is not None else None
        save = self._wal.save(state, records, sync=ready.must_sync)
        if ready.must_sync:
            return asyncio.get_running_loop().create_task(save, name="wal-save")
        await save  # goes with the next one
        return None

    def _send(self, messages: Sequence[raft.Message]) -> None:
        if not messages:
            return
        if any(m.snapshot is not None for m in messages):
            for message in messages:
                if message.snapshot is not None:
                    self._snapshots.send(message)
            messages = [m for m in messages if m.snapshot is None]
        self._transport.send(messages)

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
            self._machine.store.set_applied(last.index, last.term)
            self.reads.applied(last.index)
        hit("apply.after_entries")

    def _apply_request(self, entry: raft.Entry, now: float) -> None:
        request_id, kind = decode_head(entry.data)
        proposal = self.proposals.take(request_id)
        request = proposal.request if proposal is not None else None
        if request is None:
            request = decode_request(entry.data, kind)
        waits = proposal is not None and not proposal.future.done()
        try:
            outcome = self._machine.apply(kind, request, now, told=waits)
        except errors.EtcdError as e:
            if proposal is not None and waits:
                proposal.future.set_exception(e)
        else:
            if proposal is not None and waits and outcome is not None:
                proposal.future.set_result(outcome)
        if kind in (Kind.ATTRIBUTES, Kind.MEMBER_UPDATE):
            _tell(self.on_members)

    def _apply_conf_change(self, entry: raft.Entry) -> None:
        change = raft.ConfChange.decode(entry.data)
        if change.node_id == raft.NONE:
            self._node.apply_conf_change(change)
            return
        request_id, member = decode_member(change.context)
        proposal = self.proposals.take(request_id)
        refusal: errors.EtcdError | None = None
        hit("apply.before_conf_change")
        try:
            self._machine.apply_conf_change(change, member)
        except errors.EtcdError as e:
            refusal = e
            change = raft.ConfChange(change.type, raft.NONE)
        self._machine.save_conf_state(self._node.apply_conf_change(change))
        hit("apply.after_conf_change")
        if refusal is None:
            _tell(self.on_members)
        if proposal is not None and not proposal.future.done():
            if refusal is not None:
                proposal.future.set_exception(refusal)
            else:
                proposal.future.set_result(MemberListResponse(members=self._machine.members.all()))

    # Snapshots

    def _after_apply(self) -> None:
        """Now and then: shorten the log in memory, and the one on disk behind a snapshot file."""
        shorten(self._storage, self._machine, self._config)
        self._snapshots.write_if_due(self.applied)

    async def _install(self, snapshot: raft.Snapshot) -> None:
        """The leader's state replaces this member's."""
        await self._snapshots.install(snapshot)
        self._storage.apply_snapshot(snapshot)
        self.applied = snapshot.index
        self._applied_term = snapshot.term
        self.proposals.fail_handed_over()
        self.reads.applied(self.applied)
        _tell(self.on_restored)
        _tell(self.on_members)

    # The end

    async def stop(self, *, in_order: bool = True) -> None:
        """After the loop's task has ended: end what it started, close the log and the store.

        After a failure the store may hold half of an entry's effect: it is left as it was committed last. So is
        everything without `in_order`, as if the process had died.
        """
        await end_each(
            self._snapshots.stop, *([self._wal.close] if in_order else []), partial(self._close_store, in_order)
        )

    async def _close_store(self, in_order: bool) -> None:
        backend = self._machine.store.backend
        # A thread that still reads the store's file would read what is not there any more.
        await backend.idle()
        if self._failed or not in_order:
            backend.abandon()
        else:
            self._machine.store.close()


def _tell(listeners: Iterable[Callable[[], None]]) -> None:
    for told in listeners:
        told()


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
