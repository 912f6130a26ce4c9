"""The raft node: ticks, messages and proposals in, one Ready at a time out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rayplane.control_plane.etcd.raft import election, leader, steps
from rayplane.control_plane.etcd.raft.config import Config
from rayplane.control_plane.etcd.raft.core import Raft
from rayplane.control_plane.etcd.raft.errors import (
    ConfChangeRefused,
    InvariantViolated,
    ProposalDropped,
    ReadIndexDropped,
    TransferRefused,
)
from rayplane.control_plane.etcd.raft.membership import changed
from rayplane.control_plane.etcd.raft.storage import MemoryStorage
from rayplane.control_plane.etcd.raft.types import (
    NONE,
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    ProgressState,
    Ready,
    Role,
    SoftState,
    Standing,
    Status,
    payload,
)

if TYPE_CHECKING:
    from random import Random


def bootstrap(peers: Iterable[tuple[int, bytes]]) -> tuple[HardState, tuple[Entry, ...]]:
    """What each founding member's log begins with: one committed ADD_NODE per (id, context), by
    ascending id.

    Every founder must be given the same peers. Persist both before the first start;
    `Config.applied` is 0 then.
    """
    entries = tuple(
        Entry(1, index, EntryType.CONF_CHANGE, ConfChange(ConfChangeType.ADD_NODE, *peer).encode())
        for index, peer in enumerate(sorted(peers), 1)
    )
    return HardState(term=1, vote=NONE, commit=len(entries)), entries


class RawNode:
    """One member of a raft group. See the package's docstring for the driver's loop."""

    def __init__(self, config: Config, storage: MemoryStorage, rng: Random) -> None:
        """`rng` draws the election timeouts. ConfigError; InvariantViolated when storage
        contradicts itself.
        """
        self._raft = Raft(config, storage, rng)
        self._soft_state = SoftState(self._raft.lead, self._raft.role)
        self._hard_state = storage.hard_state
        self._out: Ready | None = None
        self._out_own_vote = 0

    # -- inputs
    # --------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One unit of logical time has passed."""
        steps.tick(self._raft)

    def step(self, message: Message) -> None:
        """A message from another member arrived. Stale ones are dropped. InvariantViolated on
        impossible ones.
        """
        steps.step(self._raft, message)

    def propose(self, data: bytes) -> int:
        """Append to the leader's log; the index it will have if it commits in this term.

        ProposalDropped on any other member (with the leader's id), during a transfer, or when too
        much is uncommitted. Call it as often as needed before the next `ready()`: all go into one
        append.
        """
        if not self._accepts_proposals():
            raise self._dropped()
        raft, size = self._raft, len(data)
        if size:
            if raft.uncommitted_size and raft.uncommitted_size + size > raft.config.max_uncommitted_size:
                raise ProposalDropped("too much is uncommitted: wait for the quorum", raft.lead)
            raft.uncommitted_size += size
        return raft.append_entry(EntryType.NORMAL, data)

    def _accepts_proposals(self) -> bool:
        """Nothing may follow a leader's own removal in its log: after a crash, the members left, which may not know
        of the commit yet, would need its vote and could not get it with a shorter log.
        """
        raft = self._raft
        return raft.role is Role.LEADER and not raft.lead_transferee and raft.own_removal_index <= raft.log.applied

    def _dropped(self) -> ProposalDropped:
        raft = self._raft
        if raft.role is Role.LEADER and raft.own_removal_index > raft.log.applied:
            return ProposalDropped("this leader is being removed: wait for the next one", raft.lead)
        if raft.role is Role.LEADER:
            return ProposalDropped(f"leadership is moving to {raft.lead_transferee}", raft.lead)
        if raft.lead == NONE:
            return ProposalDropped("there is no leader")
        return ProposalDropped(f"this member does not lead, {raft.lead} does", raft.lead)

    def propose_conf_change(self, change: ConfChange) -> int:
        """Append one membership change; its index. One at a time: the one before must have been
        applied.

        ConfChangeRefused, or ProposalDropped as in `propose`.
        """
        raft = self._raft
        if not self._accepts_proposals():
            raise self._dropped()
        if raft.pending_conf_index > raft.log.applied:
            raise ConfChangeRefused(f"the one at index {raft.pending_conf_index} is not applied yet", retryable=True)
        changed(raft.conf, change)
        data = change.encode()
        raft.pending_conf_index = raft.append_entry(EntryType.CONF_CHANGE, data)
        raft.uncommitted_size += len(data)
        if raft.removes(change):
            raft.own_removal_index = raft.pending_conf_index
        return raft.pending_conf_index

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """A committed change takes effect: call it once per CONF_CHANGE entry, in order, before
        `advance()`.

        A change with node_id NONE (a driver may so refuse one) has no effect. Returns the
        configuration to persist with the applied index.
        """
        raft = self._raft
        before = raft.conf
        try:
            raft.conf = changed(before, change)
        except ConfChangeRefused as error:
            raise InvariantViolated(f"a committed change cannot be applied: {error}") from error
        if raft.conf != before and raft.role is Role.LEADER:
            leader.configuration_changed(raft)
        return raft.conf

    def read_index(self, context: bytes) -> None:
        """Ask for a linearizable read; the answer is a ReadState with the same context, or never
        comes.

        Nothing comes when leadership changes or a message is lost: ask again after a timeout.
        ReadIndexDropped when nobody leads or too many reads wait. Reads before the same `ready()`
        share one round of heartbeats.
        """
        raft = self._raft
        if raft.role is Role.LEADER:
            if raft.reads.is_full():
                raise ReadIndexDropped(f"{len(raft.reads)} reads wait already: ask again later")
            leader.add_read(raft, raft.id, context)
        elif raft.lead == NONE:
            raise ReadIndexDropped("there is no leader: ask again later")
        else:
            raft.send(Message(MessageType.READ_INDEX, raft.lead, raft.id, context=context))

    def transfer_leader(self, to: int) -> None:
        """Hand leadership to voter `to`; given up after an election timeout. Followers pass the
        wish on.

        TransferRefused when nobody leads or `to` is no voter.
        """
        raft = self._raft
        if to not in raft.conf.voters:
            raise TransferRefused(f"member {to} is not a voter")
        if raft.role is Role.LEADER:
            leader.transfer(raft, to)
        elif raft.lead == NONE:
            raise TransferRefused("there is no leader: try again later")
        else:
            raft.send(Message(MessageType.TRANSFER_LEADER, raft.lead, raft.id, index=to))

    def campaign(self) -> bool:
        """Stand for election without waiting for the timeout; False when this node may not or leads
        already.
        """
        return election.hup(self._raft)

    def forget_leader(self, leader: int) -> bool:
        """`leader`'s process is known to be gone (its port refuses connections): do not wait out its lease.

        Until a leader is heard again this member answers pre-votes, and campaigns, with pre-vote, within
        `heartbeat_ticks` + 1 ticks plus one per voter of a lower id. Safe when the report is wrong: the next heartbeat
        brings the leader back, and while a majority hears it nobody else can be elected nor any term be raised.
        False, without effect, when this member does not follow `leader`.
        """
        return election.forget_leader(self._raft, leader)

    def report_unreachable(self, member: int) -> None:
        """The last message to `member` could not be sent: stop optimistic pipelining, and ask others about reads."""
        progress = self._raft.progress.get(member)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()
            leader.ask_others(self._raft)

    def report_snapshot(self, member: int, ok: bool) -> None:
        """How sending a SNAP message ended. Must follow every one, or the member gets nothing more."""
        progress = self._raft.progress.get(member)
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if not ok:
            progress.pending_snapshot = 0
        progress.become_probe()
        progress.paused = True  # until the member's acknowledgement or heartbeat answer

    # -- outputs
    # -------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready()` would have anything; False while one is out."""
        if self._out is not None:
            return False
        raft, hard, soft = self._raft, self._hard_state, self._soft_state
        log = raft.log
        return bool(
            raft.broadcast_wanted
            or raft.messages
            or raft.messages_after_append
            or log.unstable
            or log.committed != hard.commit
            or log.has_committed_entries()
            or raft.read_states
            or raft.reads.has_unsent()
            or raft.lead != soft.lead
            or raft.role is not soft.role
            or raft.term != hard.term
            or raft.vote != hard.vote
            or log.snapshot is not None
        )

    def ready(self) -> Ready:
        """Take what is to be done. InvariantViolated when the one before was not advanced."""
        if self._out is not None:
            raise InvariantViolated("a Ready is still out: call advance() with it first")
        raft = self._raft
        if raft.role is Role.LEADER:
            leader.flush(raft)
        log = raft.log
        before = self._hard_state
        hard = raft.hard_state()
        soft = None
        if raft.lead != self._soft_state.lead or raft.role is not self._soft_state.role:
            soft = self._soft_state = SoftState(raft.lead, raft.role)
        entries = tuple(log.unstable)
        must_sync = bool(entries) or log.snapshot is not None or hard.term != before.term or hard.vote != before.vote
        ready = Ready(
            soft,
            hard if hard != before else None,
            tuple(raft.read_states),
            entries,
            log.snapshot,
            log.next_committed(raft.config.max_committed_size_per_ready),
            tuple(raft.messages),
            tuple(raft.messages_after_append),
            must_sync,
        )
        self._hard_state = hard
        raft.read_states, raft.messages, raft.messages_after_append = [], [], []
        self._out, self._out_own_vote = ready, raft.own_vote_term
        return ready

    def advance(self, ready: Ready) -> None:
        """Everything in `ready` is durable, in storage, and applied."""
        if ready is not self._out:
            raise InvariantViolated("advance() takes the Ready that is out, once")
        self._out = None
        raft = self._raft
        log = raft.log
        if ready.snapshot is not None:
            # Not before: committed changes of older Readies were still being applied to the old configuration.
            raft.conf = ready.snapshot.conf_state
            log.snapshot_stable(ready.snapshot.index)
            log.applied_to(max(log.applied, ready.snapshot.index))
        committed = ready.committed_entries
        if committed:
            log.applied_to(committed[-1].index)
        if ready.entries:
            log.stable_to(ready.entries[-1].index, ready.entries[-1].term)
        if raft.role is Role.LEADER:
            if committed:
                raft.uncommitted_size = max(0, raft.uncommitted_size - payload(committed))
            leader.own_entries_durable(raft)
        elif self._out_own_vote:
            election.own_vote_durable(raft, self._out_own_vote)

    # -- observation
    # ---------------------------------------------------------------------------------------

    def acknowledged(self, member: int, term: int) -> tuple[int, int]:
        """(term, index) that `member`, whose term is `term` now, must have made durable as far as this node knows.

        With less it has lost what it acknowledged, and may not take part.
        """
        raft = self._raft
        known = raft.witness.terms.get(member, 0), raft.witness.indexes.get(member, 0)
        progress = raft.progress.get(member)
        if progress is None:
            return known
        # While its term is not above ours, nobody else can have replaced what is not committed.
        match = progress.match if term <= raft.term else min(progress.match, raft.log.committed)
        return known[0], max(known[1], match)

    @property
    def is_leader(self) -> bool:
        return self._raft.role is Role.LEADER

    @property
    def is_learner(self) -> bool:
        return self._raft.id in self._raft.conf.learners

    @property
    def leader(self) -> int:
        """The leader's id as far as this node knows, or NONE."""
        return self._raft.lead

    @property
    def term(self) -> int:
        """The current term, durable or not yet."""
        return self._raft.term

    def standing(self) -> Standing:
        """Where this node stands at this moment. Before its term's first commit a leader may not know the newest
        committed entry (§8).
        """
        raft = self._raft
        if raft.role is not Role.LEADER or raft.log.committed < raft.term_start:
            return Standing(raft.term)
        return Standing(raft.term, raft.log.committed, raft.conf.voters)

    def status(self) -> Status:
        """A picture of this node; see Status."""
        raft = self._raft
        return Status(
            id=raft.id,
            term=raft.term,
            vote=raft.vote,
            commit=raft.log.committed,
            applied=raft.log.applied,
            role=raft.role,
            lead=raft.lead,
            conf_state=raft.conf,
            last_index=raft.log.last_index,
            lead_transferee=raft.lead_transferee,
            progress={member: progress.view() for member, progress in raft.progress.items()},
        )
