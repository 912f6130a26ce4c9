"""Corner cases of the thesis' sections, each named after its section: what only shows when two features meet."""

from __future__ import annotations

import random

import pytest

from rayplane.control_plane.etcd.raft import (
    ConfChange,
    ConfChangeRefused,
    ConfChangeType,
    Config,
    ConfState,
    Entry,
    EntryType,
    HardState,
    InvariantViolated,
    MemoryStorage,
    Message,
    MessageType,
    ProgressState,
    RawNode,
    ReadIndexDropped,
    Snapshot,
)
from tests.raft.harness import Group

ADD, LEARN, REMOVE = ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER, ConfChangeType.REMOVE_NODE


def taken(group: Group, kind: MessageType, from_: int) -> list[Message]:
    """Messages of a member, taken off the network."""
    found = [m for m in group.network if m.type is kind and m.from_ == from_]
    group.network = [m for m in group.network if m not in found]
    return found


# -- §3.10 leadership transfer


def test_3_10_a_transfer_to_itself_gives_the_one_under_way_up() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.members[3].crash()
    leader.node.transfer_leader(3)
    assert leader.node.status().lead_transferee == 3
    leader.node.transfer_leader(1)
    leader.node.propose(b"x")
    group.settle()
    assert leader.applied == [b"x"]


def test_3_10_another_wish_replaces_the_one_under_way_and_starts_its_time() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.members[3].crash()
    leader.node.transfer_leader(3)
    leader.node.transfer_leader(2)
    group.settle()
    assert group.members[2].node.is_leader


def test_3_10_wishing_again_does_not_prolong_it() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.members[3].crash()
    leader.node.transfer_leader(3)
    for _ in range(10):
        assert leader.node.status().lead_transferee == 3
        leader.node.transfer_leader(3)
        group.tick()
    assert leader.node.status().lead_transferee == 0


def test_3_10_the_word_to_campaign_is_repeated_when_it_is_lost() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.node.transfer_leader(2)
    leader.process()
    assert taken(group, MessageType.TIMEOUT_NOW, 1)
    group.tick()
    assert group.members[2].node.is_leader


def test_3_10_the_lease_does_not_hold_against_the_leaders_own_wish() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.tick()
    leader.node.transfer_leader(3)
    group.settle()
    assert group.members[3].node.is_leader


# -- §4.1 single-server changes


def test_4_1_no_change_before_the_terms_first_commit() -> None:
    group = Group(3)
    one = group.members[1].node
    one.campaign()
    group.until(lambda: one.is_leader)
    with pytest.raises(ConfChangeRefused) as refused:
        one.propose_conf_change(ConfChange(LEARN, 4))
    assert refused.value.retryable
    group.settle()
    one.propose_conf_change(ConfChange(LEARN, 4))


def restarted(changes: list[ConfChange], *, commit: int, conf: ConfState, applied: int = 0) -> RawNode:
    entries = [Entry(1, i, EntryType.CONF_CHANGE, c.encode()) for i, c in enumerate(changes, 1)]
    storage = MemoryStorage(entries=entries, hard_state=HardState(1, 0, commit), conf_state=conf)
    return RawNode(Config(id=1, applied=applied), storage, random.Random(0))


def test_4_1_of_two_changes_in_a_log_the_first_is_committed() -> None:
    changes = [ConfChange(ADD, i) for i in (1, 2, 3)]
    node = restarted(changes, commit=1, conf=ConfState((1,)), applied=1)
    assert node.status().commit == 2, "the third was proposed when the second was applied"
    assert not node.campaign(), "not as the only member of a group that has grown since"
    ready = node.ready()
    assert [e.index for e in ready.committed_entries] == [2]
    node.apply_conf_change(ConfChange.decode(ready.committed_entries[0].data))
    node.advance(ready)
    assert node.campaign()
    assert not node.is_leader


def test_4_1_a_single_change_proves_nothing() -> None:
    node = restarted([ConfChange(ADD, 1), ConfChange(ADD, 2)], commit=1, conf=ConfState((1,)), applied=1)
    assert node.status().commit == 1


def test_4_1_a_received_snapshots_configuration_waits_for_what_is_being_applied() -> None:
    group = Group(3)
    two = group.elect(1) and group.members[2]
    group.members[1].node.propose_conf_change(ConfChange(LEARN, 9))
    group.until(lambda: two.node.status().commit == 2)
    ready = two.begin()  # holds the change; before it is applied a snapshot of later times arrives
    assert ready is not None and ready.committed_entries[-1].type is EntryType.CONF_CHANGE
    later = ConfState((1, 2, 3), (8,))
    snapshot = Snapshot(20, 1, later)
    two.node.step(Message(MessageType.SNAP, 2, 1, 1, snapshot=snapshot))
    assert two.node.apply_conf_change(ConfChange(LEARN, 9)) == ConfState((1, 2, 3), (9,))
    two.storage.append(ready.entries)
    two.node.advance(ready)
    ready = two.node.ready()
    two.storage.apply_snapshot(snapshot)
    two.node.advance(ready)
    assert two.node.status().conf_state == later


