import asyncio
from collections.abc import Callable

import pytest

from rayplane.control_plane.shared import Shared


class Work:
    """Work that tells of news when it is told to; notes how often it was begun and ended."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.news = asyncio.Event()
        self.error: Exception | None = None

    async def keep(self, tell: Callable[[], None]) -> None:
        self.begun += 1
        try:
            while True:
                await self.news.wait()
                self.news.clear()
                if self.error is not None:
                    raise self.error
                tell()
        finally:
            self.ended += 1


async def test_work_is_done_once_for_all_who_listen_and_ends_with_the_last() -> None:
    work = Work()
    shared = Shared(work.keep)
    one, other = shared.turns(0), shared.turns(0)
    turns = [asyncio.ensure_future(anext(one)), asyncio.ensure_future(anext(other))]
    await asyncio.sleep(0)
    work.news.set()
    await asyncio.gather(*turns)
    assert (work.begun, work.ended) == (1, 0)
    await one.aclose()
    assert work.ended == 0
    await other.aclose()
    assert (work.begun, work.ended) == (1, 1)


async def test_who_comes_later_gets_a_turn_for_what_is_known() -> None:
    work = Work()
    shared = Shared(work.keep)
    one = shared.turns(0)
    work.news.set()
    await anext(one)
    later = shared.turns(0)
    await anext(later)
    await one.aclose()
    await later.aclose()


async def test_who_listens_is_told_why_the_work_ended_and_the_next_begins_it_anew() -> None:
    work = Work()
    work.error = ValueError("broken")
    work.news.set()
    shared = Shared(work.keep)
    with pytest.raises(ValueError, match="broken"):
        await anext(shared.turns(0))
    work.error = None
    work.news.set()
    again = shared.turns(0)
    await anext(again)
    await again.aclose()
    assert (work.begun, work.ended) == (2, 2)
