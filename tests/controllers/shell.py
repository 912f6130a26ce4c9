"""A client over the in-memory store whose answers and watches take time, to run the real shell against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ObjectList, WatchEvent
from rayplane.control_plane.controllers.core import Patch
from rayplane.proto.rayplane.v1 import objects_pb2 as pb
from tests.controllers.cluster import Store


def _name(ref: pb.ResourceRef) -> str:
    return f"{ref.resource}.{ref.group}" if ref.group else ref.resource


class SlowClient:
    """What the shell uses of `ApiClient`. Watches are `watch_delay` seconds behind; `calls` counts batches."""

    def __init__(self, store: Store, *, watch_delay: float = 0.0) -> None:
        self.store = store
        self.watch_delay = watch_delay
        self.calls = 0
        self.fail_next: list[ApiError] = []
        self._queues: dict[str, list[asyncio.Queue[tuple[float, WatchEvent]]]] = {}
        store.listeners.append(self._publish)

    def _publish(self, resource: str, kind: str, _old: Object | None, obj: Object) -> None:
        when = asyncio.get_running_loop().time() + self.watch_delay
        for queue in self._queues.get(resource, ()):
            queue.put_nowait((when, WatchEvent(kind, obj)))

    async def list(self, resource: str, namespace: str = "", **_: Any) -> ObjectList:
        items = [o for o in self.store.list(resource) if namespace in ("", meta.namespace(o))]
        return ObjectList(items, str(self.store.version))

    async def watch(
        self, resource: str, namespace: str = "", *, resource_version: str = "", **_: Any
    ) -> AsyncIterator[list[WatchEvent]]:
        assert resource_version == str(self.store.version)
        queue: asyncio.Queue[tuple[float, WatchEvent]] = asyncio.Queue()
        self._queues.setdefault(resource, []).append(queue)
        loop = asyncio.get_running_loop()
        while True:
            when, event = await queue.get()
            await asyncio.sleep(max(0.0, when - loop.time()))
            events = [event]
            while not queue.empty() and queue._queue[0][0] <= loop.time():  # type: ignore[attr-defined]
                events.append(queue.get_nowait()[1])
            yield events

    async def get(self, resource: str, name: str, namespace: str = "", **_: Any) -> Object:
        found = self.store.get(resource, namespace, name)
        if found is None:
            raise errors.NotFound.of(resource, name)
        return found

    async def update(self, resource: str, obj: Object, *, subresource: str = "") -> Object:
        if subresource == "finalize":
            self.store.remove(resource, obj)
            return obj
        return self.store.update(resource, obj, status=subresource == "status")

    async def batch(self, operations: Sequence[pb.Operation], *, timeout: float = 10.0) -> list[Object | ApiError]:
        self.calls += 1
        await asyncio.sleep(0)
        if self.fail_next:
            raise self.fail_next.pop(0)
        answers: list[Object | ApiError] = []
        for operation in operations:
            try:
                answers.append(self._one(operation))
            except ApiError as e:
                answers.append(e)
        return answers

    def _one(self, operation: pb.Operation) -> Object:
        kind = operation.WhichOneof("op")
        request = getattr(operation, kind or "")
        resource, ref = _name(request.ref), request.ref
        if kind == "create":
            return self.store.create(resource, orjson.loads(request.json))
        if kind == "update":
            status = ref.subresource == "status"
            return self.store.update(resource, orjson.loads(request.json), status=status)
        if kind == "patch":
            body = orjson.loads(request.patch)
            sub = ref.subresource
            return self.store.patch(resource, Patch(resource, ref.namespace, ref.name, body, subresource=sub))
        stub = {"metadata": {"namespace": ref.namespace, "name": ref.name, "uid": request.uid}}
        grace = request.grace_period_seconds if request.HasField("grace_period_seconds") else None
        self.store.delete(resource, stub, grace=grace, propagation=request.propagation_policy)
        return {"kind": "Status", "status": "Success"}
