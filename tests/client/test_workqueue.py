"""The work queue: no key is lost, none is in work twice, failures wait longer each time."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.client import WorkQueue
from rayplane.control_plane.simulation import VirtualLoop
from tests.tiers import examples

KEYS = st.sampled_from("abcd")
ACTIONS = st.one_of(
    st.tuples(st.just("add"), KEYS),
    st.tuples(st.just("after"), KEYS),
    st.tuples(st.just("fail"), KEYS),
    st.tuples(st.just("wait"), st.just("")),
)


@pytest.mark.timeout(300)
@settings(max_examples=examples(50), deadline=None)
@given(st.lists(ACTIONS, max_size=60), st.integers(1, 3))
def test_every_key_is_worked_on_after_it_was_added_and_never_twice_at_once(
    actions: list[tuple[str, str]], workers: int
) -> None:
    working: set[str] = set()
    added: dict[str, float] = {}
    begun: dict[str, float] = {}

    async def work(queue: WorkQueue, loop: VirtualLoop) -> None:
        while True:
            key = await queue.get()
            assert key not in working
            working.add(key)
            begun[key] = loop.time()
            await asyncio.sleep(0.3)
            working.discard(key)
            queue.done(key)

    async def main(loop: VirtualLoop) -> None:
        queue = WorkQueue(backoff=Backoff(0.05, 2.0))
        tasks = [asyncio.ensure_future(work(queue, loop)) for _ in range(workers)]
        for action, key in actions:
            if action == "wait":
                await asyncio.sleep(0.1)
                continue
            added[key] = loop.time()
            if action == "add":
                queue.add(key)
            elif action == "after":
                queue.add_after(key, 0.7)
            else:
                queue.add_rate_limited(key)
        await asyncio.sleep(120)
        assert not len(queue) and not working
        for task in tasks:
            task.cancel()
        finished = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(f, asyncio.CancelledError) for f in finished), finished
        queue.close()

    loop = VirtualLoop()
    loop.run(main(loop))
    for key, at in added.items():
        assert begun[key] >= at


def test_a_key_added_while_in_work_comes_again_once() -> None:
    async def main() -> None:
        queue = WorkQueue()
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        assert not len(queue)
        queue.done("a")
        assert await queue.get() == "a"
        queue.done("a")
        assert not len(queue)

    VirtualLoop().run(main())


def test_failures_wait_longer_until_forgotten() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue = WorkQueue(backoff=Backoff(1.0, 5.0))
        pauses = []
        for _ in range(5):
            begun = loop.time()
            queue.add_rate_limited("a")
            await queue.get()
            queue.done("a")
            pauses.append(loop.time() - begun)
        assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
        queue.forget("a")
        begun = loop.time()
        queue.add_rate_limited("a")
        await queue.get()
        assert loop.time() - begun == 1.0

    VirtualLoop().run(main())


def test_of_two_delays_the_earlier_counts() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue = WorkQueue()
        queue.add_after("a", 10)
        queue.add_after("a", 2)
        queue.add_after("a", 5)
        await queue.get()
        assert loop.time() == 2.0
        queue.done("a")
        await asyncio.sleep(20)
        assert not len(queue)

    VirtualLoop().run(main())


def test_a_cancelled_getter_takes_nothing_with_it() -> None:
    async def main() -> None:
        queue = WorkQueue()
        first, second = asyncio.ensure_future(queue.get()), asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        queue.add("a")  # wakes the first
        first.cancel()
        await asyncio.sleep(1)
        assert second.done() and second.result() == "a"

    VirtualLoop().run(main())
