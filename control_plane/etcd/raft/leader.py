"""The leader's part of Raft: replicate, commit, confirm reads, hand over.

Appends are not sent when they are proposed but once per Ready (`flush`), so that a burst of
proposals, acks and commits becomes one message per member.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.etcd.raft.core import Raft
from rayplane.control_plane.etcd.raft.errors import Compacted, SnapshotUnavailable
from rayplane.control_plane.etcd.raft.progress import Progress
from rayplane.control_plane.etcd.raft.quorum import committed_index, majority
from rayplane.control_plane.etcd.raft.reads import round_of
from rayplane.control_plane.etcd.raft.types import (
    NONE,
    Entry,
    Message,
    MessageType,
    ProgressState,
    ReadState,
    payload,
)

#: By first index: entries that fit one message, and their payload.
_Cut = dict[int, tuple[tuple[Entry, ...], int]]


# -- time
# ------------------------------------------------------------------------------------------------------


def on_tick(raft: Raft) -> None:
    """Heartbeats, and once per election timeout: does a quorum still answer, did a transfer take
    too long.
    """
    raft.heartbeat_elapsed += 1
    if raft.election_elapsed >= raft.config.election_ticks:
        raft.election_elapsed = 0
        raft.lead_transferee = NONE
        if raft.config.check_quorum and not _quorum_active(raft):
            raft.become_follower(raft.term, NONE)
            return
        _hand_over_if_removed(raft)
    if raft.heartbeat_elapsed >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        for progress in raft.progress.values():
            progress.nudge = True
        broadcast_heartbeat(raft)


def _quorum_active(raft: Raft) -> bool:
    active = 0
    for member, progress in raft.progress.items():
        if member == raft.id or progress.recent_active:
            active += not progress.is_learner
        progress.recent_active = member == raft.id
    return active >= majority(len(raft.conf.voters))


def broadcast_heartbeat(raft: Raft) -> None:
    """Heartbeats to all; they carry the newest round of reads too, in case those asked for it are silent."""
    _send_heartbeats(raft, raft.progress)


def _send_heartbeats(raft: Raft, members: Iterable[int]) -> None:
    context = raft.reads.heartbeat_context()
    committed = raft.log.committed
    durable = min(raft.log.offset - 1, committed)
    for member in members:
        if member != raft.id:
            progress = raft.progress[member]
            # Not above what the member has: its log's end may still differ from ours.
            commit = min(progress.match, committed)
            beat = Message(MessageType.HEARTBEAT, member, raft.id, raft.term, commit=commit, context=context)
            raft.send(beat._replace(index=progress.match, durable=durable))


# -- replication
# -----------------------------------------------------------------------------------------------


def flush(raft: Raft) -> None:
    """Send what the last steps made necessary: new entries, a new commit index, a new round of
    reads.
    """
    if raft.reads.has_unsent():
        raft.reads.open_round()
        _send_heartbeats(raft, _asked_first(raft))
        _confirm_reads(raft)
    if not raft.broadcast_wanted:
        return
    raft.broadcast_wanted = False
    cut: _Cut = {}
    for member, progress in raft.progress.items():
        if member != raft.id:
            _feed(raft, member, progress, cut)


def _feed(raft: Raft, member: int, progress: Progress, cut: _Cut) -> None:
    """All that the member's window allows; an empty append when only the commit index is news."""
    log = raft.log
    allow_empty = progress.sent_commit < log.committed
    while send_append(raft, member, progress, allow_empty=allow_empty, cut=cut):
        if progress.next > log.last_index:
            return
        allow_empty = False


