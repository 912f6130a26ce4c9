"""Membership, snapshots, reads, transfer, pre-vote: tests named after the section of paper (6 to 8) or thesis."""

from __future__ import annotations

import random

import pytest

from rayplane.control_plane.etcd.raft import (
    ConfChange,
    ConfChangeRefused,
    ConfChangeType,
    Config,
    ConfigError,
    ConfState,
    InvariantViolated,
    MemoryStorage,
    Message,
    MessageType,
    ProgressState,
    ProposalDropped,
    RawNode,
    ReadIndexDropped,
    TransferRefused,
    bootstrap,
)
from tests.raft.harness import Group

ADD, LEARN, REMOVE = ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER, ConfChangeType.REMOVE_NODE


# -- §6, thesis §4: membership


def test_6_members_come_and_go_one_at_a_time() -> None:
    group = Group(1)
    group.found_through_log()
    leader = group.elect(1)
    for id_ in (2, 3):
        group.join(id_)
        leader.node.propose_conf_change(ConfChange(ADD, id_, b"somewhere"))
        with pytest.raises(ConfChangeRefused) as refused:
            leader.node.propose_conf_change(ConfChange(ADD, 9))
        assert refused.value.retryable
        group.settle()
    assert all(m.conf == ConfState((1, 2, 3)) for m in group.members.values())
    group.propose(b"x")
    assert all(m.applied == [b"x"] for m in group.members.values())


def test_6_a_new_leader_refuses_changes_until_its_predecessors_are_known() -> None:
    group = Group(3, check_quorum=False)
    leader = group.elect(1)
    group.isolate(2)
    leader.node.propose_conf_change(ConfChange(LEARN, 9))
    ready = leader.node.ready()
    (append,) = [m for m in ready.messages if m.to == 3]
    group.members[1].crash()
    group.heal()
    group.deliver(append)
    group.members[3].process()
    group.network.clear()
    three = group.members[3].node
    three.campaign()
    group.until(lambda: three.is_leader)
    with pytest.raises(ConfChangeRefused):
        three.propose_conf_change(ConfChange(LEARN, 8))
    group.settle()
    assert group.members[3].conf == ConfState((1, 2, 3), (9,))
    three.propose_conf_change(ConfChange(LEARN, 8))


def test_6_nobody_campaigns_before_it_applied_the_newest_committed_change() -> None:
    group = Group(3)
    group.found_through_log()
    member = group.members[1]
    node = RawNode(
        Config(id=1),
        MemoryStorage(entries=member.disk.entries, hard_state=member.disk.hard_state, conf_state=ConfState((1,))),
        random.Random(0),
    )
    assert not node.campaign()


def test_6_the_last_voter_cannot_be_removed() -> None:
    leader = Group(1).elect(1)
    with pytest.raises(ConfChangeRefused, match="last voter"):
        leader.node.propose_conf_change(ConfChange(REMOVE, 1))


def test_6_a_leader_that_removes_itself_hands_over_when_committed() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.node.propose_conf_change(ConfChange(REMOVE, 1))
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"behind its own removal")
    group.tick(3)
    assert not leader.node.is_leader
    assert group.members[2].conf == ConfState((2, 3))
    assert group.members[2].node.is_leader or group.members[3].node.is_leader
    del group.members[1]
    assert group.leader().id in (2, 3)
    group.propose(b"x")


def test_6_shrinking_the_group_commits_what_waits_for_the_removed() -> None:
    group = Group(2)
    leader = group.elect(1)
    leader.node.propose_conf_change(ConfChange(REMOVE, 2))
    leader.process()
    (append,) = [m for m in group.network if m.type is MessageType.APP]
    group.network.clear()
    group.deliver(append)
    group.members[2].process()
    index = leader.node.propose(b"x")
    leader.process()
    group.network = [m for m in group.network if m.to == 1]
    assert leader.node.status().commit < index
    group.settle()  # 2's acknowledgement of its own removal was on its way
    assert leader.applied == [b"x"] and leader.applied_index == index


def test_6_a_learner_neither_votes_nor_counts() -> None:
    group = Group(3, learners=(2, 3))
    leader = group.elect(1)
    group.isolate(2, 3)
    group.propose(b"x")
    assert leader.applied == [b"x"]
    group.heal()
    group.tick(2)
    assert group.members[3].applied == [b"x"]
    group.members[1].crash()
    group.tick(60)
    assert not any(m.node.is_leader for m in group.members.values() if m.alive)


def test_6_a_learner_can_be_promoted() -> None:
    group = Group(3, learners=(3,))
    leader = group.elect(1)
    leader.node.propose_conf_change(ConfChange(ADD, 3))
    group.settle()
    assert {m.conf for m in group.members.values()} == {ConfState((1, 2, 3))}
    assert not leader.node.status().progress[3].is_learner
    group.isolate(2)
    group.propose(b"x")
    assert leader.applied == [b"x"]