# -- §4.2.1 learners, §4.2.2 removing the leader, §4.2.3 disruptive servers


def test_4_2_1_a_promoted_learner_that_does_not_know_it_votes() -> None:
    group = Group(3, learners=(3,))
    learner = group.members[3]
    learner.node.step(Message(MessageType.VOTE, 3, 1, term=1))
    group.members[3].process()
    assert [m.reject for m in group.network] == [False]


def test_4_2_1_a_new_member_is_no_reason_to_step_down() -> None:
    group = Group(2)
    group.found_through_log()
    leader = group.leader()
    leader.node.propose_conf_change(ConfChange(ADD, 3))
    group.settle()
    group.tick(5)
    assert leader.node.is_leader
    group.tick(30)
    assert leader.node.is_leader, "two of three are there"


def test_4_2_2_a_demoted_leader_hands_over() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.node.propose_conf_change(ConfChange(LEARN, 1))
    group.tick(3)
    assert not leader.node.is_leader
    assert group.leader().id in (2, 3) and leader.conf == ConfState((2, 3), (1,))


def test_4_2_3_a_leader_ignores_votes_while_a_quorum_answers() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.tick(3)
    leader.step(Message(MessageType.VOTE, 1, 3, term=7, log_term=6, index=99))
    leader.step(Message(MessageType.PRE_VOTE, 1, 3, term=7, log_term=6, index=99))
    assert leader.node.is_leader and leader.node.term == 1


def test_4_2_3_a_new_leader_that_nobody_answers_steps_down_after_one_timeout() -> None:
    group = Group(3)
    leader = group.members[1]
    leader.node.campaign()
    group.until(lambda: leader.node.is_leader)
    group.isolate(1)
    group.tick(11, only=(1,))
    assert not leader.node.is_leader


def test_6_2_a_learners_answers_do_not_keep_a_leader_in_office() -> None:
    group = Group(5, learners=(4, 5))
    leader = group.elect(1)
    group.isolate(1, 4, 5)
    group.tick(21)
    assert not leader.node.is_leader


# -- §6.4 reads


def test_6_4_an_answer_to_an_older_round_confirms_no_newer_read() -> None:
    group = Group(3, check_quorum=False)
    leader = group.elect(1)
    group.read(1, b"old")
    group.until(lambda: any(m.type is MessageType.HEARTBEAT_RESP for m in group.network))
    late = taken(group, MessageType.HEARTBEAT_RESP, 2) + taken(group, MessageType.HEARTBEAT_RESP, 3)
    group.isolate(1)
    group.elect(2)
    group.members[2].node.propose(b"x")
    group.settle()
    group.read(1, b"new")
    leader.process()
    for answer in late:
        leader.step(answer)
    leader.process()
    assert [r.context for r in leader.reads] == [b"old"]


def test_6_4_the_same_member_does_not_make_a_majority_by_answering_twice() -> None:
    group = Group(5)
    leader = group.elect(1)
    group.isolate(1, 2)
    group.read(1, b"r")
    group.settle()
    answer = Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=(1).to_bytes(8, "big"))
    for _ in range(3):
        leader.step(answer)
    leader.process()
    assert leader.reads == []


def test_6_4_a_learners_answer_confirms_nothing() -> None:
    group = Group(4, learners=(4,))
    leader = group.elect(1)
    group.isolate(1, 4)
    group.read(1, b"r")
    group.settle()
    assert leader.reads == []


def test_6_4_a_lone_voter_answers_at_once() -> None:
    group = Group(2, learners=(2,))
    leader = group.elect(1)
    group.isolate(2)
    group.read(1, b"r")
    leader.process()
    assert [r.context for r in leader.reads] == [b"r"]


def test_6_4_without_a_leader_reads_are_refused() -> None:
    with pytest.raises(ReadIndexDropped):
        Group(3).read(2, b"r")


def test_6_4_rounds_of_reads_do_not_repeat_appends() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.tick()
    for number in range(10):
        leader.node.propose(b"x")
        leader.process()  # on its way
        group.read(1, b"%d" % number)
        leader.process()
        for answer in taken(group, MessageType.HEARTBEAT, 1):
            leader.step(Message(MessageType.HEARTBEAT_RESP, 1, answer.to, 1, context=answer.context))
        leader.process()
    appends = taken(group, MessageType.APP, 1)
    assert [len(m.entries) for m in appends] == [1] * 20


