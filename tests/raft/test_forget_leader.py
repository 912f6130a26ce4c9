"""A leader whose process is known to be gone is not waited for; see `RawNode.forget_leader`."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.etcd.raft import Message, MessageType, Role
from tests.raft.harness import Group

ELECTION_TICKS = 8


def group_of(size: int, **config: Any) -> Group:
    group = Group(size, election_ticks=ELECTION_TICKS, **config)
    group.elect(1)
    group.tick(3)
    return group


def forget(group: Group, *who: int) -> None:
    for id_ in who:
        assert group.members[id_].node.forget_leader(1)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_dead_leader_is_replaced_within_three_ticks(size: int) -> None:
    group = group_of(size)
    group.members[1].crash()
    forget(group, *range(2, size + 1))
    group.tick(3)
    others = [m for m in group.members.values() if m.alive]
    assert any(m.node.is_leader for m in others) is (size > 2), "two members are no majority without one"


def test_a_member_that_lags_leaves_it_to_the_next_one() -> None:
    group = group_of(3)
    group.isolate(2)
    group.propose(b"only 1 and 3 have it")
    group.heal()
    group.members[1].crash()
    forget(group, 2, 3)
    group.tick(4)
    assert group.members[3].node.is_leader and group.members[3].applied == group.members[2].applied


def test_who_refuses_a_member_that_lags_stands_soon_itself() -> None:
    group = group_of(3)
    group.isolate(3)
    group.propose(b"only 1 and 2 have it")
    group.heal()
    group.members[1].crash()
    forget(group, 2)
    two = group.members[2].node
    two.campaign()  # 3 still counts on the leader
    group.settle()
    assert two.status().role is Role.PRE_CANDIDATE
    forget(group, 3)
    group.members[3].node.campaign()
    group.settle()
    group.tick(3)
    assert two.is_leader


def test_a_wrong_report_costs_no_term_and_no_leader() -> None:
    group = group_of(3)
    term = group.members[1].node.term
    for _ in range(5 * ELECTION_TICKS):
        for id_ in (2, 3):
            group.members[id_].node.forget_leader(1)
        group.tick()
    assert group.members[1].node.is_leader and group.members[1].node.term == term


def test_a_member_cut_off_that_forgets_raises_no_term() -> None:
    group = group_of(3)
    term = group.members[1].node.term
    group.isolate(3)
    forget(group, 3)
    group.tick(10 * ELECTION_TICKS)
    assert group.members[3].node.term == term
    group.heal()
    group.tick(2)
    assert group.members[3].node.leader == 1 and group.members[1].node.term == term


def test_one_that_forgets_cannot_outvote_those_that_hear_the_leader() -> None:
    group = group_of(3)
    term = group.members[1].node.term
    group.cut = {(1, 3)}  # 3 reaches everybody and hears only 2
    forget(group, 3)
    group.tick(3 * ELECTION_TICKS)
    assert group.members[1].node.is_leader and group.members[1].node.term == term


def test_a_returned_leader_is_waited_for_as_long_as_before() -> None:
    group = group_of(3)
    forget(group, 2)
    group.tick()
    two = group.members[2].node
    assert two.leader == 1
    for _ in range(ELECTION_TICKS - 1):
        two.tick()
    assert two.status().role is Role.FOLLOWER


def test_without_pre_vote_only_the_lease_is_given_up() -> None:
    group = group_of(3, pre_vote=False)
    term = group.members[1].node.term
    group.members[1].crash()
    forget(group, 2, 3)
    group.tick(ELECTION_TICKS - 1 - 3, only=(2, 3))
    assert {group.members[i].node.term for i in (2, 3)} == {term}, "soon would mean again and again, at higher terms"


def test_vote_and_term_stay() -> None:
    group = group_of(3)
    two = group.members[2].node
    before = two.status()
    forget(group, 2)
    after = two.status()
    assert (after.term, after.vote, after.lead) == (before.term, before.vote, 0)
    two.step(Message(MessageType.VOTE, 2, 3, term=before.term, log_term=9, index=9))
    ready = two.ready()
    assert [m.reject for m in ready.messages_after_append if m.type is MessageType.VOTE_RESP] == [True]


def test_who_does_not_follow_has_nothing_to_forget() -> None:
    group = group_of(3)
    assert not group.members[1].node.forget_leader(1), "it leads itself"
    assert not group.members[2].node.forget_leader(3)
    forget(group, 2)
    assert not group.members[2].node.forget_leader(1)
    assert not group.members[2].node.forget_leader(0)
