"""State of one raft node, and its changes of role.

Owns everything that is the same in all roles. `election`, `leader` and `follower` hold each role's rules and change
the state through this class; `steps` tells them of time and messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayplane.control_plane.etcd.raft.config import Config
from rayplane.control_plane.etcd.raft.errors import invariant
from rayplane.control_plane.etcd.raft.log import RaftLog
from rayplane.control_plane.etcd.raft.progress import Progress
from rayplane.control_plane.etcd.raft.reads import ReadQueue
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
    ReadState,
    Role,
)
from rayplane.control_plane.etcd.raft.witness import Witness

if TYPE_CHECKING:
    from random import Random

#: These speak of votes, terms or entries of this node, so they wait until those are durable.
#: Requests for votes wait too: a candidate that crashed must not win, with its old requests'
#: answers, over a log that it no longer has.
_AFTER_APPEND = frozenset(
    {
        MessageType.APP_RESP,
        MessageType.VOTE,
        MessageType.VOTE_RESP,
        MessageType.PRE_VOTE,
        MessageType.PRE_VOTE_RESP,
    }
)


class Raft:
    """Mutable state of the protocol. RawNode is its only user outside of this package's role
    modules.
    """

    def __init__(self, config: Config, storage: MemoryStorage, rng: Random) -> None:
        config.validate()
        self.config = config
        self.id = config.id
        self.rng = rng
        self.log = RaftLog(storage, config.applied)
        self.term = storage.hard_state.term
        self.vote = storage.hard_state.vote
        self.conf: ConfState = storage.conf_state
        self.role = Role.FOLLOWER
        self.lead = NONE
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.election_timeout_ticks = 0
        self.votes: dict[int, bool] = {}
        self.progress: dict[int, Progress] = {}  # on the leader only, by ascending id
        self.witness = Witness()
        self.reads = ReadQueue(config.max_pending_reads)
        self.read_states: list[ReadState] = []
        self.messages: list[Message] = []
        self.messages_after_append: list[Message] = []
        self.own_vote_term = 0  # this node voted for itself; counts when durable
        self.term_start = 0  # index of the leader's first entry
        self.pending_conf_index = 0
        self.own_removal_index = 0
        self.lead_transferee = NONE
        self.uncommitted_size = 0
        self.broadcast_wanted = False
        self._reset(self.term)
        self.restart_election_timer()

    # -- roles
    # ---------------------------------------------------------------------------------------------

    def _reset(self, term: int) -> None:
        if term != self.term:
            invariant(term > self.term, f"term would go back from {self.term} to {term}")
            self.term = term
            self.vote = NONE
        if self.role is Role.LEADER:
            self._remember()
        self.lead = NONE
        self.heartbeat_elapsed = 0
        self.votes = {}
        self.progress = {}
        self.reads = ReadQueue(self.config.max_pending_reads)
        self.own_vote_term = 0
        self.lead_transferee = NONE
        self.uncommitted_size = 0
        self.broadcast_wanted = False

    def restart_election_timer(self) -> None:
        """§5.2: drawn anew each time, so that split votes are rare and do not repeat."""
        ticks = self.config.election_ticks
        self.election_elapsed = 0
        self.election_timeout_ticks = ticks + self.rng.randrange(ticks)

    def become_follower(self, term: int, lead: int) -> None:
        self._reset(term)
        # Of a higher term alone a follower's time does not start over (figure 2, "Followers"): a candidate that cannot
        # win would keep those who could from trying.
        if self.role is not Role.FOLLOWER or lead != NONE:
            self.restart_election_timer()
        self.role = Role.FOLLOWER
        self.lead = lead

    def become_pre_candidate(self) -> None:
        """Ask without raising the term nor voting (thesis §9.6)."""
        invariant(self.role is not Role.LEADER, "a leader does not campaign")
        self.restart_election_timer()
        self.votes = {}
        self.lead = NONE
        self.role = Role.PRE_CANDIDATE

    def become_candidate(self) -> None:
        invariant(self.role is not Role.LEADER, "a leader does not campaign")
        self._reset(self.term + 1)
        self.restart_election_timer()
        self.vote = self.id
        self.role = Role.CANDIDATE

    def become_leader(self) -> None:
        """§5.3 and §8: track everybody from the log's end, commit an empty entry of the own term."""
        invariant(self.role is Role.CANDIDATE, f"{self.role.value} cannot become leader")
        self._reset(self.term)
        self.restart_election_timer()
        self.role = Role.LEADER
        self.lead = self.id
        self.track_members(active=False)
        self.own_removal_index = self._last_own_removal()
        self.term_start = self.append_entry(EntryType.NORMAL, b"")
        # An older membership change may be anywhere in the uncommitted tail, and none may follow before this term has
        # committed something (Ongaro's correction of single-server changes, raft-dev, July 2015).
        self.pending_conf_index = self.term_start

    def track_members(self, *, active: bool) -> None:
        """Make `progress` follow the configuration; known members keep theirs, new ones begin as `active` or not."""
        known, config = self.progress, self.config
        self.progress = {}
        for member in sorted((*self.conf.voters, *self.conf.learners)):
            progress = known.get(member)
            if progress is None:
                progress = Progress(
                    self.log.last_index + 1,
                    max_inflight=config.max_inflight_messages,
                    max_inflight_bytes=config.max_inflight_bytes,
                )
                progress.recent_active = active
            progress.is_learner = member in self.conf.learners
            self.progress[member] = progress
        own = self.progress.get(self.id)
        if own is not None:
            own.state, own.recent_active = ProgressState.REPLICATE, True
            own.acknowledged(self.log.offset - 1)

    def _remember(self) -> None:
        """Before this node leads no more: what each member has acknowledged stays known, as far as it is committed.

        What is not may be replaced by another leader's entries, and then is rightly gone.
        """
        for member, progress in self.progress.items():
            self.witness.acknowledged(member, min(progress.match, self.log.committed))

    def removes(self, change: ConfChange) -> bool:
        """Whether the change takes this node's vote."""
        return change.node_id == self.id and change.type is not ConfChangeType.ADD_NODE

    def _last_own_removal(self) -> int:
        """Index of the newest change in the uncommitted tail that takes this node's vote; 0 when there is none."""
        log = self.log
        tail = log.entries(max(log.applied + 1, log.first_index), log.last_index + 1, 1 << 62)
        return max(
            (
                entry.index
                for entry in tail
                if entry.type is EntryType.CONF_CHANGE and self.removes(ConfChange.decode(entry.data))
            ),
            default=0,
        )

    # -- shared actions
    # ------------------------------------------------------------------------------------

    def append_entry(self, kind: EntryType, data: bytes) -> int:
        """Put a proposal into the leader's own log; replication follows with the next Ready."""
        unstable = self.log.unstable
        index = self.log.offset + len(unstable)
        unstable.append(Entry(self.term, index, kind, data))
        self.broadcast_wanted = True
        return index

    def send(self, message: Message) -> None:
        if message.type in _AFTER_APPEND:
            self.messages_after_append.append(message)
        else:
            self.messages.append(message)

    def is_promotable(self) -> bool:
        """Whether this node may campaign: a voter that knows its own log."""
        return self.id in self.conf.voters and self.log.snapshot is None

    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)
