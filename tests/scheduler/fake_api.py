"""An API in memory with the calls the scheduler makes, and a hand on what fails."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Conflict, NotFound
from rayplane.control_plane.client.api import ObjectList, WatchEvent
from rayplane.proto.rayplane.v1 import objects_pb2 as pb


class FakeApi:
    """Stands in for ApiClient. `before_batch(operations)` may raise an ApiError for the whole call, or wait."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.version = 0
        self.before_batch: Callable[[Sequence[pb.Operation]], Any] | None = None
        self.after_batch: Callable[[Sequence[pb.Operation]], Any] | None = None
        self.batches: list[list[str]] = []
        self._held: list[tuple[asyncio.Queue[WatchEvent], WatchEvent]] | None = None  # type: ignore[valid-type]
        self._watches: dict[str, list[asyncio.Queue[WatchEvent]]] = {}

    def fenced(self, may_write: Callable[[], bool]) -> FakeApi:
        return self

    # -- for tests

    def put(self, resource: str, obj: dict[str, Any]) -> dict[str, Any]:
        """Create or replace."""
        held = self.objects.setdefault(resource, {})
        key = meta.key(obj)
        kind = "MODIFIED" if key in held else "ADDED"
        self.version += 1
        obj = copy.deepcopy(obj)
        obj["metadata"]["resourceVersion"] = str(self.version)
        held[key] = obj
        self._tell(resource, kind, obj)
        return obj

    def drop(self, resource: str, key: str) -> None:
        obj = self.objects[resource].pop(key)
        self.version += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self._tell(resource, "DELETED", obj)

    def node_of(self, name: str) -> str:
        return self.objects["pods"][f"default/{name}"]["spec"].get("nodeName", "")

    def events(self, reason: str) -> list[str]:
        return [e["message"] for e in self.objects.get("events", {}).values() if e["reason"] == reason]

    def _tell(self, resource: str, kind: str, obj: dict[str, Any]) -> None:
        for queue in self._watches.get(resource, ()):
            event = WatchEvent(kind, copy.deepcopy(obj))
            if self._held is None:
                queue.put_nowait(event)
            else:
                self._held.append((queue, event))

    def hold_events(self) -> None:
        """Watches fall behind until `release_events`."""
        self._held = []

    def release_events(self, count: int | None = None) -> None:
        """Deliver the oldest events; all of them end the hold."""
        held = self._held or []
        for queue, event in held[:count]:
            queue.put_nowait(event)
        self._held = None if count is None else held[count:]

    # -- ApiClient

    async def get(self, resource: str, name: str, namespace: str = "", **_: Any) -> dict[str, Any]:
        found = self.objects.get(resource, {}).get(f"{namespace}/{name}" if namespace else name)
        if found is None:
            raise NotFound(f"{resource} {name} not found")
        return copy.deepcopy(found)

    async def list(self, resource: str, namespace: str = "", **_: Any) -> ObjectList:
        return ObjectList([copy.deepcopy(o) for o in self.objects.get(resource, {}).values()], str(self.version))

    async def watch(
        self, resource: str, namespace: str = "", *, resource_version: str = "", **_: Any
    ) -> AsyncIterator[Sequence[WatchEvent]]:
        assert int(resource_version) == self.version or resource_version, "the fake has no history"
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        self._watches.setdefault(resource, []).append(queue)
        try:
            while True:
                yield [await queue.get()]
        finally:
            self._watches[resource].remove(queue)

    async def create(self, resource: str, obj: dict[str, Any], **_: Any) -> dict[str, Any]:
        if meta.key(obj) in self.objects.get(resource, {}):
            raise AlreadyExists("exists")
        return self.put(resource, obj)

    async def update(self, resource: str, obj: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self.put(resource, obj)

    async def batch(self, operations: Sequence[pb.Operation], **_: Any) -> Sequence[dict[str, Any] | ApiError]:
        await asyncio.sleep(0)
        if self.before_batch is not None:
            answer = self.before_batch(operations)
            if asyncio.iscoroutine(answer):
                await answer
        self.batches.append([self._label(o) for o in operations])
        answers = [self._one(operation) for operation in operations]
        if self.after_batch is not None:
            answer = self.after_batch(operations)
            if asyncio.iscoroutine(answer):
                await answer
        return answers

    @staticmethod
    def _label(operation: pb.Operation) -> str:
        kind = operation.WhichOneof("op") or ""
        ref = getattr(operation, kind).ref
        return f"{kind} {ref.resource}/{ref.subresource}" if ref.subresource else f"{kind} {ref.resource}"

    def _one(self, operation: pb.Operation) -> dict[str, Any] | ApiError:
        kind = operation.WhichOneof("op") or ""
        request = getattr(operation, kind)
        ref = request.ref
        key = f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name
        try:
            if kind == "create" and ref.subresource == "binding":
                return self._bind(key, orjson.loads(request.json))
            if kind == "create":
                return self.put(ref.resource, orjson.loads(request.json))
            held = self.objects.get(ref.resource, {})
            if key not in held:
                raise NotFound(f"{key} not found")
            if kind == "delete":
                self.drop(ref.resource, key)
                return {}
            return self._patch(ref.resource, key, orjson.loads(request.patch))
        except ApiError as error:
            return error

    def _bind(self, key: str, binding: dict[str, Any]) -> dict[str, Any]:
        held = self.objects.get("pods", {}).get(key)
        if held is None:
            raise NotFound(f"pod {key} not found")
        pod = copy.deepcopy(held)
        if pod["spec"].get("nodeName") or binding["metadata"]["uid"] != pod["metadata"]["uid"]:
            raise Conflict("already assigned")
        pod["spec"]["nodeName"] = binding["target"]["name"]
        return self.put("pods", pod)

    def _patch(self, resource: str, key: str, patch: dict[str, Any]) -> dict[str, Any]:
        obj = copy.deepcopy(self.objects[resource][key])
        wanted = patch.get("metadata", {}).pop("resourceVersion", "")
        if wanted and wanted != obj["metadata"]["resourceVersion"]:
            raise Conflict("modified")
        conditions = patch.get("status", {}).pop("conditions", [])
        _merge(obj, patch)
        for condition in conditions:
            meta.set_condition(
                obj.setdefault("status", {}).setdefault("conditions", []), condition, "2026-01-01T00:00:00Z"
            )
        return self.put(resource, obj)


def _merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value
