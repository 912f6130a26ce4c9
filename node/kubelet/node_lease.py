"""Leases of the nodes of a host: the cluster hears that they live, and they hear when it does not.

One task renews the Leases of the host in one batch. A node whose Lease could not be renewed in time stops its pods (its
fence closes), and runs them again after the next renewal.

The nodes of a host live and die together. A host of many renews the Lease of its first each time; the others' Nodes say
that it stands for theirs (`node_annotations.HEARTBEAT`), which are renewed in turns, and good for as much longer. When
the first's is refused, the others' are renewed as on a host of few.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
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

ANSWER_MAX_S = 30.0
WAIT_MIN_S, WAIT_S = 0.05, 2.0
"""For an answer, before another server is asked beside the one that is slow, or silent."""
ASKED_MAX = 4
"""Renewals that wait for their answers; more end the oldest."""
OTHERS = 5
"""Leases that are renewed beside the first."""
AT_FIRST = 100
"""The same until each was renewed once, as they may be old, or none, and while the first does not stand for them."""


def rounds(nodes: int) -> int:
    """How many renewals it takes until each of so many nodes had its turn."""
    return max(1, -(-(nodes - 1) // OTHERS))


def stand_in(nodes: Sequence[str]) -> str:
    """The node whose Lease stands for all of a host; empty where each has its own."""
    return nodes[0] if rounds(len(nodes)) > 1 else ""


class Turns:
    """The turns of a host's nodes at having their Lease renewed, by their numbers. Pure."""

    def __init__(self) -> None:
        self._taken = 0

    def take(self, nodes: int, *, stands: bool = True) -> list[int]:
        """Whose turn it is now, of so many; always that of the first. `stands`: it is heard for the others."""
        if not nodes:
            return []
        others = nodes - 1
        count = min(others, OTHERS if stands and self._taken >= others else AT_FIRST)
        taken, self._taken = self._taken, self._taken + count
        return [0, *(1 + (taken + n) % others for n in range(count))]


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
    """A task that renews the Leases of the nodes that are added, until it is stopped."""

    def __init__(self, client: ApiClient, env: Env, timing: NodeTiming) -> None:
        self._client = client
        self._env = env
        self._timing = timing
        self._nodes: list[LeasedNode] = []
        self._turns = Turns()
        self._first_refused = False
        """It alone was not renewed last time: the others have to live by their own Leases."""
        self._wanted = 0
        self._there = asyncio.Event()
        """Set when there is a node."""
        self._task: asyncio.Task[None] | None = None
        self._resuming: dict[str, asyncio.Task[None]] = {}

    def start(self, nodes: int) -> None:
        """`nodes`: how many there will be."""
        self._wanted = nodes
        self._task = asyncio.get_running_loop().create_task(self._renew_for_ever(), name="node leases")

    def add(self, nodes: Iterable[LeasedNode]) -> None:
        """These are registered now."""
        for node in nodes:
            node.fence.heard_at = asyncio.get_running_loop().time()
            self._nodes.append(node)
            self._there.set()

    async def stop(self) -> None:
        await cancel_and_wait(self._task, *self._resuming.values())

    async def _renew_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        every = self._timing.lease_renew_s
        await self._there.wait()
        due = loop.time()
        asked: dict[asyncio.Task[list[LeasedNode]], float] = {}
        try:
            while True:
                asked[loop.create_task(self._tried(), name="renewal of node leases")] = loop.time()
                await self._answered(asked)
                for node in self._nodes:
                    node.fence.check()
                due = max(due + every, loop.time())
                await asyncio.sleep(min(due, self._deadline()) - loop.time())
        finally:
            await cancel_and_wait(*asked)

    async def _answered(self, asked: dict[asyncio.Task[list[LeasedNode]], float]) -> None:
        """Wait for the answer to the last renewal, or to one before it: a slow cluster was heard by that, too.

        `asked`: when each was sent, the first one first.
        """
        loop = asyncio.get_running_loop()
        newest, heard_of = [*asked][-1], 0.0
        until = loop.time() + max(WAIT_MIN_S, min(self._deadline() - loop.time(), WAIT_S))
        while newest in asked and not heard_of:
            done, _ = await asyncio.wait(asked, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in [task for task in asked if task in done]:
                sent = asked.pop(task)
                for node in task.result():
                    self._heard(node, sent)
                    heard_of = sent
        # Who says nothing while another does is not waited for.
        silent = [task for task, sent in asked.items() if sent < heard_of]
        given_up = silent or [*asked][: max(0, len(asked) - ASKED_MAX + 1)]
        for task in given_up:
            del asked[task]
        await cancel_and_wait(*given_up)

    async def _tried(self) -> list[LeasedNode]:
        try:
            return await self._renew()
        except Exception:
            # The nodes of this host live by this alone.
            log.exception("leases were not renewed")
            return []

    async def _renew(self) -> list[LeasedNode]:
        """The nodes of which the cluster has heard by that."""
        stamp = self._env.timestamp_micro()
        turns = self._turns.take(len(self._nodes), stands=not self._first_refused)
        nodes = [self._nodes[number] for number in turns]
        answers = await self._write(nodes, [self._renewal(n, stamp) for n in nodes])
        absent = [n for n, answer in answers if isinstance(answer, NotFound)]
        if absent:
            made = await self._write(absent, [ops.create(LEASES, self._lease(n, stamp)) for n in absent])
            answers = [(n, a) for n, a in answers if n not in absent] + made
        for node, answer in answers:
            if isinstance(answer, ApiError):
                log.info("lease of %s was not renewed: %s", node.name, answer.message)
        heard = [n for n, answer in answers if not isinstance(answer, ApiError)]
        first_heard = any(n is self._nodes[0] for n in heard)
        self._first_refused = bool(heard) and not first_heard
        return self._nodes if first_heard and rounds(self._wanted) > 1 else heard

    def _renewal(self, node: LeasedNode, stamp: str) -> Any:
        # The cluster may have been made with another timing.
        body = {"spec": {"renewTime": stamp, "leaseDurationSeconds": self._duration_s(node)}}
        return ops.patch(LEASES, node.name, NODE_LEASES, body)

    def _duration_s(self, node: LeasedNode) -> int:
        return self._timing.lease_duration_s * (1 if node is self._nodes[0] else rounds(self._wanted))

    async def _write(self, nodes: list[LeasedNode], batch: list[Any]) -> list[tuple[LeasedNode, Object | ApiError]]:
        """Each node's answer; none when the call failed."""
        # Later than that its answer is no news.
        timeout = min(self._timing.fence_after_s, ANSWER_MAX_S)
        try:
            answers = await self._client.batch(batch, timeout=timeout, quiet=True)
            return list(zip(nodes, answers, strict=True))
        except ApiError as e:
            log.info("leases were not renewed: %s", e.message)
            return []

    def _lease(self, node: LeasedNode, stamp: str) -> Object:
        assert node.node is not None
        return registration.lease_object(node.node, duration_s=self._duration_s(node), renewed=stamp)

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