# -- §7 snapshots


def test_7_a_member_behind_the_logs_start_gets_a_snapshot() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.isolate(3)
    group.propose(b"a", b"b", b"c")
    leader.compact()
    group.propose(b"d")
    group.heal()
    group.tick(3)
    three = group.members[3]
    assert three.applied == [b"a", b"b", b"c", b"d"]
    assert three.first_index() > 1
    assert leader.node.status().progress[3].state is ProgressState.REPLICATE


def test_7_nothing_is_sent_to_a_member_whose_snapshot_is_on_its_way() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.isolate(3)
    group.propose(b"a")
    leader.compact()
    group.heal()
    leader.node.tick()
    group.until(lambda: any(m.type is MessageType.SNAP for m in group.network))
    group.network.clear()
    leader.node.propose(b"b")
    ready = leader.node.ready()
    assert {m.to for m in ready.messages if m.type is MessageType.APP} == {2}
    leader.node.report_snapshot(3, False)
    assert leader.node.status().progress[3].state is ProgressState.PROBE


def test_7_a_stale_snapshot_is_ignored() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.propose(b"a")
    leader.compact()
    snapshot = leader.storage.snapshot()
    group.propose(b"b")
    follower = group.members[2]
    follower.node.step(Message(MessageType.SNAP, 2, 1, follower.node.status().term, snapshot=snapshot))
    group.settle()
    assert follower.applied == [b"a", b"b"]


# -- §8 and thesis §6.4: reads


def test_8_read_index_waits_for_the_terms_first_commit() -> None:
    group = Group(3, check_quorum=False)
    group.elect(1)
    group.propose(b"a")
    group.members[1].crash()
    leader = group.members[2]
    leader.node.campaign()
    group.until(lambda: leader.node.is_leader)
    group.read(2, b"r")
    committed = leader.node.status().commit
    group.settle()
    (read,) = leader.reads
    assert read.index == leader.node.status().commit == committed + 1


def test_8_a_cut_off_leader_answers_no_read() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.isolate(1)
    group.read(1, b"r")
    group.tick(5)
    assert leader.reads == []


def test_8_reads_of_one_ready_share_one_round() -> None:
    group = Group(3)
    leader = group.elect(1)
    for number in range(100):
        group.read(1, b"%d" % number)
    ready = leader.node.ready()
    # To as many as make a majority with the leader, and no more.
    assert [m.type for m in ready.messages] == [MessageType.HEARTBEAT]
    group.send(ready.messages)
    leader.node.advance(ready)
    group.settle()
    assert len(leader.reads) == 100


def test_8_a_follower_reads_through_its_leader() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(b"a")
    group.read(3, b"r")
    group.settle()
    assert [r.context for r in group.members[3].reads] == [b"r"]


def test_8_a_lost_confirmation_is_repeated_by_the_next_heartbeat() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.isolate(1)
    group.read(1, b"r")
    group.settle()
    group.heal()
    group.tick(1)
    assert [r.context for r in leader.reads] == [b"r"]


def _asked_about(group: Group, context: bytes) -> set[int]:
    """To whom the leader turns with a read."""
    leader = group.leader()
    group.read(leader.id, context)
    leader.process()
    return {m.to for m in group.network if m.type is MessageType.HEARTBEAT and m.context}


def test_8_a_silent_member_is_asked_no_more_after_a_tick() -> None:
    group = Group(3)
    leader = group.elect(1)
    [silent] = _asked_about(group, b"1")
    group.isolate(silent)
    group.settle()
    assert leader.reads == []
    group.tick(1, only=[1])
    group.settle()
    assert [r.context for r in leader.reads] == [b"1"]
    assert _asked_about(group, b"2") == {2, 3} - {silent}


def test_8_a_lost_member_leaves_its_reads_to_the_others_at_once() -> None:
    group = Group(3)
    leader = group.elect(1)
    [lost] = _asked_about(group, b"1")
    group.isolate(lost)
    leader.node.report_unreachable(lost)
    group.settle()
    assert [r.context for r in leader.reads] == [b"1"]
    assert _asked_about(group, b"2") == {2, 3} - {lost}


def test_8_of_five_the_two_that_answer_first_are_asked() -> None:
    group = Group(5)
    leader = group.elect(1)
    group.read(1, b"1")
    leader.process()
    group.network.clear()
    leader.tick()
    leader.process()
    beats = {m.to: m for m in group.network if m.type is MessageType.HEARTBEAT}
    for member in (5, 3, 2, 4):
        group.deliver(beats[member])
        group.members[member].process()
    group.settle()
    assert [r.context for r in leader.reads] == [b"1"]
    assert _asked_about(group, b"2") == {5, 3}


def test_8_waiting_reads_are_bounded() -> None:
    group = Group(3, max_pending_reads=2)
    leader = group.elect(1)
    group.read(1, b"1")
    group.read(1, b"2")
    with pytest.raises(ReadIndexDropped):
        group.read(1, b"3")
    assert leader.node.is_leader


