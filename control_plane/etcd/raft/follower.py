"""Rules of a follower: what it does with its leader's messages (§5.3, §7)."""

from __future__ import annotations

from rayplane.control_plane.etcd.raft import election
from rayplane.control_plane.etcd.raft.core import Raft
from rayplane.control_plane.etcd.raft.errors import LostEntries
from rayplane.control_plane.etcd.raft.types import Message, MessageType, ReadState, Snapshot


def step(raft: Raft, message: Message) -> None:
    """Messages in the follower's own term, other than requests for votes."""
    kind = message.type
    if kind is MessageType.APP:
        _heard(raft, message)
        _on_append(raft, message)
    elif kind is MessageType.HEARTBEAT:
        _heard(raft, message)
        if message.index > raft.log.last_index:
            raise LostEntries(
                f"this member has acknowledged entry {message.index} but its log ends at {raft.log.last_index}: "
                "its data was put back to an older state"
            )
        raft.witness.acknowledged(message.from_, message.durable)
        raft.log.commit_to(message.commit)
        raft.send(Message(MessageType.HEARTBEAT_RESP, message.from_, raft.id, raft.term, context=message.context))
    elif kind is MessageType.SNAP:
        _heard(raft, message)
        if message.snapshot is not None:
            _on_snapshot(raft, message, message.snapshot)
    elif kind is MessageType.TIMEOUT_NOW:
        election.hup(raft, transfer=True)
    elif kind is MessageType.READ_INDEX_RESP:
        raft.read_states.append(ReadState(message.index, message.context))


def _heard(raft: Raft, message: Message) -> None:
    if raft.lead == message.from_:
        raft.election_elapsed = 0
    else:
        raft.lead = message.from_
        raft.restart_election_timer()  # it may have been hastened while nobody led


def _acknowledge(raft: Raft, to: int, index: int) -> None:
    raft.messages_after_append.append(Message(MessageType.APP_RESP, to, raft.id, raft.term, 0, index))


def _on_append(raft: Raft, message: Message) -> None:
    log = raft.log
    if message.index < log.committed:
        _acknowledge(raft, message.from_, log.committed)
        return
    if log.maybe_append(message.index, message.log_term, message.entries):
        last_new = message.index + len(message.entries)
        log.commit_to(min(message.commit, last_new))
        _acknowledge(raft, message.from_, last_new)
        return
    hint, hint_term = log.find_conflict_by_term(message.index, message.log_term)
    raft.send(
        Message(
            MessageType.APP_RESP,
            message.from_,
            raft.id,
            raft.term,
            log_term=hint_term,
            index=message.index,
            reject=True,
            reject_hint=hint,
        )
    )


def _on_snapshot(raft: Raft, message: Message, snapshot: Snapshot) -> None:
    """Take the snapshot unless the log already has what it stands for."""
    log = raft.log
    if snapshot.index <= log.committed:
        _acknowledge(raft, message.from_, log.committed)
    elif log.matches(snapshot.index, snapshot.term):
        log.commit_to(snapshot.index)
        _acknowledge(raft, message.from_, log.committed)
    else:
        log.restore(snapshot)  # its configuration counts once it is restored: RawNode.advance
        _acknowledge(raft, message.from_, snapshot.index)