def send_append(raft: Raft, member: int, progress: Progress, *, allow_empty: bool, cut: _Cut) -> bool:
    """One append (or a snapshot where the log no longer reaches); False when nothing, or nothing more, is to go.

    `cut` keeps what was cut out of the log for others: members mostly stand at the same index.
    """
    paused = progress.is_paused()
    if paused and not (allow_empty and progress.state is ProgressState.REPLICATE):
        return False
    log = raft.log
    low = progress.next
    entries: tuple[Entry, ...] = ()
    size = 0
    try:
        previous_term = log.term(low - 1)
        if not paused and low <= log.last_index:
            found = cut.get(low)
            if found is None:
                entries = log.entries(low, log.last_index + 1, raft.config.max_size_per_message)
                found = cut[low] = entries, payload(entries)
            entries, size = found
    except Compacted:
        _send_snapshot(raft, member, progress)
        return False
    if not entries and not allow_empty:
        return False
    committed = log.committed
    raft.messages.append(
        Message(MessageType.APP, member, raft.id, raft.term, previous_term, low - 1, entries, committed)
    )
    progress.sent_commit = committed
    if entries:
        progress.sent(entries[-1].index, size)
        return True
    if progress.state is ProgressState.PROBE:
        progress.paused = True
    return False


def _send_snapshot(raft: Raft, member: int, progress: Progress) -> None:
    if not progress.recent_active:
        return  # it would not arrive; the next heartbeat's answer brings us back
    try:
        snapshot = raft.log.storage.snapshot()
    except SnapshotUnavailable:
        return
    progress.become_snapshot(snapshot.index)
    raft.send(Message(MessageType.SNAP, member, raft.id, raft.term, snapshot=snapshot))


def maybe_commit(raft: Raft) -> bool:
    """§5.3, §5.4.2: an index that a majority holds, of this leader's own term."""
    progress = raft.progress
    index = committed_index([progress[voter].match for voter in raft.conf.voters])
    if index < raft.term_start or not raft.log.commit_to(index):
        return False
    raft.broadcast_wanted = True
    raft.reads.release_early(index)
    return True


def own_entries_durable(raft: Raft) -> None:
    """The leader's own acknowledgement: its log is on disk up to `offset`."""
    own = raft.progress.get(raft.id)
    if own is not None and own.acknowledged(raft.log.offset - 1):
        maybe_commit(raft)


# -- messages
# --------------------------------------------------------------------------------------------------


def step(raft: Raft, message: Message) -> None:
    """Messages in the leader's own term, other than requests for votes. Unknown senders are
    ignored.
    """
    kind = message.type
    if kind is MessageType.READ_INDEX:
        if not raft.reads.is_full():
            add_read(raft, message.from_, message.context)
        return
    if kind is MessageType.TRANSFER_LEADER:
        transfer(raft, message.index)
        return
    progress = raft.progress.get(message.from_)
    if progress is None:
        return
    if kind is MessageType.APP_RESP:
        progress.recent_active = True
        if message.reject:
            _on_rejected(raft, message, progress)
        else:
            _on_acknowledged(raft, message, progress)
    elif kind is MessageType.HEARTBEAT_RESP:
        _on_heartbeat_resp(raft, message, progress)


def _on_rejected(raft: Raft, message: Message, progress: Progress) -> None:
    """§5.3's back-off, a whole term at a time: neither log can match above the hint."""
    hint = message.reject_hint
    if message.log_term > 0:
        hint, _ = raft.log.find_conflict_by_term(hint, message.log_term)
    if progress.rejected(message.index, hint):
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        send_append(raft, message.from_, progress, allow_empty=True, cut={})


def _on_acknowledged(raft: Raft, message: Message, progress: Progress) -> None:
    probing = progress.state is ProgressState.PROBE
    if not progress.acknowledged(message.index) and not (probing and progress.match == message.index):
        return
    if probing:
        progress.become_replicate()
    elif progress.state is ProgressState.REPLICATE:
        progress.free_inflight(message.index)
    elif progress.match + 1 >= raft.log.first_index:
        progress.become_replicate()  # the snapshot, or an older append, reaches into the log again
    if not maybe_commit(raft) and (progress.next <= raft.log.last_index or progress.sent_commit < raft.log.committed):
        raft.broadcast_wanted = True
    _complete_transfer(raft, message.from_, progress)


