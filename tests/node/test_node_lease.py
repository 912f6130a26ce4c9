"""A node hears of a slow cluster as the cluster hears of it, and of one whose servers are silent in turn."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from rayplane.control_plane.api.errors import ServiceUnavailable
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.timings import FAST
from rayplane.node.config import NodeTiming
from rayplane.node.kubelet.fence import Fence
from rayplane.node.kubelet.node_lease import ASKED_MAX, NodeLeases

TIMING = NodeTiming.of(FAST)
SPAN_S = 60.0


class Node:
    name = "n1"

    def __init__(self) -> None:
        self.suspended: list[float] = []
        self.heard: list[float] = []
        self.fence = Fence(TIMING.fence_after_s, lambda: self.suspended.append(asyncio.get_running_loop().time()))
        self.node: Object | None = {"metadata": {"name": "n1"}}

    def keep_alive(self, seconds: float) -> None:
        self.heard.append(self.fence.heard_at)

    async def resume(self) -> None:
        self.fence.open()


class Cluster:
    """API servers that answer after so many seconds, each call another's; None: never."""

    def __init__(self, answers: Callable[[int], float | None]) -> None:
        self._answers = answers
        self.calls = self.waiting = self.most = 0

    async def batch(self, operations: Any, *, timeout: float, quiet: bool) -> list[Any]:
        self.calls += 1
        after_s = self._answers(self.calls)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(1e9 if after_s is None else after_s)
        except TimeoutError as e:
            raise ServiceUnavailable("no answer in time") from e
        finally:
            self.waiting -= 1
        return [{} for _ in operations]


def lived(answers: Callable[[int], float | None]) -> tuple[Node, Cluster]:
    cluster: Any = Cluster(answers)
    env: Any = Mock(timestamp_micro=lambda: "now")

    async def story() -> Node:
        node, leases = Node(), NodeLeases(cluster, env, TIMING)
        leases.start(1)
        leases.add([node])
        await asyncio.sleep(SPAN_S)
        await leases.stop()
        assert cluster.waiting == 0
        return node

    return VirtualLoop().run(story()), cluster


@pytest.mark.parametrize("after_s", [0.01, 1.9, 2.1, 3.0, 5.0])
def test_a_cluster_that_answers_late_is_heard_all_the_same(after_s: float) -> None:
    """Its Lease is renewed by each call, so nobody starts the node's pods elsewhere."""
    node, cluster = lived(lambda _: after_s)
    assert not node.suspended and cluster.most <= ASKED_MAX
    assert node.heard == sorted(node.heard) and node.heard[-1] > SPAN_S - TIMING.fence_after_s


def test_one_server_of_two_that_says_nothing_costs_no_node_its_lease() -> None:
    node, _ = lived(lambda call: None if call % 2 else 0.01)
    gaps = [b - a for a, b in itertools.pairwise(node.heard)]
    assert not node.suspended and max(gaps) <= TIMING.lease_duration_s


def test_a_cluster_that_says_nothing_closes_the_fence_in_time_and_one_that_is_back_opens_it() -> None:
    node, cluster = lived(lambda call: None if 5 < call < 20 else 0.01)
    [suspended] = node.suspended
    last = max(at for at in node.heard if at < suspended)
    assert 0 <= suspended - last - TIMING.fence_after_s < 0.2
    assert not node.fence.closed and cluster.most <= ASKED_MAX + 1
