"""Leases of the nodes of a host: the cluster hears that they live, and they hear when it does not.

One task renews all Leases of the host in one batch. A node whose Lease could not be renewed in time stops its pods (its
fence closes), and runs them again after the next renewal.
"""

import asyncio
import logging
from typing import Any, Protocol

from rayplane.control_plane.api.authorization.node_identity import NODE_LEASES
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, ops
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.config import NodeTiming
from rayplane.node.kubelet import registration
from rayplane.node.kubelet.fence import Fence
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

CALL_TIMEOUT_MIN_S, CALL_TIMEOUT_MAX_S = 0.05, 2.0


class LeasedNode(Protocol):
    """A registered node whose Lease is kept."""

    @property
    def name(self) -> str: ...

    @property
    def fence(self) -> Fence: ...

    @property
    def node(self) -> Object | None:
        """The Node at the API, as last seen."""

    def keep_alive(self, seconds: float) -> None:
        """The cluster was heard: containers may run this long without another word."""

    async def resume(self) -> None:
        """Run again what is still bound to the node. Raises ApiError."""


class NodeLeases:
    """A task that renews the Leases of `nodes` until it is stopped."""

    def __init__(self, client: ApiClient, env: Env, timing: NodeTiming) -> None:
        self._client = client
        self._env = env
        self._timing = timing
        self._nodes: list[LeasedNode] = []
        self._task: asyncio.Task[None] | None = None
        self._resuming: dict[str, asyncio.Task[None]] = {}

    def start(self, nodes: list[LeasedNode]) -> None:
        loop = asyncio.get_running_loop()
        self._nodes = nodes
        for node in nodes:
            node.fence.heard_at = loop.time()
        self._task = loop.create_task(self._renew_for_ever(), name="node leases")

    async def stop(self) -> None:
        await cancel_and_wait(self._task, *self._resuming.values())

    async def _renew_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        every = self._timing.lease_renew_s
        due = loop.time()
        while True:
            began = loop.time()
            try:
                for node in await self._renew():
                    self._heard(node, began)
            except Exception:
                # The nodes of this host live by this task alone.
                log.exception("leases were not renewed")
            for node in self._nodes:
                node.fence.check()
            due = max(due + every, loop.time())
            await asyncio.sleep(min(due, self._deadline()) - loop.time())

    async def _renew(self) -> list[LeasedNode]:
        """The nodes whose Lease is renewed."""
        stamp = self._env.timestamp_micro()
        # The cluster may have been made with another timing.
        body = {"spec": {"renewTime": stamp, "leaseDurationSeconds": self._timing.lease_duration_s}}
        space = NODE_LEASES
        answers = await self._write(self._nodes, [ops.patch(LEASES, n.name, space, body) for n in self._nodes])
        absent = [n for n, answer in answers if isinstance(answer, NotFound)]
        if absent:
            made = await self._write(absent, [ops.create(LEASES, self._lease(n, stamp)) for n in absent])
            answers = [(n, a) for n, a in answers if n not in absent] + made
        for node, answer in answers:
            if isinstance(answer, ApiError):
                log.info("lease of %s was not renewed: %s", node.name, answer.message)
        return [n for n, answer in answers if not isinstance(answer, ApiError)]

    async def _write(self, nodes: list[LeasedNode], batch: list[Any]) -> list[tuple[LeasedNode, Object | ApiError]]:
        """Each node's answer; none when the call failed."""
        # A call that hangs must not keep the host from fencing itself in time.
        left = self._deadline() - asyncio.get_running_loop().time()
        timeout = max(CALL_TIMEOUT_MIN_S, min(left, CALL_TIMEOUT_MAX_S))
        try:
            return list(zip(nodes, await self._client.batch(batch, timeout=timeout), strict=True))
        except ApiError as e:
            log.info("leases were not renewed: %s", e.message)
            return []

    def _lease(self, node: LeasedNode, stamp: str) -> Object:
        assert node.node is not None
        return registration.lease_object(node.node, duration_s=self._timing.lease_duration_s, renewed=stamp)

    def _heard(self, node: LeasedNode, at: float) -> None:
        node.fence.heard_at = at
        # From the sending on, as the node itself counts: the answer may have taken its time.
        node.keep_alive(max(0.0, node.fence.due - asyncio.get_running_loop().time()))
        # In a task of its own: while one node asks for its pods, the others must be renewed and fenced in time.
        if node.fence.closed and node.name not in self._resuming:
            task = asyncio.get_running_loop().create_task(self._resume(node), name=f"resume {node.name}")
            self._resuming[node.name] = task

    async def _resume(self, node: LeasedNode) -> None:
        try:
            await node.resume()
        except ApiError as e:
            log.info("node %s stays suspended: %s", node.name, e.message)
        finally:
            del self._resuming[node.name]

    def _deadline(self) -> float:
        """When the first fence closes; infinite when all are."""
        return min((n.fence.due for n in self._nodes if not n.fence.closed), default=float("inf"))
