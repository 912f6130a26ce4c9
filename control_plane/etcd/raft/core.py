"""State of one raft node and its transitions: roles, terms, ticks, and which handler gets a
message.

Owns everything that is the same in all roles. `election`, `leader` and `follower` hold each role's
rules and change the state through this class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayplane.control_plane.etcd.raft import election, follower, leader
from rayplane.control_plane.etcd.raft.config import Config
from rayplane.control_plane.etcd.raft.errors import InvariantViolated, invariant
from rayplane.control_plane.etcd.raft.log import RaftLog
from rayplane.control_plane.etcd.raft.progress import Progress
from rayplane.control_plane.etcd.raft.reads import ReadQueue
from rayplane.control_plane.etcd.raft.storage import MemoryStorage
from rayplane.control_plane.etcd.raft.types import (
    NONE,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
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
_FROM_LEADER = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})
_UNBOUND_TO_TERM = frozenset({MessageType.READ_INDEX, MessageType.TRANSFER_LEADER})


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
        self.election_timeout = 0
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
            leader.remember(self)
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
        self.election_timeout = ticks + self.rng.randrange(ticks)

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
        leader.track_members(self, active=False)
        self.own_removal_index = leader.last_own_removal(self)
        self.term_start = self.append_entry(EntryType.NORMAL, b"")
        # An older membership change may be anywhere in the uncommitted tail, and none may follow before this term has
        # committed something (Ongaro's correction of single-server changes, raft-dev, July 2015).
        self.pending_conf_index = self.term_start

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

    # -- time
    # ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        self.election_elapsed += 1
        if self.role is Role.LEADER:
            leader.on_tick(self)
        elif self.election_elapsed >= self.election_timeout and self.is_promotable():
            self.election_elapsed = 0
            election.hup(self)

    # -- messages
    # ------------------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """One message from another member. What is stale or not for this role is dropped, as the
        network may do.
        """
        kind = message.type
        if message.term > self.witness.terms.get(message.from_, 0) and self.conf.holds(message.from_):
            self.witness.heard(message.from_, kind, message.term)
        if kind in _UNBOUND_TO_TERM:
            if self.role is Role.LEADER:
                leader.step(self, message)
            return
        if message.term > self.term:
            if not self._meet_higher_term(message):
                return
        elif message.term < self.term:
            self._answer_lower_term(message)
            return
        if kind is MessageType.VOTE or kind is MessageType.PRE_VOTE:
            election.on_vote_request(self, message)
        elif self.role is Role.LEADER:
            if kind in _FROM_LEADER:
                raise InvariantViolated(
                    f"two leaders in term {self.term}: {self.id} and {message.from_}; a member lost its disk"
                )
            leader.step(self, message)
        elif kind in _FROM_LEADER:
            if self.role is not Role.FOLLOWER:
                self.become_follower(self.term, message.from_)
            follower.step(self, message)
        elif self.role is Role.FOLLOWER:
            follower.step(self, message)
        else:
            election.step(self, message)

    def _meet_higher_term(self, message: Message) -> bool:
        """Adopt the term (§5.1) unless the message only asks; False when it must be ignored."""
        kind = message.type
        if kind is MessageType.VOTE or kind is MessageType.PRE_VOTE:
            in_lease = (
                self.config.check_quorum and self.lead != NONE and self.election_elapsed < self.config.election_ticks
            )
            if in_lease and message.context != election.TRANSFER:
                return False  # thesis §4.2.3: a member that hears its leader is not disturbed
        if kind is MessageType.PRE_VOTE or (kind is MessageType.PRE_VOTE_RESP and not message.reject):
            return True
        self.become_follower(message.term, message.from_ if kind in _FROM_LEADER else NONE)
        return True

    def _answer_lower_term(self, message: Message) -> None:
        """Stale, but some senders must learn it or they would never catch up."""
        kind = message.type
        if kind is MessageType.APP or kind is MessageType.HEARTBEAT:
            # This node's term is ahead (it campaigned while cut off); with leases nobody would
            # listen to its campaigns, so it asks the leader to step down.
            if self.config.check_quorum or self.config.pre_vote:
                self.send(Message(MessageType.APP_RESP, message.from_, self.id, self.term))
        elif kind is MessageType.PRE_VOTE:
            self.send(Message(MessageType.PRE_VOTE_RESP, message.from_, self.id, self.term, reject=True))
