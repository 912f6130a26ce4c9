"""One test or more per section 5 of the Raft paper (extended version), named after it."""

from __future__ import annotations

import random

import pytest

from rayplane.control_plane.etcd.raft import (
    Config,
    ConfState,
    Entry,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    RawNode,
    Role,
)
from tests.raft.harness import Group


def node_with(entries: list[Entry], *, term: int, voters: tuple[int, ...] = (1, 2, 3), **config: object) -> RawNode:
    storage = MemoryStorage(entries=entries, hard_state=HardState(term=term), conf_state=ConfState(voters))
    return RawNode(Config(id=1, **config), storage, random.Random(0))  # type: ignore[arg-type]


def answers(node: RawNode) -> list[Message]:
    ready = node.ready()
    node._raft.log.storage.append(ready.entries)
    node.advance(ready)
    return [*ready.messages, *ready.messages_after_append]


# -- §5.1 terms


def test_5_1_a_higher_term_makes_a_leader_step_down() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.node.step(Message(MessageType.APP_RESP, 1, 2, term=9))
    status = leader.node.status()
    assert (status.role, status.term, status.vote) == (Role.FOLLOWER, 9, 0)


def test_5_1_a_stale_term_is_refused() -> None:
    node = node_with([], term=5)
    node.step(Message(MessageType.APP, 1, 2, term=4, entries=(Entry(4, 1),), commit=1))
    assert node.status().last_index == 0
    (answer,) = answers(node)
    assert (answer.type, answer.term) == (MessageType.APP_RESP, 5)


# -- §5.2 elections


def test_5_2_a_follower_that_hears_nobody_campaigns_within_two_election_timeouts() -> None:
    for seed in range(20):
        group = Group(3, seed=seed)
        group.tick(2 * 10 + 2)
        leader = group.leader()
        assert all(m.node.leader == leader.id for m in group.members.values())


def test_5_2_timeouts_differ_so_that_votes_split_rarely() -> None:
    timeouts = {Group(1, seed=seed).members[1].node._raft.election_timeout_ticks for seed in range(200)}
    assert timeouts == set(range(10, 20))


def test_5_2_one_vote_per_term_first_come() -> None:
    node = node_with([], term=1)
    node.step(Message(MessageType.VOTE, 1, 2, term=2))
    node.step(Message(MessageType.VOTE, 1, 3, term=2))
    node.step(Message(MessageType.VOTE, 1, 2, term=2))
    assert [(m.to, m.reject) for m in answers(node)] == [(2, False), (3, True), (2, False)]


def test_5_2_a_vote_survives_a_restart() -> None:
    storage = MemoryStorage(hard_state=HardState(term=2, vote=3), conf_state=ConfState((1, 2, 3)))
    node = RawNode(Config(id=1), storage, random.Random(0))
    node.step(Message(MessageType.VOTE, 1, 2, term=2))
    assert [m.reject for m in answers(node)] == [True]


def test_5_2_no_leader_without_a_majority() -> None:
    group = Group(5)
    group.isolate(1, 2)
    group.tick(100, only=(1, 2))
    assert not any(m.node.is_leader for m in group.members.values())


def test_5_2_own_vote_counts_only_when_durable() -> None:
    node = node_with([], term=0, voters=(1,))
    node.campaign()
    assert not node.is_leader
    ready = node.ready()
    assert ready.must_sync and ready.hard_state == HardState(1, 1, 0)
    assert not node.is_leader
    node.advance(ready)
    assert node.is_leader


def test_5_2_votes_and_requests_for_them_wait_for_the_disk() -> None:
    node = node_with([], term=0, pre_vote=False)
    node.campaign()
    ready = node.ready()
    assert not ready.messages
    assert {m.type for m in ready.messages_after_append} == {MessageType.VOTE}
    node = node_with([], term=0)
    node.step(Message(MessageType.VOTE, 1, 2, term=1))
    ready = node.ready()
    assert ready.must_sync and not ready.messages
    assert {m.type for m in ready.messages_after_append} == {MessageType.VOTE_RESP}


# -- §5.3 replication


def test_5_3_a_burst_of_proposals_travels_in_one_append() -> None:
    group = Group(3)
    leader = group.elect(1)
    for number in range(50):
        leader.node.propose(b"%d" % number)
    ready = leader.node.ready()
    appends = [m for m in ready.messages if m.type is MessageType.APP]
    assert [(m.to, len(m.entries)) for m in appends] == [(2, 50), (3, 50)]
    assert len(ready.entries) == 50 and ready.must_sync


def test_5_3_leader_commits_with_the_others_before_its_own_disk() -> None:
    group = Group(3)
    leader = group.elect(1)
    index = leader.node.propose(b"x")
    ready = leader.node.ready()  # still being saved here
    group.send(ready.messages)
    for _ in range(3):
        pending, group.network = group.network, []
        for message in pending:
            group.deliver(message)
        for id_ in (2, 3):
            group.members[id_].process()
    assert leader.node.status().commit == index
    assert leader.applied == []


def test_5_3_own_acknowledgement_counts_only_when_durable() -> None:
    group = Group(3)
    leader = group.elect(1)
    index = leader.node.propose(b"x")
    ready = leader.node.ready()
    group.isolate(3)
    group.send(ready.messages)
    (to_2,) = [m for m in group.network if m.to == 2]
    group.network.clear()
    group.deliver(to_2)
    group.members[2].process()
    (ack,) = group.network
    group.deliver(ack)
    assert leader.node.status().commit < index, "one durable copy of three is no majority"
    leader.disk.save(ready)
    leader.storage.append(ready.entries)
    leader.node.advance(ready)
    assert leader.node.status().commit == index


