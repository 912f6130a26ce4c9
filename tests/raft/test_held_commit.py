"""A leader that holds back the word of a commit until there is something else to send, or somebody waits for it."""

from __future__ import annotations

import pytest

from rayplane.control_plane.etcd.raft import ConfChange, ConfChangeType
from tests.raft.harness import Group


@pytest.fixture
def group() -> Group:
    made = Group(3, hold_commit=True)
    made.elect()
    made.members[1].node.tell_commit()
    made.settle()
    assert {m.applied_index for m in made.members.values()} == {1}
    return made


def applied(group: Group) -> list[int]:
    return [member.applied_index for member in group.members.values()]


def test_followers_hear_of_a_commit_with_the_next_entry(group: Group) -> None:
    group.propose(b"one")
    assert applied(group) == [2, 1, 1] and group.members[1].node.holds_commit
    group.propose(b"two")
    assert applied(group) == [3, 2, 2]


def test_or_when_the_leader_is_told_to_tell(group: Group) -> None:
    group.propose(b"one")
    group.members[1].node.tell_commit()
    group.settle()
    assert applied(group) == [2, 2, 2] and not group.members[1].node.holds_commit
    assert not group.members[1].node.has_ready()


def test_or_with_the_next_heartbeat(group: Group) -> None:
    group.propose(b"one")
    group.tick()
    assert applied(group) == [2, 2, 2]


def test_who_forwarded_an_entry_hears_of_it_at_once_and_nobody_else(group: Group) -> None:
    group.members[1].node.propose(b"one", member=3)
    group.settle()
    assert applied(group) == [2, 1, 2]
    group.propose(b"two")
    assert applied(group) == [3, 2, 2], "what it waited for is done"


def test_who_asks_what_is_committed_hears_of_it_at_once(group: Group) -> None:
    group.propose(b"one")
    group.read(2, b"read")
    group.settle()
    assert applied(group)[1] == 2 and [r.index for r in group.members[2].reads] == [2]


def test_a_change_of_membership_is_told_at_once(group: Group) -> None:
    group.leader().node.propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 3))
    group.settle()
    assert applied(group) == [2, 2, 2]
