"""The revision by the word of a majority: what is agreed, who is asked, and what is done where none agrees."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.client.endpoints import Endpoints
from rayplane.control_plane.client.standings import PAUSE_S, UNKNOWN_S, WAIT_S, Standings, agreed
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.rayplane.v1.raft_pb2 import Question, Standing
from tests.etcd.virtual import VirtualLoop


def follower(member_id: int, term: int) -> Standing:
    return Standing(member_id=member_id, term=term)


def leader(member_id: int, term: int, revision: int, voters: Sequence[int] = (1, 2, 3)) -> Standing:
    return Standing(member_id=member_id, term=term, revision=revision, voters=voters)


@pytest.mark.parametrize(
    ("standings", "revision"),
    [
        ([leader(1, 5, 70), follower(2, 5)], 70),
        ([follower(3, 5), leader(1, 5, 70)], 70),
        ([leader(1, 5, 70)], 0),
        ([leader(1, 5, 70, [1])], 70),
        # Another may lead in the newer term, and have acknowledged what this one does not know.
        ([leader(1, 5, 70), follower(2, 6)], 0),
        ([leader(1, 5, 70), follower(2, 6), follower(3, 5)], 70),
        ([leader(1, 5, 70), leader(2, 6, 80), follower(3, 6)], 80),
        # Neither a learner nor who was removed counts, nor one and the same twice.
        ([leader(1, 5, 70), follower(9, 5)], 0),
        ([leader(1, 5, 70), leader(1, 5, 71)], 0),
        ([leader(9, 5, 70), follower(2, 5)], 0),
        ([leader(1, 5, 70, [1, 2, 3, 4]), follower(2, 5)], 0),
        ([follower(1, 5), follower(2, 5)], 0),
        ([], 0),
    ],
)
def test_a_majority_of_the_leaders_term_agrees(standings: list[Standing], revision: int) -> None:
    assert agreed(standings) == revision


@given(others=st.lists(st.integers(1, 3), min_size=4, max_size=4), asked=st.sets(st.integers(2, 5)))
def test_no_majority_agrees_beside_one_that_has_gone_on(others: list[int], asked: set[int]) -> None:
    """Who leads in term 1 is not believed once a majority may have elected an heir, whoever is asked."""
    terms = dict(enumerate(others, 2))
    found = agreed([leader(1, 1, 70, range(1, 6)), *(follower(n, terms[n]) for n in sorted(asked))])
    assert not (found and sum(term > 1 for term in others) >= 3)


class Members:
    """Members that answer as they are told to: `stand[address]`, None for silence, an RpcError for the stream's end."""

    def __init__(self, stand: dict[str, Standing | RpcError | None]) -> None:
        self.stand = stand
        self.asked: list[str] = []
        self.opened: list[str] = []
        self.endpoints = Endpoints(list(stand))
        self.standings = Standings(self.endpoints, lambda address: cast(Stub, _Member(self, address)))


class _Member:
    def __init__(self, members: Members, address: str) -> None:
        self._members, self._address = members, address

    async def Ask(self, questions: AsyncIterator[Question]) -> AsyncIterator[Standing]:
        members = self._members
        members.opened.append(self._address)
        async for question in questions:
            members.asked.append(self._address)
            stand = members.stand[self._address]
            if isinstance(stand, RpcError):
                raise stand
            if stand is not None:
                yield Standing(number=question.number, member_id=stand.member_id, term=stand.term,
                               voters=stand.voters, revision=stand.revision)  # fmt: skip


def run(work: Any) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work)


def test_as_many_are_asked_as_make_a_majority() -> None:
    async def case() -> None:
        members = Members({"a": leader(1, 5, 70), "b": follower(2, 5), "c": follower(3, 5)})
        assert [await members.standings.revision() for _ in range(2)] == [70, 70]
        assert sorted(members.asked) == ["a", "a", "b", "b"]
        assert sorted(members.opened) == ["a", "b"]
        await members.standings.stop()

    run(case())


def test_who_says_nothing_is_not_waited_for_and_not_asked_next() -> None:
    async def case() -> None:
        loop = asyncio.get_running_loop()
        members = Members({"a": leader(1, 5, 70), "b": None, "c": follower(3, 5)})
        began = loop.time()
        assert await members.standings.revision() == 0
        assert loop.time() - began == pytest.approx(WAIT_S)
        assert await members.standings.revision() == 0, "none is asked at once after that"
        assert len(members.asked) == 2
        await asyncio.sleep(PAUSE_S)
        assert await members.standings.revision() == 70
        assert sorted(members.asked[2:]) == ["a", "c"]
        await members.standings.stop()

    run(case())


def test_a_late_answer_is_none_to_a_later_question() -> None:
    """What a member said before a question was asked proves nothing about it."""

    async def case() -> None:
        late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        members = Members({"a": leader(1, 5, 70), "b": follower(2, 5), "c": None})
        numbers = itertools.count(1)

        class Slow:
            async def Ask(self, questions: AsyncIterator[Question]) -> AsyncIterator[Standing]:
                async for question in questions:
                    if next(numbers) == 1:
                        await late
                    yield Standing(number=question.number, member_id=2, term=5)

        standings = Standings(
            members.endpoints, lambda address: cast(Stub, Slow() if address == "b" else _Member(members, address))
        )
        assert await standings.revision() == 0
        await asyncio.sleep(PAUSE_S)
        late.get_loop().call_later(WAIT_S / 2, late.set_result, None)
        # Only `c` is free, and it says nothing: the answer of `b` to the first question is no answer to this one.
        assert await standings.revision() == 0
        await standings.stop()

    run(case())


def test_members_that_do_not_know_the_question_are_left_alone() -> None:
    async def case() -> None:
        unknown = RpcError(grpc.StatusCode.UNIMPLEMENTED, "unknown service")
        members = Members({"a": unknown, "b": unknown})
        for _ in range(3):
            assert await members.standings.revision() == 0
            await asyncio.sleep(PAUSE_S)
        assert sorted(members.opened) == ["a", "b"]
        members.stand = {"a": leader(1, 5, 70, [1, 2]), "b": follower(2, 5)}
        await asyncio.sleep(UNKNOWN_S)
        assert await members.standings.revision() == 70
        await members.standings.stop()

    run(case())
