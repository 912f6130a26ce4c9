"""Figure 2 of the Raft paper, rule by rule. Where this library does otherwise, the test says what and why."""

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

APP, APP_RESP, VOTE, VOTE_RESP = MessageType.APP, MessageType.APP_RESP, MessageType.VOTE, MessageType.VOTE_RESP


class Server:
    """Member 1 of three, alone with what a test sends it."""

    def __init__(self, terms: list[int], *, term: int, vote: int = 0, commit: int = 0, **config: object) -> None:
        entries = [Entry(t, i, data=b"%d" % i) for i, t in enumerate(terms, 1)]
        self.storage = MemoryStorage(
            entries=entries, hard_state=HardState(term, vote, commit), conf_state=ConfState((1, 2, 3))
        )
        settings = {"pre_vote": False} | config
        self.node = RawNode(Config(id=1, **settings), self.storage, random.Random(0))  # type: ignore[arg-type]
        self.saved: list[Entry] = []

    def turn(self) -> list[Message]:
        """All that is sent until there is nothing to do."""
        sent: list[Message] = []
        while self.node.has_ready():
            ready = self.node.ready()
            self.saved.extend(ready.entries)
            self.storage.append(ready.entries)
            if ready.hard_state is not None:
                self.storage.set_hard_state(ready.hard_state)
            sent += [*ready.messages, *ready.messages_after_append]
            self.node.advance(ready)
        return sent

    def gets(self, kind: MessageType, from_: int = 2, **fields: object) -> list[Message]:
        self.node.step(Message(kind, 1, from_, **fields))  # type: ignore[arg-type]
        return self.turn()

    def terms(self) -> list[int]:
        log = self.node._raft.log
        return [entry.term for entry in log.scan(1, log.last_index + 1)]

    def leading(self) -> Server:
        self.node.campaign()
        self.turn()
        self.gets(VOTE_RESP, term=self.node.term)
        assert self.node.is_leader
        return self


# AppendEntries RPC: receiver implementation


def test_append_1_refuses_an_older_term() -> None:
    server = Server([1], term=3)
    (answer,) = server.gets(APP, term=2, index=1, log_term=1, entries=(Entry(2, 2),))
    assert (answer.type, answer.term) == (APP_RESP, 3)
    assert server.terms() == [1]


@pytest.mark.parametrize(("index", "term"), [(3, 1), (2, 2), (9, 1)])
def test_append_2_refuses_without_a_matching_entry_before(index: int, term: int) -> None:
    server = Server([1, 1], term=2)
    (answer,) = server.gets(APP, term=2, index=index, log_term=term, entries=(Entry(2, index + 1),))
    assert answer.reject and answer.index == index
    assert server.terms() == [1, 1]


def test_append_3_deletes_a_conflicting_entry_and_all_that_follow() -> None:
    server = Server([1, 2, 2, 2], term=3)
    (answer,) = server.gets(APP, term=3, index=1, log_term=1, entries=(Entry(3, 2),))
    assert server.terms() == [1, 3] and answer.index == 2


def test_append_3_keeps_what_follows_where_nothing_conflicts() -> None:
    server = Server([1, 2, 2, 2], term=3)
    (answer,) = server.gets(APP, term=3, index=1, log_term=1, entries=(Entry(2, 2, data=b"2"),))
    assert server.terms() == [1, 2, 2, 2]
    assert answer.index == 2, "only so much is known to match"


def test_append_4_appends_only_what_is_not_there() -> None:
    server = Server([1, 2], term=2)
    server.gets(APP, term=2, index=1, log_term=1, entries=(Entry(2, 2, data=b"2"), Entry(2, 3, data=b"3")))
    assert [e.index for e in server.saved] == [3]


@pytest.mark.parametrize(("commit", "expected"), [(0, 0), (1, 1), (2, 2), (9, 2)])
def test_append_5_commits_up_to_the_last_new_entry(commit: int, expected: int) -> None:
    server = Server([1, 1, 1], term=2)
    server.gets(APP, term=2, index=1, log_term=1, entries=(Entry(1, 2, data=b"2"),), commit=commit)
    assert server.node.status().commit == expected


# RequestVote RPC: receiver implementation


def test_vote_1_does_not_vote_in_an_older_term() -> None:
    # A refusal would change nothing: the candidate learns of the term by the leader's or anybody's next message.
    assert Server([], term=3).gets(VOTE, term=2) == []


@pytest.mark.parametrize(("vote", "granted"), [(0, True), (2, True), (3, False)])
def test_vote_2_once_in_a_term(vote: int, granted: bool) -> None:
    (answer,) = Server([], term=3, vote=vote).gets(VOTE, term=3)
    assert answer.reject is not granted


@pytest.mark.parametrize(
    ("last", "granted"), [((2, 3), True), ((2, 4), True), ((3, 1), True), ((2, 2), False), ((1, 9), False)]
)
def test_vote_2_only_for_a_log_at_least_as_up_to_date(last: tuple[int, int], granted: bool) -> None:
    server = Server([1, 2, 2], term=3)
    (answer,) = server.gets(VOTE, term=4, log_term=last[0], index=last[1])
    assert answer.reject is not granted
    assert server.storage.hard_state.vote == (2 if granted else 0), "durable before the answer leaves"


