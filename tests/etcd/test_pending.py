"""Rounds of linearizable reads: who is answered by which of raft's answers."""

import asyncio

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.replication.read_index import ReadIndex


class Raft:
    """A raft that takes down what it is asked for."""

    def __init__(self) -> None:
        self.contexts: list[bytes] = []
        self.leaderless = False

    def ask(self, context: bytes) -> None:
        if self.leaderless:
            raise raft.ReadIndexDropped
        self.contexts.append(context)


def read(rounds: ReadIndex) -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rounds.add(future, 100.0)
    return future


async def test_an_answer_that_comes_after_the_round_was_asked_again_still_counts() -> None:
    raft_, now = Raft(), 0.0
    rounds = ReadIndex(raft_.ask, first=7, timeout_s=5)
    first = read(rounds)
    for _ in range(10):
        rounds.sweep(now, retry_after=4)
    assert len(raft_.contexts) == 3
    rounds.confirmed(raft.ReadState(5, raft_.contexts[0]), applied=5)
    assert first.done()


async def test_a_read_waits_for_a_round_that_began_after_it() -> None:
    raft_ = Raft()
    rounds = ReadIndex(raft_.ask, first=7, timeout_s=5)
    first, second = read(rounds), read(rounds)
    asked = raft_.contexts[0]
    rounds.confirmed(raft.ReadState(5, asked), applied=5)
    assert first.done() and not second.done()
    rounds.confirmed(raft.ReadState(6, asked), applied=6)  # the first round's answer again
    assert not second.done()
    rounds.confirmed(raft.ReadState(6, raft_.contexts[1]), applied=5)
    assert not second.done()  # this member has not come so far
    rounds.applied(6)
    assert second.done()


async def test_a_round_without_a_leader_is_asked_at_the_next_tick() -> None:
    raft_ = Raft()
    raft_.leaderless = True
    rounds = ReadIndex(raft_.ask, first=7, timeout_s=5)
    first = read(rounds)
    raft_.leaderless = False
    rounds.sweep(0.0, retry_after=1000)
    rounds.confirmed(raft.ReadState(1, raft_.contexts[0]), applied=1)
    assert first.done()


async def test_reads_of_a_member_that_lags_for_ever_are_not_kept_when_their_time_is_over() -> None:
    raft_ = Raft()
    rounds = ReadIndex(raft_.ask, first=7, timeout_s=5)
    first = read(rounds)
    rounds.confirmed(raft.ReadState(9, raft_.contexts[0]), applied=5)
    for now in (99.0, 100.0):
        assert not first.done() and len(rounds._confirmed) == 1
        rounds.sweep(now, retry_after=4)
    assert isinstance(first.exception(), errors.Timeout) and rounds._confirmed == []
