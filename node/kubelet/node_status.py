"""Statuses of the nodes of a host, written together: on change, and now and then.

Those without a change are refreshed a few at a time, and of many nodes each the more seldom: their Leases tell that
they live.
"""

import asyncio
import logging
from typing import Any, Protocol

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, ops
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.config import NodeTiming
from rayplane.node.kubelet.registration import status_patch

log = logging.getLogger(__name__)

BATCH_MAX = 256
REFRESHED = 32
"""Statuses that are refreshed together,"""
PAUSE_MIN_S = 1.0
"""and between two such times."""


class ReportedNode(Protocol):
    """A registered node whose status is kept."""

    name: str
    node: Object | None
    """The Node at the API, as last seen."""

    def node_status(self, node: Object) -> dict[str, Any]:
        """Return its status now; `node`: what is known of it."""


class NodeStatuses:
    """The statuses of a host's nodes. `mark` asks for a write of one node's status soon, `dispute` where others have
    written it: who goes on to does not keep the host and etcd busy.
    """

    def __init__(self, client: ApiClient, timing: NodeTiming) -> None:
        self._client = client
        self._timing = timing
        self._nodes: list[ReportedNode] = []
        self._refreshed = 0
        self._marked: dict[str, ReportedNode] = {}
        self._disputed: dict[str, asyncio.TimerHandle] = {}
        """Nodes whose status was written against others' of late, with the end of that."""
        self._again: set[str] = set()
        """Those of them that others have written since then."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, nodes: list[ReportedNode]) -> None:
        self._nodes = nodes
        self._task = asyncio.get_running_loop().create_task(self._run(), name="node statuses")

    async def stop(self) -> None:
        task, self._task = self._task, None
        for pause in self._disputed.values():
            pause.cancel()
        await cancel_and_wait(task)

    def mark(self, node: ReportedNode) -> None:
        self._marked[node.name] = node
        self._wake.set()

    def dispute(self, node: ReportedNode) -> None:
        """Write it at once, but for one node no more than once in the time between two renewals of its Lease."""
        if self._task is None:
            return
        if node.name in self._disputed:
            self._again.add(node.name)
            return
        pause_s = self._timing.lease_renew_s
        self._disputed[node.name] = asyncio.get_running_loop().call_later(pause_s, self._settled, node)
        self.mark(node)

    def _settled(self, node: ReportedNode) -> None:
        del self._disputed[node.name]
        if node.name in self._again:
            self._again.remove(node.name)
            self.dispute(node)

    def _mark_all(self, nodes: list[ReportedNode]) -> None:
        self._marked.update((n.name, n) for n in nodes)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        together = min(REFRESHED, len(self._nodes))
        pause = max(PAUSE_MIN_S, self._timing.status_every_s * together / len(self._nodes))
        refresh = loop.time() + pause
        while True:
            try:
                async with asyncio.timeout_at(refresh):
                    await self._wake.wait()
            except TimeoutError:
                refresh = loop.time() + pause
                self._mark_all(self._next(together))
            self._wake.clear()
            try:
                await self._write_marked()
            except Exception:
                log.exception("node statuses are late")
                self._mark_all(self._nodes)
                await self._pause()

    def _next(self, count: int) -> list[ReportedNode]:
        """The nodes whose turn it is to be refreshed."""
        at = self._refreshed
        self._refreshed = (at + count) % len(self._nodes)
        return [self._nodes[(at + n) % len(self._nodes)] for n in range(count)]

    async def _write_marked(self) -> None:
        marked = [self._marked.pop(name) for name in [*self._marked][:BATCH_MAX]]
        if self._marked:
            self._wake.set()
        batch = []
        for node in marked:
            assert node.node is not None
            body = status_patch(node.node, node.node_status(node.node))
            batch.append(ops.patch("nodes", node.name, "", body, kind="strategic", subresource="status"))
        try:
            answers = await self._client.batch(batch)
        except ApiError as e:
            log.info("node statuses are late: %s", e.message)
            self._mark_all(marked)
            await self._pause()
            return
        for node, answer in zip(marked, answers, strict=True):
            if not isinstance(answer, ApiError):
                node.node = answer
            else:
                log.warning("status of node %s was refused: %s", node.name, answer.message)
                if answer.retryable:
                    self._marked[node.name] = node
        if self._marked:
            await self._pause()

    async def _pause(self) -> None:
        """Wait before what is marked is tried again."""
        await asyncio.sleep(self._timing.lease_renew_s)
        self._wake.set()
