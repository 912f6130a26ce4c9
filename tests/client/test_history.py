"""Revisions and their times, found in both directions, whatever was written and forgotten."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.client.history import Forgotten, Future, History
from tests.apiserver.fake_etcd import FakeEtcd

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


# How many writes come in each second.
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 12), st.floats(-1, 13))
def test_a_time_leads_to_the_last_tick_before_it(writes: list[int], forgotten: int, second: float) -> None:
    async def run() -> None:
        etcd = FakeEtcd()
        history = History(etcd)  # type: ignore[arg-type]
        ticks = []
        for now, count in enumerate(writes):
            await history.tick(at(now), 1.0)
            ticks.append(etcd.revision)
            for _ in range(count):
                await etcd.put(b"/registry/x", b"y")
        oldest = 1
        if forgotten and forgotten < len(writes):
            oldest = ticks[forgotten] + writes[forgotten]
            await etcd.compact(oldest)
        known = [(n, max(tick, oldest)) for n, tick in enumerate(ticks) if n >= forgotten or oldest == 1]
        expected = [revision for n, revision in known if at(n) <= at(second)]
        assert await history.oldest() == oldest
        if expected:
            assert await history.at(at(second)) == expected[-1]
            assert await history.time_of(expected[-1]) <= at(second)  # type: ignore[operator]
        else:
            with pytest.raises(Forgotten) as error:
                await history.at(at(second))
            assert error.value.oldest == oldest

    asyncio.run(run())


async def test_many_servers_write_one_time_and_it_never_runs_backwards() -> None:
    etcd = FakeEtcd()
    one, other = History(etcd), History(etcd)  # type: ignore[arg-type]
    await asyncio.gather(one.tick(at(10), 1.0), other.tick(at(10.1), 1.0))
    assert etcd.revision == 2
    await other.tick(at(3), 1.0)  # its machine's clock is late
    assert (etcd.revision, await one.time_of(2)) == (2, at(10))
    await other.tick(at(11), 1.0)
    assert (etcd.revision, await one.time_of(3)) == (3, at(11))


async def test_what_cannot_be_read_is_told_with_what_can() -> None:
    etcd = FakeEtcd()
    history = History(etcd)  # type: ignore[arg-type]
    with pytest.raises(Forgotten):
        await history.at(at(0))
    for now in range(5):
        await history.tick(at(now), 1.0)
    await etcd.compact(4)
    await history.check(4)
    with pytest.raises(Forgotten) as gone:
        await history.check(3)
    assert gone.value.oldest == 4
    with pytest.raises(Future) as late:
        await history.check(7)
    assert late.value.newest == 6
