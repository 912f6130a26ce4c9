"""Status of Ingress objects: the address at which each answers."""

import asyncio
import logging

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.ingresses import INGRESSES, is_served
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer, WorkQueue
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

JITTER_S = 0.2


class IngressStatus:
    """A writer that writes `status.loadBalancer` of Ingress objects.

    Every host would write the same, so none need lead.
    """

    def __init__(self, client: ApiClient, env: Env, addresses: list[str]) -> None:
        self._client = client
        self._env = env
        self._addresses = addresses
        self._ingresses = Informer(client, INGRESSES)
        self._queue = WorkQueue()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._ingresses.add_handler(self._changed)
        self._ingresses.start()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="ingress status")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        self._queue.close()
        await self._ingresses.stop()

    def _changed(self, kind: str, _old: Object | None, ingress: Object) -> None:
        if kind != "DELETED" and self._is_wanting(ingress):
            # Whoever comes later finds it done by another host.
            self._queue.add_after(meta.key(ingress), self._env.rng.random() * JITTER_S)

    def _is_wanting(self, ingress: Object) -> bool:
        balancer = meta.status(ingress).get("loadBalancer") or {}
        present = [i.get("ip") for i in balancer.get("ingress") or ()]
        return is_served(ingress) and present != self._addresses

    async def _run(self) -> None:
        while True:
            key = await self._queue.get()
            ingress = self._ingresses.get_key(key)
            if ingress is not None and self._is_wanting(ingress):
                await self._write(key)
            self._queue.done(key)

    async def _write(self, key: str) -> None:
        namespace, name = meta.split_key(key)
        body = {"status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in self._addresses]}}}
        try:
            await self._client.patch(INGRESSES, name, namespace, body, subresource="status")
        except ApiError as e:
            log.info("status of ingress %s is not written: %s", key, e.message)
            if e.retryable:
                self._queue.add_rate_limited(key)
        else:
            self._queue.forget(key)