# -- thesis §3.10: leadership transfer


def test_3_10_leadership_moves_within_a_round_trip() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.node.transfer_leader(3)
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"x")
    group.settle()
    assert group.members[3].node.is_leader and not leader.node.is_leader
    assert leader.node.leader == 3


def test_3_10_a_member_behind_is_brought_up_to_date_first() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.isolate(3)
    group.propose(b"a")
    group.heal()
    leader.node.transfer_leader(3)
    group.tick(2)
    assert group.members[3].node.is_leader
    assert group.members[3].applied == [b"a"]


def test_3_10_a_transfer_to_a_dead_member_is_given_up() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.members[3].crash()
    leader.node.transfer_leader(3)
    group.tick(11)
    assert leader.node.is_leader
    group.propose(b"x")
    assert leader.applied == [b"x"]


def test_3_10_followers_pass_the_wish_on_and_learners_are_refused() -> None:
    group = Group(3, learners=(3,))
    group.elect(1)
    group.members[2].node.transfer_leader(2)
    with pytest.raises(TransferRefused):
        group.members[1].node.transfer_leader(3)
    group.settle()
    assert group.members[2].node.is_leader


# -- thesis §9.6 and §4.2.3: pre-vote and leases


def test_9_6_a_member_that_was_cut_off_does_not_disturb() -> None:
    group = Group(3)
    leader = group.elect(1)
    term = leader.node.status().term
    group.isolate(3)
    group.tick(100)
    assert group.members[3].node.status().term == term, "pre-vote keeps its term down"
    group.heal()
    group.tick(30)
    assert leader.node.is_leader and leader.node.status().term == term


def test_9_6_without_pre_vote_a_higher_term_comes_back_and_still_the_group_heals() -> None:
    group = Group(3, pre_vote=False)
    group.elect(1)
    group.isolate(3)
    group.tick(60)
    assert group.members[3].node.status().term > 1
    group.heal()
    group.tick(60)
    group.propose(b"x")
    assert all(m.applied == [b"x"] for m in group.members.values())


def test_4_2_3_a_removed_member_cannot_depose_the_leader() -> None:
    group = Group(3)
    leader = group.elect(1)
    term = leader.node.status().term
    group.members[2].node.step(Message(MessageType.VOTE, 2, 9, term=term + 5, log_term=term + 4, index=1000))
    group.settle()
    assert group.members[2].node.status().term == term


def test_6_2_a_leader_without_a_quorum_steps_down() -> None:
    group = Group(5)
    leader = group.elect(1)
    group.isolate(1, 2)
    group.tick(21)
    assert not leader.node.is_leader
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"x")
    group.heal()
    group.propose(b"y")
    group.tick(2)
    assert all(m.applied == [b"y"] for m in group.members.values())


# -- drivers and configuration


def test_bootstrap_makes_founders_that_elect_and_know_each_other() -> None:
    group = Group(3)
    group.found_through_log()
    group.propose(b"x")
    assert all(m.conf == ConfState((1, 2, 3)) and m.applied == [b"x"] for m in group.members.values())
    _, entries = bootstrap([(3, b"c"), (1, b"a"), (2, b"b")])
    assert ConfChange.decode(entries[1].data) == ConfChange(ADD, 2, b"b")


def test_an_uncommitted_backlog_is_bounded() -> None:
    group = Group(3, max_uncommitted_size=100, max_size_per_message=50)
    leader = group.elect(1)
    leader.node.propose(b"x" * 60)
    with pytest.raises(ProposalDropped):
        leader.node.propose(b"y" * 60)
    group.settle()
    leader.node.propose(b"y" * 60)


def test_committed_entries_come_in_bounded_portions() -> None:
    group = Group(1, max_committed_size_per_ready=10)
    leader = group.elect(1)
    for _ in range(5):
        leader.node.propose(b"x" * 6)
    portions = []
    while (ready := leader.process()) is not None:
        portions.append(len(ready.committed_entries))
    assert max(portions) == 1 and sum(portions) == 5


def test_a_drivers_mistakes_are_found() -> None:
    leader = Group(1).elect(1)
    leader.node.propose(b"x")
    ready = leader.node.ready()
    with pytest.raises(InvariantViolated):
        leader.node.ready()
    with pytest.raises(InvariantViolated, match="storage"):
        leader.node.advance(ready)


@pytest.mark.parametrize(
    "bad",
    [
        {"id": 0},
        {"id": 1, "election_ticks": 3, "heartbeat_ticks": 3},
        {"id": 1, "heartbeat_ticks": 0},
        {"id": 1, "max_inflight_messages": 0},
        {"id": 1, "max_size_per_message": 10, "max_uncommitted_size": 5},
    ],
)
def test_bad_configurations_are_refused(bad: dict) -> None:
    with pytest.raises(ConfigError):
        Config(**bad).validate()
