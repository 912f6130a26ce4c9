"""Values that cross the raft library's border. All are immutable; ids, terms and indexes are uint64.

Those made for every message and every entry are named tuples: they take a fraction of a frozen dataclass's time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

from rayplane.control_plane.etcd.raft.errors import RaftError

#: "No member": no leader is known, no vote is cast. Never the id of a member.
NONE = 0


class EntryType(IntEnum):
    """Types of an entry's data. The numbers are on disk and on the wire."""

    NORMAL = 0
    CONF_CHANGE = 1


class Entry(NamedTuple):
    """One log record. Empty NORMAL data marks the start of a leader's term: state machines skip it."""

    term: int
    index: int  # type: ignore[assignment]  # no need of tuple.index here
    type: EntryType = EntryType.NORMAL
    data: bytes = b""


def payload(entries: Sequence[Entry]) -> int:
    """Bytes of data in these entries: what all limits of this package are measured in."""
    return sum([len(entry.data) for entry in entries])


class ConfChangeType(IntEnum):
    """One change of one member. ADD_NODE promotes a learner; ADD_LEARNER demotes a voter."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    ADD_LEARNER = 3


_CONF_CHANGE_HEAD = struct.Struct(">BQ")


@dataclass(frozen=True, slots=True)
class ConfChange:
    """The membership change inside a CONF_CHANGE entry. `node_id` NONE changes nothing.

    `context` is the proposer's own bytes (the member's name and addresses, a request id); raft
    never reads it.
    """

    type: ConfChangeType
    node_id: int
    context: bytes = b""

    def encode(self) -> bytes:
        """One byte of type, eight of id (big endian), then the context."""
        return _CONF_CHANGE_HEAD.pack(self.type, self.node_id) + self.context

    @classmethod
    def decode(cls, data: bytes) -> ConfChange:
        """The inverse of `encode`; RaftError when `data` is not one."""
        try:
            kind, node_id = _CONF_CHANGE_HEAD.unpack_from(data)
            return cls(ConfChangeType(kind), node_id, bytes(data[_CONF_CHANGE_HEAD.size :]))
        except (struct.error, ValueError) as error:
            raise RaftError(f"not an encoded ConfChange ({error}): the log is damaged") from error


@dataclass(frozen=True, slots=True)
class ConfState:
    """The members that take part: both tuples sorted and disjoint."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()

    def holds(self, member: int) -> bool:
        return member in self.voters or member in self.learners


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state machine as of `index`; `data` may be a mere reference to what the server ships by
    itself.
    """

    index: int
    term: int
    conf_state: ConfState
    data: bytes = b""


class HardState(NamedTuple):
    """The state that must survive a crash beside the entries (figure 2, "persistent state"; commit spares a
    re-election's wait).
    """

    term: int = 0
    vote: int = NONE
    commit: int = 0


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class SoftState(NamedTuple):
    """The state for logs, metrics and failing waiters when the leader changes; never persisted."""

    lead: int
    role: Role


class ReadState(NamedTuple):
    """A read asked for with `context` is linearizable once the state machine has applied `index`."""

    index: int  # type: ignore[assignment]
    context: bytes


class MessageType(IntEnum):
    """Kinds of messages between members; each comment names the fields that carry meaning.

    Every message has type, to, from_ and term. The numbers are on the wire.
    """

    #: log_term and index of the entry before `entries`; commit.
    APP = 1
    #: index = last index matched; or reject with index = the refused one, reject_hint + log_term =
    #: where to retry.
    APP_RESP = 2
    #: log_term and index of the candidate's last entry; context = b"transfer" when told so by the
    #: leader.
    VOTE = 3
    #: reject.
    VOTE_RESP = 4
    #: as VOTE; term is the one the candidate would have.
    PRE_VOTE = 5
    #: reject.
    PRE_VOTE_RESP = 6
    #: snapshot.
    SNAP = 7
    #: commit (never above what the receiver has matched); context for ReadIndex.
    HEARTBEAT = 8
    #: context echoed.
    HEARTBEAT_RESP = 9
    #: a follower's read, forwarded to the leader: context; term 0.
    READ_INDEX = 10
    #: index and context.
    READ_INDEX_RESP = 11
    #: campaign now, without pre-vote.
    TIMEOUT_NOW = 12
    #: a follower's wish, forwarded to the leader: index = the id to hand leadership to; term 0.
    TRANSFER_LEADER = 13


class Message(NamedTuple):
    """One message to another member. May be lost, duplicated, delayed and reordered by whatever
    carries it.
    """

    type: MessageType
    to: int
    from_: int
    term: int = 0
    log_term: int = 0
    index: int = 0  # type: ignore[assignment]
    entries: tuple[Entry, ...] = ()
    commit: int = 0
    reject: bool = False
    reject_hint: int = 0
    snapshot: Snapshot | None = None
    context: bytes = b""
    durable: int = 0
    """Of a HEARTBEAT: committed and durable at the leader itself; its `index` is what the receiver acknowledged."""


class Ready(NamedTuple):
    """The driver's work for now. Each field says when it may be acted on."""

    #: At once; None when unchanged. Fail what waits for the old leader.
    soft_state: SoftState | None = None
    #: Persist with `entries`, in the same write; None when unchanged.
    hard_state: HardState | None = None
    #: At once: serve each read when the state machine has applied its index.
    read_states: tuple[ReadState, ...] = ()
    #: Persist. They replace whatever the log holds from entries[0].index on.
    entries: tuple[Entry, ...] = ()
    #: Persist before `entries`, then restore the state machine from it; None mostly.
    snapshot: Snapshot | None = None
    #: At once, in order: all are durable here and on a quorum already. After `snapshot` is
    #: restored, if there is one.
    committed_entries: tuple[Entry, ...] = ()
    #: May be sent at once, in parallel with the persisting (thesis §10.2.1): nothing in them speaks
    #: of durability.
    messages: tuple[Message, ...] = ()
    #: Only after hard_state, entries and snapshot are durable: votes, and acknowledgements of
    #: entries.
    messages_after_append: tuple[Message, ...] = ()
    #: Whether persisting needs an fsync: False when only the commit index moved.
    must_sync: bool = False


class ProgressState(Enum):
    """The ways in which the leader feeds a member."""

    #: Where its log matches is unknown: one append at a time.
    PROBE = "probe"
    #: Optimistic pipelining within the in-flight window.
    REPLICATE = "replicate"
    #: It lags behind the log's start: a snapshot is on its way, nothing else is sent.
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class PeerProgress:
    """The leader's view of one member (itself included)."""

    match: int
    next: int
    state: ProgressState
    is_learner: bool
    recent_active: bool
    pending_snapshot: int = 0
    #: Appends under way, and their payload.
    inflight: int = 0
    inflight_bytes: int = 0


class Standing(NamedTuple):
    """A node's term and, of a leader that knows what is committed, up to where that is and who votes."""

    term: int
    committed: int = 0
    voters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """A picture of this node; `progress` is filled on the leader only, by ascending id."""

    id: int
    term: int
    vote: int
    commit: int
    applied: int
    role: Role
    lead: int
    conf_state: ConfState
    last_index: int
    lead_transferee: int = NONE
    progress: Mapping[int, PeerProgress] = field(default_factory=dict)
