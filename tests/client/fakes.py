"""An API of one process: objects with versions, conflicts, watches that can be broken, clients that can be cut off."""

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Conflict, Gone, NotFound, ServiceUnavailable
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ObjectList, WatchEvent

# The class below has a method `list`, which hides the type inside it.
_Answers = list[Object | ApiError]


class Store:
    """What all clients share."""

    def __init__(self) -> None:
        self.version = 0
        self.objects: dict[tuple[str, str], Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []
        self.floor = 0
        self.changed = asyncio.Condition()
        self.break_watches = 0

    async def put(self, resource: str, obj: Object, kind: str = "MODIFIED") -> Object:
        self.version += 1
        stored = copy.deepcopy(obj)
        stored["metadata"]["resourceVersion"] = str(self.version)
        key = (resource, meta.key(stored))
        if kind == "DELETED":
            self.objects.pop(key, None)
        else:
            kind = "MODIFIED" if key in self.objects else "ADDED"
            self.objects[key] = stored
        self.history.append((self.version, resource, kind, stored))
        async with self.changed:
            self.changed.notify_all()
        return copy.deepcopy(stored)

    async def forget_history(self) -> None:
        """Compact: watches from before now are told 410; those that are open end."""
        self.floor = self.version
        await self.drop_watches()

    async def drop_watches(self) -> None:
        self.break_watches += 1
        async with self.changed:
            self.changed.notify_all()


class FakeClient:
    """One client's view. `parted`: calls hang, then fail; a write may have been done before."""

    def __init__(self, store: Store, *, delay_s: float = 0.0, timeout_s: float = 10.0) -> None:
        self.store = store
        self.delay_s = delay_s
        self.timeout_s = timeout_s
        self.parted = False
        self.lose_answers = False
        self.lists = 0
        self.calls: list[str] = []

    async def _travel(self) -> None:
        if self.parted:
            await asyncio.sleep(self.timeout_s)
            raise ServiceUnavailable("no API server answered")
        if self.delay_s:
            await asyncio.sleep(self.delay_s)

    async def _answer(self, obj: Object) -> Object:
        if self.lose_answers:
            await asyncio.sleep(self.timeout_s)
            raise ServiceUnavailable("the connection was lost")
        await self._travel()
        return copy.deepcopy(obj)

    async def get(self, resource: str, name: str, namespace: str = "") -> Object:
        self.calls.append("get")
        await self._travel()
        found = self.store.objects.get((resource, f"{namespace}/{name}" if namespace else name))
        if found is None:
            raise NotFound(f"{name} not found")
        return await self._answer(found)

    async def create(self, resource: str, obj: Object) -> Object:
        self.calls.append("create")
        await self._travel()
        if (resource, meta.key(obj)) in self.store.objects:
            raise AlreadyExists(f"{meta.key(obj)} exists")
        return await self._answer(await self.store.put(resource, obj))

    async def update(self, resource: str, obj: Object) -> Object:
        self.calls.append("update")
        await self._travel()
        found = self.store.objects.get((resource, meta.key(obj)))
        if found is None:
            raise NotFound(f"{meta.key(obj)} not found")
        if meta.resource_version(obj) != meta.resource_version(found):
            raise Conflict(f"{meta.key(obj)} was changed")
        return await self._answer(await self.store.put(resource, obj))

    async def list(self, resource: str, namespace: str = "", **selectors: str) -> ObjectList:
        await self._travel()
        self.lists += 1
        items = [copy.deepcopy(o) for (r, _), o in self.store.objects.items() if r == resource]
        return ObjectList(items, str(self.store.version))

    async def watch(
        self, resource: str, namespace: str = "", *, resource_version: str = "", **selectors: str
    ) -> AsyncIterator[Any]:
        await self._travel()
        store, at, opened = self.store, int(resource_version), self.store.break_watches
        while True:
            if at < store.floor:
                raise Gone("too old resource version")
            if opened != store.break_watches:
                raise ServiceUnavailable("the connection was lost")
            events = [e for e in store.history if e[0] > at and e[1] == resource]
            at = store.version
            if events:
                yield [WatchEvent(kind, copy.deepcopy(obj)) for _, _, kind, obj in events]
            async with store.changed:
                if at == store.version and opened == store.break_watches:
                    await store.changed.wait()

    async def batch(self, operations: Sequence[Any]) -> "_Answers":
        self.calls.append(f"batch {len(operations)}")
        await self._travel()
        answers: _Answers = []
        for operation in operations:
            body = getattr(operation, operation.WhichOneof(operation.DESCRIPTOR.oneofs[0].name))
            if hasattr(body, "patch"):
                key = (body.ref.resource, f"{body.ref.namespace}/{body.ref.name}")
                found = self.store.objects.get(key)
                if found is None:
                    answers.append(NotFound(f"{key[1]} not found"))
                    continue
                answers.append(await self.store.put(body.ref.resource, found | orjson.loads(body.patch)))
            else:
                answers.append(await self.store.put(body.ref.resource, orjson.loads(body.json)))
        return answers
