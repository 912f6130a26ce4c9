"""Steps of one raft node: what time and messages do, by role.

`election`, `leader` and `follower` hold each role's rules; here is what holds in all of them: terms, and which handler
gets a message.
"""

from __future__ import annotations

from rayplane.control_plane.etcd.raft import election, follower, leader
from rayplane.control_plane.etcd.raft.core import Raft
from rayplane.control_plane.etcd.raft.errors import InvariantViolated
from rayplane.control_plane.etcd.raft.types import NONE, Message, MessageType, Role

_FROM_LEADER = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})
_UNBOUND_TO_TERM = frozenset({MessageType.READ_INDEX, MessageType.TRANSFER_LEADER})


def tick(raft: Raft) -> None:
    """One unit of logical time has passed."""
    raft.election_elapsed += 1
    if raft.role is Role.LEADER:
        leader.on_tick(raft)
    elif raft.election_elapsed >= raft.election_timeout_ticks and raft.is_promotable():
        raft.election_elapsed = 0
        election.hup(raft)


def step(raft: Raft, message: Message) -> None:
    """One message from another member. What is stale or not for this role is dropped, as the
    network may do.
    """
    kind = message.type
    if message.term > raft.witness.terms.get(message.from_, 0) and raft.conf.holds(message.from_):
        raft.witness.heard(message.from_, kind, message.term)
    if kind in _UNBOUND_TO_TERM:
        if raft.role is Role.LEADER:
            leader.step(raft, message)
        return
    if message.term < raft.term:
        _answer_lower_term(raft, message)
        return
    if message.term > raft.term and not _meet_higher_term(raft, message):
        return
    if kind is MessageType.VOTE or kind is MessageType.PRE_VOTE:
        election.on_vote_request(raft, message)
    elif raft.role is Role.LEADER:
        if kind in _FROM_LEADER:
            raise InvariantViolated(
                f"two leaders in term {raft.term}: {raft.id} and {message.from_}; a member lost its disk"
            )
        leader.step(raft, message)
    elif kind in _FROM_LEADER:
        if raft.role is not Role.FOLLOWER:
            raft.become_follower(raft.term, message.from_)
        follower.step(raft, message)
    elif raft.role is Role.FOLLOWER:
        follower.step(raft, message)
    else:
        election.step(raft, message)


def _meet_higher_term(raft: Raft, message: Message) -> bool:
    """Adopt the term (§5.1) unless the message only asks; False when it must be ignored."""
    kind = message.type
    if kind is MessageType.VOTE or kind is MessageType.PRE_VOTE:
        in_lease = raft.config.check_quorum and raft.lead != NONE and raft.election_elapsed < raft.config.election_ticks
        if in_lease and message.context != election.TRANSFER:
            return False  # thesis §4.2.3: a member that hears its leader is not disturbed
    if kind is MessageType.PRE_VOTE or (kind is MessageType.PRE_VOTE_RESP and not message.reject):
        return True
    raft.become_follower(message.term, message.from_ if kind in _FROM_LEADER else NONE)
    return True


def _answer_lower_term(raft: Raft, message: Message) -> None:
    """Stale, but some senders must learn it or they would never catch up."""
    kind = message.type
    if kind is MessageType.APP or kind is MessageType.HEARTBEAT:
        # This node's term is ahead (it campaigned while cut off); with leases nobody would
        # listen to its campaigns, so it asks the leader to step down.
        if raft.config.check_quorum or raft.config.pre_vote:
            raft.send(Message(MessageType.APP_RESP, message.from_, raft.id, raft.term))
    elif kind is MessageType.PRE_VOTE:
        raft.send(Message(MessageType.PRE_VOTE_RESP, message.from_, raft.id, raft.term, reject=True))