# Rules for servers: all


def test_all_servers_apply_what_is_committed_in_order_once() -> None:
    server = Server([1, 1], term=1)
    server.node.step(Message(APP, 1, 2, 1, 1, 2, (Entry(1, 3),), 3))
    applied: list[int] = []
    while server.node.has_ready():
        ready = server.node.ready()
        applied += [e.index for e in ready.committed_entries]
        server.storage.append(ready.entries)
        server.node.advance(ready)
    assert applied == [1, 2, 3]


@pytest.mark.parametrize("kind", [APP, APP_RESP, VOTE, VOTE_RESP, MessageType.HEARTBEAT, MessageType.HEARTBEAT_RESP])
@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.FOLLOWER, Role.LEADER])
def test_all_servers_follow_a_higher_term(kind: MessageType, role: Role) -> None:
    server = Server([], term=1, check_quorum=False)
    if role is Role.LEADER:
        server.leading()
    elif role is Role.CANDIDATE:
        server.node.campaign()
    server.gets(kind, term=9)
    status = server.node.status()
    assert (status.role, status.term) == (Role.FOLLOWER, 9)
    assert server.storage.hard_state.term == 9


# Rules for servers: followers


def test_followers_campaign_when_neither_leader_nor_candidate_is_heard() -> None:
    server = Server([], term=1)
    for _ in range(20):
        server.node.tick()
    assert server.node.status().role is Role.CANDIDATE


def test_followers_time_starts_over_with_the_leaders_word_and_a_vote_given() -> None:
    for kind, fields in (
        (APP, {"term": 1}),
        (MessageType.HEARTBEAT, {"term": 1}),
        (VOTE, {"term": 2, "log_term": 9, "index": 9}),
    ):
        server = Server([], term=1, check_quorum=False)
        for _ in range(9):
            server.node.tick()
        server.gets(kind, **fields)
        for _ in range(9):
            server.node.tick()
        assert server.node.status().role is Role.FOLLOWER


def test_followers_time_does_not_start_over_with_a_vote_refused() -> None:
    server = Server([5], term=1, check_quorum=False)
    for tick in range(20):
        server.node.tick()
        if server.node.status().role is Role.CANDIDATE:
            return
        server.gets(VOTE, term=2 + tick, log_term=1, index=1)
    raise AssertionError("a candidate that cannot win kept this one from trying")


# Rules for servers: candidates


def test_candidates_raise_the_term_vote_for_themselves_and_ask_all_others() -> None:
    server = Server([1, 2], term=4)
    server.node.campaign()
    sent = server.turn()
    assert server.storage.hard_state == HardState(5, 1, 0)
    assert [(m.type, m.to, m.term, m.log_term, m.index) for m in sent] == [(VOTE, 2, 5, 2, 2), (VOTE, 3, 5, 2, 2)]


def test_candidates_lead_with_a_majority_and_return_to_follow_a_new_leader() -> None:
    server = Server([], term=1)
    server.node.campaign()
    server.turn()
    server.gets(VOTE_RESP, term=2, reject=True)
    assert server.node.status().role is Role.CANDIDATE
    server.gets(VOTE_RESP, from_=3, term=2)
    assert server.node.is_leader

    server = Server([], term=1)
    server.node.campaign()
    server.turn()
    server.gets(APP, from_=3, term=2)
    assert (server.node.status().role, server.node.leader) == (Role.FOLLOWER, 3)


def test_candidates_try_again_when_the_time_runs_out() -> None:
    server = Server([], term=1)
    server.node.campaign()
    server.turn()
    for _ in range(20):
        server.node.tick()
    assert server.node.term > 2


# Rules for servers: leaders


def test_leaders_speak_at_once_and_again_while_idle() -> None:
    server = Server([1], term=1)
    server.node.campaign()
    server.turn()
    first = server.gets(VOTE_RESP, term=2)
    # The empty entry of the term (§8) says it, instead of an empty append.
    assert [(m.type, m.to, m.entries[0].term) for m in first] == [(APP, 2, 2), (APP, 3, 2)]
    server.node.tick()
    assert [m.type for m in server.turn()] == [MessageType.HEARTBEAT] * 2


def test_leaders_append_a_command_and_answer_once_it_is_applied() -> None:
    group = Group(3)
    leader = group.elect(1)
    index = leader.node.propose(b"x")
    assert leader.log()[index].data == b"x" and leader.applied == []
    group.settle()
    assert leader.applied == [b"x"]


def test_leaders_go_back_when_refused_and_on_when_accepted() -> None:
    server = Server([1, 1, 2], term=2).leading()
    server.turn()
    (again,) = server.gets(APP_RESP, term=3, reject=True, index=3, reject_hint=1, log_term=1)
    assert (again.index, [e.index for e in again.entries]) == (1, [2, 3, 4])
    server.gets(APP_RESP, term=3, index=4)
    progress = server.node.status().progress[2]
    assert (progress.match, progress.next) == (4, 5)


def test_leaders_commit_what_a_majority_has_of_their_own_term_only() -> None:
    server = Server([1, 1], term=1).leading()
    server.gets(APP_RESP, term=2, index=2)
    assert server.node.status().commit == 0
    server.gets(APP_RESP, term=2, index=3)
    assert server.node.status().commit == 3
