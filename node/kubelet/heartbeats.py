"""Tells the cluster that the nodes of a host live, and tells the nodes when the cluster does not hear them.

One task renews all Leases of the host in one batch, another writes node statuses (on change, and now and then). A
node whose Lease could not be renewed for `fence_after_s` is suspended, and resumed after the next renewal.
"""

import asyncio
import logging
from typing import Any

from rayplane.control_plane.api.authorization.node_identity import NODE_LEASES
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, ops
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.config import NodeTiming
from rayplane.node.kubelet import registration
from rayplane.node.kubelet.kubelet import Kubelet
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

LEASES = "leases.coordination.k8s.io"
CALL_TIMEOUT_MIN_S, CALL_TIMEOUT_MAX_S = 0.05, 2.0


class Heartbeats:
    """`kubelets` must be registered. `mark_status` asks for a status write soon."""

    def __init__(self, client: ApiClient, env: Env, timing: NodeTiming, kubelets: list[Kubelet]) -> None:
        self._client = client
        self._env = env
        self._timing = timing
        self._kubelets = kubelets
        self._tasks: list[asyncio.Task[None]] = []
        self._resuming: dict[Kubelet, asyncio.Task[None]] = {}
        self._marked: dict[Kubelet, None] = {}
        self._wake = asyncio.Event()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        for kubelet in self._kubelets:
            kubelet.heard_at = loop.time()
        self._tasks = [
            loop.create_task(self._renew_for_ever(), name="node leases"),
            loop.create_task(self._write_statuses(), name="node statuses"),
        ]

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._resuming.values()]
        await cancel_and_wait(*tasks)

    def mark_status(self, kubelet: Kubelet) -> None:
        self._marked[kubelet] = None
        self._wake.set()

    # --- leases -----------------------------------------------------------------------------------

    async def _renew_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        every = self._timing.lease_renew_s
        due = loop.time()
        while True:
            began = loop.time()
            try:
                for kubelet in await self._renew():
                    self._heard(kubelet, began)
            except Exception:
                # The nodes of this host live by this task alone.
                log.exception("leases were not renewed")
            for kubelet in self._kubelets:
                kubelet.fence_if_late()
            due = max(due + every, loop.time())
            await asyncio.sleep(min(due, self._deadline()) - loop.time())

    async def _renew(self) -> list[Kubelet]:
        """The nodes whose Lease is renewed."""
        stamp = self._env.timestamp_micro()
        body = {"spec": {"renewTime": stamp}}
        space = NODE_LEASES
        answers = await self._write(self._kubelets, [ops.patch(LEASES, k.name, space, body) for k in self._kubelets])
        absent = [k for k, answer in answers if isinstance(answer, NotFound)]
        if absent:
            made = await self._write(absent, [ops.create(LEASES, self._lease(k, stamp)) for k in absent])
            answers = [(k, a) for k, a in answers if k not in absent] + made
        for kubelet, answer in answers:
            if isinstance(answer, ApiError):
                log.info("lease of %s was not renewed: %s", kubelet.name, answer.message)
        return [k for k, answer in answers if not isinstance(answer, ApiError)]

    async def _write(self, kubelets: list[Kubelet], batch: list[Any]) -> list[tuple[Kubelet, Object | ApiError]]:
        """Each node's answer; none when the call failed."""
        # A call that hangs must not keep the host from fencing itself in time.
        left = self._deadline() - asyncio.get_running_loop().time()
        timeout = max(CALL_TIMEOUT_MIN_S, min(left, CALL_TIMEOUT_MAX_S))
        try:
            return list(zip(kubelets, await self._client.batch(batch, timeout=timeout), strict=True))
        except ApiError as e:
            log.info("leases were not renewed: %s", e.message)
            return []

    def _lease(self, kubelet: Kubelet, stamp: str) -> Object:
        assert kubelet.node is not None
        return registration.lease_object(kubelet.node, duration_s=self._timing.lease_duration_s, renewed=stamp)

    def _heard(self, kubelet: Kubelet, at: float) -> None:
        kubelet.heard_at = at
        # From the sending on, as the node itself counts: the answer may have taken its time.
        left = at + self._timing.fence_after_s - asyncio.get_running_loop().time()
        kubelet.runtime.keep_alive(max(0.0, left))
        # In a task of its own: while one node asks for its pods, the others must be renewed and fenced in time.
        if kubelet.suspended and kubelet not in self._resuming:
            task = asyncio.get_running_loop().create_task(self._resume(kubelet), name=f"resume {kubelet.name}")
            self._resuming[kubelet] = task

    async def _resume(self, kubelet: Kubelet) -> None:
        try:
            await kubelet.resume()
        except ApiError as e:
            log.info("node %s stays suspended: %s", kubelet.name, e.message)
        finally:
            del self._resuming[kubelet]

    def _deadline(self) -> float:
        """When the first node must be suspended; infinite when all are."""
        heard = [k.heard_at for k in self._kubelets if not k.suspended]
        return min(heard, default=float("inf")) + self._timing.fence_after_s

    # --- statuses ---------------------------------------------------------------------------------

    async def _write_statuses(self) -> None:
        loop = asyncio.get_running_loop()
        refresh = loop.time() + self._timing.status_every_s
        while True:
            try:
                async with asyncio.timeout_at(refresh):
                    await self._wake.wait()
            except TimeoutError:
                refresh = loop.time() + self._timing.status_every_s
                self._marked.update(dict.fromkeys(self._kubelets))
            self._wake.clear()
            try:
                await self._write_marked()
            except Exception:
                log.exception("node statuses are late")
                self._marked.update(dict.fromkeys(self._kubelets))
                await self._pause()

    async def _write_marked(self) -> None:
        marked, self._marked = [*self._marked], {}
        batch = []
        for kubelet in marked:
            assert kubelet.node is not None
            body = {"status": kubelet.node_status(kubelet.node)}
            batch.append(ops.patch("nodes", kubelet.name, "", body, subresource="status"))
        try:
            answers = await self._client.batch(batch)
        except ApiError as e:
            log.info("node statuses are late: %s", e.message)
            self._marked.update(dict.fromkeys(marked))
            await self._pause()
            return
        for kubelet, answer in zip(marked, answers, strict=True):
            if not isinstance(answer, ApiError):
                kubelet.node = answer
            else:
                log.warning("status of node %s was refused: %s", kubelet.name, answer.message)
                if answer.retryable:
                    self._marked[kubelet] = None
        if self._marked:
            await self._pause()

    async def _pause(self) -> None:
        """Wait before what is marked is tried again."""
        await asyncio.sleep(self._timing.lease_renew_s)
        self._wake.set()
