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
        ticks, written = [], {}
        for now, count in enumerate(writes):
            before = etcd.revision
            await history.tick(at(now), 1.0)
            if etcd.revision > before:
                ticks.append((now, etcd.revision))
            for _ in range(count):
                await etcd.put(b"/registry/x", b"y")
                written[etcd.revision] = now
        assert len(ticks) <= 1 + sum(1 for count in writes[:-1] if count), "nobody's second takes no room"
        oldest = 1
        if forgotten and forgotten < etcd.revision:
            oldest = forgotten
            await etcd.compact(oldest)
        expected = [revision for now, revision in ticks if at(now) <= at(second) and revision >= oldest]
        for revision, now in written.items():
            if oldest <= revision < ticks[-1][1]:
                assert at(now) <= await history.time_of(revision) <= at(now + 1)  # type: ignore[operator]
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
    await etcd.put(b"/registry/x", b"y")
    await other.tick(at(11), 1.0)
    assert (etcd.revision, await one.time_of(4)) == (4, at(11))


async def test_times_go_on_after_a_clock_that_was_ahead_and_lead_to_what_was_then() -> None:
    etcd = FakeEtcd()
    history = History(etcd)  # type: ignore[arg-type]
    revisions = {}
    for now in range(60):
        early = 3600 if 10 <= now < 20 else 0
        await etcd.put(b"/registry/x", b"y")
        await history.tick(at(now + early), 1.0)
        revisions[now] = etcd.revision
    for now in (0, 9, 26, 40, 59):
        assert await history.at(at(now)) == revisions[now]
        assert await history.time_of(revisions[now]) == at(now)
    assert await history.at(at(15)) == revisions[9], "nothing after it is known to be no later"
    await etcd.compact(revisions[30])
    with pytest.raises(Forgotten):
        await history.at(at(9))


async def test_an_early_clock_and_a_right_one_do_not_begin_time_anew_by_turns() -> None:
    etcd = FakeEtcd()
    early, right = History(etcd), History(etcd)  # type: ignore[arg-type]
    for now in range(20):
        await etcd.put(b"/registry/x", b"y")
        await early.tick(at(now + 3600), 1.0)
        await right.tick(at(now), 1.0)
    assert await right.time_of(etcd.revision) == at(3619) and await right.at(at(3605)) == 13


async def test_what_cannot_be_read_is_told_with_what_can() -> None:
    etcd = FakeEtcd()
    history = History(etcd)  # type: ignore[arg-type]
    with pytest.raises(Forgotten):
        await history.at(at(0))
    for now in range(5):
        await etcd.put(b"/registry/x", b"y")
        await history.tick(at(now), 1.0)
    await etcd.compact(4)
    await history.check(4)
    with pytest.raises(Forgotten) as gone:
        await history.check(3)
    assert gone.value.oldest == 4
    with pytest.raises(Future) as late:
        await history.check(12)
    assert late.value.newest == 11
