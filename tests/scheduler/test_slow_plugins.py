"""Plug-ins in Python that take long: they are told by name, end at last, and hold up nobody where they need not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rayplane.control_plane.scheduler.framework import Node, PluginError, PodPlugin, State
from rayplane.control_plane.scheduler.plugin_threads import THREADS_MAX
from rayplane.control_plane.scheduler.plugin_watch import PluginCalls, PluginWatch
from tests.fakes import FakeClient
from tests.scheduler.build import node, pod
from tests.scheduler.harness import node_of, until
from tests.scheduler.plugged import Made


class Time:
    """A clock that plug-ins turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_what_takes_long_for_one_pod_is_told_once_a_minute_and_ends_at_last(time: Time) -> None:
    watch = PluginWatch(time)
    one = PluginCalls("Mine", type("Mine", (PodPlugin,), {"timeout_s": 2.0})({}), watch)
    first, second = pod("a"), pod("b")

    def takes(seconds: float) -> str:
        time.now += seconds
        return "no"

    for _ in range(3):
        assert one.told("filter", first, takes, 0.03) == "no"
    assert not watch.slow(), "three nodes, and less than a tenth of a second in all"
    assert one.told("filter", second, takes, 0.05) == "no"
    assert not watch.slow(), "of another pod"
    assert one.told("filter", second, takes, 0.06) == "no"
    [slow] = watch.slow()
    assert str(slow) == 'Filter plugin "Mine" took 0.11 s for this pod, and all others waited' and slow.pod is second
    with pytest.raises(PluginError, match='running Filter plugin "Mine": timed out'):
        one.told("filter", second, takes, 2.0)
    assert not watch.slow(), "it was told of less than a minute ago"
    one.called("score", second, takes, 0.2)
    assert [found.point for found in watch.slow()] == ["score"]
    time.now += 60
    one.told("filter", first, takes, 0.5)
    assert len(watch.slow()) == 1
    [family] = watch.collect()
    assert family.samples["Mine", "filter", "Success"].counts and len(family.samples) == 2


async def test_users_are_told_which_plug_in_is_slow(
    api: FakeClient, start: Made, caplog: pytest.LogCaptureFixture
) -> None:
    turn = 0.0

    class Mine(PodPlugin):
        def filter(self, state: State, pod: Any, node: Node) -> str | None:
            nonlocal turn
            turn += 0.5
            return None

    scheduler = await start(Mine)
    clock = scheduler._extensions.watch.clock
    scheduler._extensions.watch.clock = lambda: clock() + turn
    api.put("nodes", node("n1"))
    with caplog.at_level(logging.WARNING):
        api.put("pods", pod("p"))
        await until(lambda: api.events("SlowSchedulerPlugin"))
    assert api.events("SlowSchedulerPlugin")[0].startswith('Filter plugin "Mine" took ')
    assert 'pod default/p: Filter plugin "Mine" took ' in caplog.text
    assert any("scheduler_plugin_execution_duration_seconds" in family.name for family in scheduler.collect())


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What blocked methods wait for; opened at the end, so that no thread stays."""
    found = threading.Event()
    yield found
    found.set()


@pytest.mark.parametrize("method", ["permit", "pre_bind", "bind", "post_bind"])
async def test_a_method_that_blocks_before_binding_holds_up_its_pod_alone(
    api: FakeClient, start: Made, gate: threading.Event, method: str
) -> None:
    def block(self: Any, state: State, pod: Any, node: str) -> Any:
        if pod["metadata"]["name"] == "slow":
            gate.wait()

    await start(type("Mine", (PodPlugin,), {method: block}))
    api.put("nodes", node("n1"))
    api.put("pods", pod("slow"))
    await until(lambda: method != "post_bind" or node_of(api, "slow"))
    api.put("pods", pod("other"))
    await until(lambda: node_of(api, "other"))
    assert bool(node_of(api, "slow")) == (method == "post_bind")
    gate.set()
    await until(lambda: node_of(api, "slow"))


async def test_a_method_that_blocks_for_ever_ends_as_its_plug_in_says(
    api: FakeClient, start: Made, gate: threading.Event
) -> None:
    """Also where all threads are taken by such."""

    class Mine(PodPlugin):
        timeout_s = 0.05

        def permit(self, state: State, pod: Any, node: str) -> None:
            gate.wait()

    await start(Mine)
    api.put("nodes", node("n1"))
    for number in range(THREADS_MAX + 2):
        api.put("pods", pod(f"p{number}"))
    told = 'running Permit plugin "Mine": timed out'
    await until(lambda: len(api.events("FailedScheduling")) >= THREADS_MAX + 2)
    assert set(api.events("FailedScheduling")) == {told}


async def test_a_plug_in_whose_threads_are_all_taken_holds_up_no_other(
    api: FakeClient, start: Made, gate: threading.Event
) -> None:
    begun = threading.Semaphore(0)

    class Hangs(PodPlugin):
        def permit(self, state: State, pod: Any, node: str) -> None:
            begun.release()
            gate.wait()

    class Works(PodPlugin):
        def permit(self, state: State, pod: Any, node: str) -> None:
            pass

    await start(Hangs, Works)
    api.put("nodes", node("n1"))
    for number in range(THREADS_MAX):
        api.put("pods", pod(f"p{number}"))
    await until(lambda: begun._value == THREADS_MAX)
    api.put("pods", pod("of-another", scheduler="plain"))
    await until(lambda: node_of(api, "of-another"))