# -- §9.6 pre-vote


def test_9_6_a_pre_vote_neither_raises_the_term_nor_counts_as_a_vote() -> None:
    group = Group(3)
    two = group.members[2].node
    before = two.status()
    two.step(Message(MessageType.PRE_VOTE, 2, 1, term=1))
    two.step(Message(MessageType.PRE_VOTE, 2, 3, term=1))
    ready = two.ready()
    assert [(m.to, m.reject) for m in ready.messages_after_append] == [(1, False), (3, False)]
    assert ready.hard_state is None and (two.status().term, two.status().vote) == (before.term, before.vote)


def test_9_6_a_refused_pre_vote_of_a_higher_term_is_learned_from() -> None:
    group = Group(3)
    two = group.members[2]
    two.disk.hard_state = HardState(term=7)
    two.start()
    group.members[1].node.campaign()
    group.settle()
    assert group.members[1].node.term == 7
    group.tick(40)
    assert group.leader().node.term > 7


# -- §10.2.1 writing to the leader's disk in parallel


def test_10_2_1_appends_leave_before_the_leaders_disk_has_them() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.node.propose(b"x")
    ready = leader.node.ready()
    assert {m.type for m in ready.messages} == {MessageType.APP} and ready.must_sync
    assert not ready.messages_after_append


def test_10_2_1_a_leader_that_crashes_before_its_disk_has_them_loses_nothing_committed() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.node.propose(b"x")
    leader.begin()
    leader.finish("before save")
    pending, group.network = group.network, []
    for message in pending:
        group.deliver(message)
    group.tick(25)
    leader.start()
    group.tick(5)
    assert all(m.applied == [b"x"] for m in group.members.values())


def test_10_2_1_an_acknowledgement_waits_for_the_disk() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.node.propose(b"x")
    leader.process()
    pending, group.network = group.network, []
    for message in pending:
        group.deliver(message)
    ready = group.members[2].node.ready()
    assert not ready.messages
    assert [m.type for m in ready.messages_after_append] == [MessageType.APP_RESP]


# -- Bounds


def test_the_in_flight_window_bounds_bytes() -> None:
    group = Group(2, max_size_per_message=100, max_inflight_bytes=250)
    leader = group.elect(1)
    for _ in range(10):
        leader.node.propose(b"x" * 100)
    ready = leader.node.ready()
    assert len(ready.messages) == 3, "the one that goes beyond the bound still leaves"
    progress = leader.node.status().progress[2]
    assert (progress.inflight, progress.inflight_bytes) == (3, 300)
    group.send(ready.messages)
    leader.disk.save(ready)
    leader.storage.append(ready.entries)
    leader.node.advance(ready)
    group.settle()
    progress = leader.node.status().progress[2]
    assert (progress.match, progress.inflight, progress.inflight_bytes) == (11, 0, 0)
    assert progress.state is ProgressState.REPLICATE


def test_the_log_in_memory_knows_its_bytes_and_where_to_be_cut() -> None:
    storage = MemoryStorage()
    storage.append([Entry(1, i, data=b"x" * 10) for i in range(1, 101)])
    assert storage.payload_bytes == 1000
    storage.append([Entry(2, i, data=b"y") for i in range(91, 96)])
    assert (storage.last_index(), storage.payload_bytes) == (95, 905)
    assert storage.compaction_point(90, keep_entries=20, keep_bytes=1000) == 70
    assert storage.compaction_point(90, keep_entries=20, keep_bytes=55) == 85
    assert storage.compaction_point(90, keep_entries=200, keep_bytes=10_000) == 0
    storage.create_snapshot(90, ConfState((1,)))
    storage.compact(85)
    assert storage.payload_bytes == 55
    storage.apply_snapshot(Snapshot(200, 2, ConfState((1,))))
    assert storage.payload_bytes == 0


def test_a_log_that_lost_its_end_is_not_started_from() -> None:
    with pytest.raises(InvariantViolated, match="lost entries"):
        RawNode(Config(id=1), MemoryStorage(hard_state=HardState(1, 0, 5)), random.Random(0))
    with pytest.raises(InvariantViolated, match="lost a hard state"):
        storage = MemoryStorage(entries=[Entry(1, 1), Entry(1, 2)], hard_state=HardState(1, 0, 1))
        RawNode(Config(id=1, applied=2), storage, random.Random(0))
