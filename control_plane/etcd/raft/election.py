"""Elections (§5.2, §5.4.1) with pre-vote (thesis §9.6) and leadership transfer's shortcut (thesis §3.10)."""

from __future__ import annotations

from rayplane.control_plane.etcd.raft.core import Raft
from rayplane.control_plane.etcd.raft.quorum import VoteResult, vote_result
from rayplane.control_plane.etcd.raft.types import NONE, Message, MessageType, Role

#: Context of a vote request that the old leader itself asked for: leases do not hold against it.
TRANSFER = b"transfer"


def hup(raft: Raft, *, transfer: bool = False) -> bool:
    """Campaign if this node may; False when it may not."""
    if raft.role is Role.LEADER or not raft.is_promotable():
        return False
    if raft.log.has_unapplied_conf_change():
        return False  # it could count the majority of a configuration that is no more (thesis §4.1)
    if raft.config.pre_vote and not transfer:
        _pre_campaign(raft)
    else:
        _campaign(raft, transfer=transfer)
    return True


def _request(raft: Raft, kind: MessageType, term: int, context: bytes) -> None:
    last, last_term = raft.log.last_index, raft.log.last_term()
    for member in raft.conf.voters:
        if member != raft.id:
            raft.send(Message(kind, member, raft.id, term, last_term, last, context=context))


def _pre_campaign(raft: Raft) -> None:
    raft.become_pre_candidate()
    _request(raft, MessageType.PRE_VOTE, raft.term + 1, b"")
    raft.votes[raft.id] = True  # promises nothing, so it need not be durable
    _tally(raft)


def _campaign(raft: Raft, *, transfer: bool) -> None:
    raft.become_candidate()
    _request(raft, MessageType.VOTE, raft.term, TRANSFER if transfer else b"")
    raft.own_vote_term = raft.term


def own_vote_durable(raft: Raft, term: int) -> None:
    """The vote for itself in `term` is on disk: count it."""
    if raft.role is Role.CANDIDATE and raft.term == term:
        raft.votes[raft.id] = True
        _tally(raft)


def step(raft: Raft, message: Message) -> None:
    """Messages to a (pre-)candidate in its own term, other than a leader's."""
    expected = MessageType.PRE_VOTE_RESP if raft.role is Role.PRE_CANDIDATE else MessageType.VOTE_RESP
    if message.type is expected:
        raft.votes.setdefault(message.from_, not message.reject)
        _tally(raft)


def _tally(raft: Raft) -> None:
    result = vote_result(raft.conf.voters, raft.votes)
    if result is VoteResult.WON:
        if raft.role is Role.PRE_CANDIDATE:
            _campaign(raft, transfer=False)
        else:
            raft.become_leader()
    elif result is VoteResult.LOST:
        raft.become_follower(raft.term, NONE)


def on_vote_request(raft: Raft, message: Message) -> None:
    """Answer a VOTE or PRE_VOTE whose term is not below ours (§5.2, §5.4.1).

    Learners answer too: they may be voters by now and not know it yet.
    """
    pre_vote = message.type is MessageType.PRE_VOTE
    free = (
        raft.vote == message.from_
        or (raft.vote == NONE and raft.lead == NONE)
        or (pre_vote and message.term > raft.term)
    )
    up_to_date = raft.log.is_up_to_date(message.index, message.log_term)
    grant = free and up_to_date
    kind = MessageType.PRE_VOTE_RESP if pre_vote else MessageType.VOTE_RESP
    # A granted pre-vote answers with the term asked for: the asker's own is lower and would drop ours.
    term = message.term if grant else raft.term
    raft.send(Message(kind, message.from_, raft.id, term, reject=not grant))
    if grant and not pre_vote:
        raft.restart_election_timer()
        raft.vote = message.from_
    elif pre_vote and not up_to_date and raft.lead == NONE:
        hasten(raft)  # who asks has no leader either, and cannot become one


# -- a leader that is known to be gone


def forget_leader(raft: Raft, leader: int) -> bool:
    """The process that led is gone: do not wait out its lease; False when this node does not follow it.

    Term and vote stay, so that safety does not depend on the report being true.
    """
    if raft.role is not Role.FOLLOWER or leader == NONE or raft.lead != leader:
        return False
    raft.lead = NONE  # from now on pre-votes are answered (core._meet_higher_term)
    hasten(raft, besides=leader)
    return True


def hasten(raft: Raft, *, besides: int = NONE) -> None:
    """Campaign soon instead of after an election timeout: when it is this node's turn among the voters, by id.

    Turns are a tick apart, lest those who learn it at the same moment split the vote; the first is far enough that a
    leader that lives, and beats every `heartbeat_ticks`, is heard before. Only with pre-vote, which raises no term
    when the others still hear the leader; without it nothing happens.
    """
    if not raft.config.pre_vote or raft.role is Role.CANDIDATE or not raft.is_promotable():
        return
    turn = sum(voter < raft.id for voter in raft.conf.voters if voter != besides)
    soon = raft.election_elapsed + raft.config.heartbeat_ticks + 1 + turn
    raft.election_timeout_ticks = min(raft.election_timeout_ticks, soon)
