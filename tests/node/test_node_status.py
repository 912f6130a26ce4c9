"""When the statuses of nodes are written."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.simulation.loop import VirtualLoop
from rayplane.control_plane.timings import KUBERNETES
from rayplane.node.config import NodeTiming
from rayplane.node.kubelet.node_status import NodeStatuses

STATUS = {"conditions": [{"type": "Ready", "status": "True"}], "addresses": []}
TIMING = NodeTiming.of(KUBERNETES)


class Rivals:
    """An API at which somebody says something else of nodes as soon as they have said how they are."""

    def __init__(self) -> None:
        self.node: Any = SimpleNamespace(name="n1", node={"status": {}}, node_status=lambda _: STATUS)
        self.statuses = NodeStatuses(cast(ApiClient, self), TIMING)
        self.written_at: list[float] = []
        self.end_s = 0.0

    async def batch(self, operations: Sequence[Any]) -> list[Any]:
        now = asyncio.get_running_loop().time()
        self.written_at += [now] * len(operations)
        if now < self.end_s:
            asyncio.get_running_loop().call_soon(self.statuses.dispute, self.node)
        return [self.node.node for _ in operations]


def test_who_goes_on_to_speak_in_a_nodes_name_keeps_nobody_busy() -> None:
    rivals = Rivals()

    async def story() -> None:
        rivals.end_s = 35.0
        rivals.statuses.start([rivals.node])
        rivals.statuses.dispute(rivals.node)
        await asyncio.sleep(100)
        rivals.statuses.dispute(rivals.node)
        await asyncio.sleep(1)
        rivals.statuses.dispute(rivals.node)
        await rivals.statuses.stop()
        rivals.statuses.dispute(rivals.node)
        await asyncio.sleep(100)

    VirtualLoop().run(story())
    # The first time at once, and when they have ceased for a while, too; a node that has ended says nothing more.
    assert rivals.written_at == [0.0, 10.0, 20.0, 30.0, 40.0, 100.0]