@pytest.mark.parametrize(
    "terms",
    [  # figure 7: followers that miss entries, have extra ones, or both
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ],
)
def test_5_3_figure_7_leader_forces_followers_to_its_log(terms: list[int]) -> None:
    leading = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    group = Group(3)
    for id_, log in ((1, leading), (2, terms), (3, [])):
        member = group.members[id_]
        member.disk.entries = [Entry(term, i) for i, term in enumerate(log, 1)]
        member.disk.hard_state = HardState(term=max([7, *log]))
        member.start()
    group.elect(1)
    assert list(group.members[2].log().values()) == list(group.members[1].log().values())
    assert group.members[2].node.status().commit == 11


def test_5_3_backing_off_takes_a_round_trip_per_term_not_per_entry() -> None:
    group = Group(3)
    for id_, log in ((1, [1] + [5] * 200), (2, [1] + [3] * 300), (3, [1] + [5] * 200)):
        group.members[id_].disk.entries = [Entry(term, i) for i, term in enumerate(log, 1)]
        group.members[id_].disk.hard_state = HardState(term=5)
        group.members[id_].start()
    refusals = 0
    send = group.send

    def counting(messages) -> None:  # type: ignore[no-untyped-def]
        nonlocal refusals
        refusals += sum(m.type is MessageType.APP_RESP and m.reject for m in messages)
        send(messages)

    group.send = counting  # type: ignore[method-assign]
    group.elect(1)
    assert group.members[2].node.status().last_index == 202
    assert refusals <= 3


def test_5_3_a_duplicate_or_old_append_changes_nothing() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(b"a", b"b")
    follower = group.members[2]
    before = follower.log()
    term = follower.node.status().term
    follower.node.step(Message(MessageType.APP, 2, 1, term, 0, 0, (before[1],), 1))
    group.settle()
    assert follower.log() == before


def test_5_3_a_follower_commits_only_what_it_has_checked() -> None:
    node = node_with([Entry(1, 1), Entry(2, 2)], term=3)
    node.step(Message(MessageType.APP, 1, 2, term=3, log_term=1, index=1, commit=2))
    assert node.status().commit == 1, "the entry at 2 may be another than the leader's"


def test_5_3_own_acknowledgement_leaves_out_what_came_after_the_ready() -> None:
    node = node_with([], term=0, voters=(1,))
    node.campaign()
    answers(node)
    answers(node)
    node.propose(b"a")
    ready = node.ready()
    later = node.propose(b"b")
    node._raft.log.storage.append(ready.entries)
    node.advance(ready)
    assert node.status().commit == later - 1


def test_5_3_a_tail_replaced_during_the_save_is_not_taken_for_durable() -> None:
    node = node_with([], term=1)
    node.step(Message(MessageType.APP, 1, 2, term=2, entries=(Entry(2, 1), Entry(2, 2))))
    ready = node.ready()
    node.step(Message(MessageType.APP, 1, 3, term=3, entries=(Entry(3, 1), Entry(3, 2))))
    node._raft.log.storage.append(ready.entries)
    node.advance(ready)
    ready = node.ready()
    assert [e.term for e in ready.entries] == [3, 3]


def test_5_3_the_in_flight_window_bounds_what_is_sent() -> None:
    group = Group(3, max_inflight_messages=4, max_size_per_message=0)
    leader = group.elect(1)
    for number in range(20):
        leader.node.propose(b"%d" % number)
    ready = leader.node.ready()
    assert len([m for m in ready.messages if m.to == 2]) == 4
    assert all(len(m.entries) == 1 for m in ready.messages)


# -- §5.4 safety


def test_5_4_1_no_vote_for_a_log_that_is_behind() -> None:
    node = node_with([Entry(1, 1), Entry(2, 2)], term=2)
    for number, (term, index, granted) in enumerate([(1, 9, False), (2, 1, False), (2, 2, True), (3, 1, True)]):
        node.step(Message(MessageType.VOTE, 1, 2, term=10 + number, log_term=term, index=index))
        assert [not m.reject for m in answers(node)] == [granted]


def test_5_4_2_figure_8_an_older_terms_entry_is_not_committed_by_counting() -> None:
    group = Group(3)
    for id_, log in ((1, [1, 2]), (2, [1, 2]), (3, [1])):
        group.members[id_].disk.entries = [Entry(term, i) for i, term in enumerate(log, 1)]
        group.members[id_].disk.hard_state = HardState(term=2)
        group.members[id_].start()
    one = group.members[1]
    one.node.campaign()
    for _ in range(20):  # everything but the new leader's own entry arrives
        for member in group.members.values():
            member.process()
        pending, group.network = group.network, []
        for message in pending:
            if message.type is MessageType.APP and message.entries and message.entries[-1].term == 3:
                kept = tuple(e for e in message.entries if e.term < 3)
                message = Message(
                    message.type, message.to, message.from_, message.term, message.log_term, message.index, kept
                )
            group.deliver(message)
    assert one.node.is_leader
    assert one.node.status().progress[2].match == 2
    assert one.node.status().commit == 0