def _on_heartbeat_resp(raft: Raft, message: Message, progress: Progress) -> None:
    progress.recent_active = True
    if progress.nudge:
        # Once per tick, however many rounds of reads are answered meanwhile.
        progress.nudge = progress.paused = False
        if progress.match < raft.log.last_index or progress.state is ProgressState.PROBE:
            # Something on its way may be lost: an append, be it empty, shows where the member stands.
            send_append(raft, message.from_, progress, allow_empty=True, cut={})
        _complete_transfer(raft, message.from_, progress)
    if message.context:
        round_ = round_of(message.context)
        if round_ > progress.read_ack:
            progress.read_ack, progress.read_turn = round_, raft.reads.next_turn()
        _confirm_reads(raft)


# -- reads
# -----------------------------------------------------------------------------------------------------


def add_read(raft: Raft, origin: int, context: bytes) -> None:
    """Take a read; before the term's first commit this node may not know the newest committed entry
    (§8).
    """
    if raft.log.committed < raft.term_start:
        raft.reads.add_early(origin, context)
    else:
        raft.reads.add(raft.log.committed, origin, context)


def _asked_first(raft: Raft) -> list[int]:
    """As many voters as a round of reads needs beside the leader: who answered the last ones soonest.

    Where one of them is silent, the next tick's heartbeats ask all.
    """
    voters, progress = raft.conf.voters, raft.progress
    others = [voter for voter in voters if voter != raft.id]
    others.sort(key=lambda voter: progress[voter].slowness)
    return others[: majority(len(voters)) - (raft.id in voters)]


def _confirm_reads(raft: Raft) -> None:
    newest = raft.reads.sent_round
    acks = [newest if voter == raft.id else raft.progress[voter].read_ack for voter in raft.conf.voters]
    for read in raft.reads.confirmed(committed_index(acks)):
        if read.origin == raft.id:
            raft.read_states.append(ReadState(read.index, read.context))
        else:
            raft.send(
                Message(
                    MessageType.READ_INDEX_RESP,
                    read.origin,
                    raft.id,
                    raft.term,
                    index=read.index,
                    context=read.context,
                )
            )


# -- transfer and membership
# -----------------------------------------------------------------------------------


def transfer(raft: Raft, to: int) -> bool:
    """Thesis §3.10: bring the member up to date, then let it campaign at once; False when it cannot
    lead.
    """
    progress = raft.progress.get(to)
    if progress is None or progress.is_learner:
        return False
    if to == raft.id:
        raft.lead_transferee = NONE  # it stays, whatever was wished before
        return True
    if to == raft.lead_transferee:
        return True  # the time it is given runs already
    raft.lead_transferee = to
    raft.election_elapsed = 0  # the time it is given
    raft.broadcast_wanted = True
    _complete_transfer(raft, to, progress)
    return True


def _complete_transfer(raft: Raft, member: int, progress: Progress) -> None:
    """Tell the one that is to lead, once it has the whole log; again with each of its answers, as it may get lost."""
    if member == raft.lead_transferee and progress.match == raft.log.last_index:
        raft.send(Message(MessageType.TIMEOUT_NOW, member, raft.id, raft.term))


def ask_others(raft: Raft) -> None:
    """A member that may have been asked about reads was lost: ask all about those that wait."""
    if raft.reads.heartbeat_context():
        broadcast_heartbeat(raft)


def configuration_changed(raft: Raft) -> None:
    """The leader has applied a membership change: majorities may have shrunk, new members want feeding."""
    raft.track_members(active=True)  # no reason yet to think that a new member is away
    if raft.lead_transferee not in raft.conf.voters:
        raft.lead_transferee = NONE
    raft.broadcast_wanted = True
    maybe_commit(raft)
    _confirm_reads(raft)
    _hand_over_if_removed(raft)


def _hand_over_if_removed(raft: Raft) -> None:
    """A leader outside of its own configuration leads on, not counting itself, until another takes over.

    Stepping down at once could strand the others: they may not know yet that its removal is committed
    (thesis §4.2.2).
    """
    if raft.id not in raft.conf.voters and raft.lead_transferee == NONE:
        transfer(raft, max(raft.conf.voters, key=lambda voter: (raft.progress[voter].match, -voter)))
