"""An API server small enough to read: objects in a dict, merge patches, deletion with grace, watches.

It stands in for `ApiClient`, so that node tests need no other component. `down` makes every call fail as when no
server answers; `operations` remembers the writes.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.registry import rules_of
from rayplane.control_plane.api.machinery.field_selectors import parse_fields
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ObjectList, WatchEvent, ops
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

# The class below has a method `list`, which hides the type inside it.
_Answers = list[Object | ApiError]
_Events = list[WatchEvent]


class FakeApi:
    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Object]] = {}
        self.version = 0
        self.down = False
        self.operations: list[tuple[str, str, str]] = []  # (verb, resource[/subresource], key)
        self._watchers: list[tuple[str, Any, asyncio.Queue[WatchEvent]]] = []

    # --- the client's interface -------------------------------------------------------------------

    async def get(self, resource: str, name: str, namespace: str = "", *, subresource: str = "") -> Object:
        self._check()
        return copy.deepcopy(self._find(resource, namespace, name))

    async def list(self, resource: str, namespace: str = "", *, field_selector: str = "", **_: Any) -> ObjectList:
        self._check()
        items = [copy.deepcopy(o) for o in self.objects.get(resource, {}).values() if _selected(o, field_selector)]
        return ObjectList(items, str(self.version))

    async def create(self, resource: str, obj: Object, *, subresource: str = "") -> Object:
        self._check()
        if subresource == "token":
            return {"status": {"token": "token-of-" + meta.name(obj)}}
        key = meta.key(obj)
        if key in self.objects.get(resource, {}):
            raise errors.AlreadyExists.of(resource, meta.name(obj))
        self.operations.append(("create", resource, key))
        obj = copy.deepcopy(obj)
        obj["metadata"].setdefault("uid", f"uid-{self.version}")
        return self._store(resource, obj, "ADDED")

    async def patch(
        self, resource: str, name: str, namespace: str, body: Any, *, kind: str = "merge", subresource: str = ""
    ) -> Object:
        self._check()
        old = self._find(resource, namespace, name)
        uid = body.get("metadata", {}).get("uid", meta.uid(old))
        if uid != meta.uid(old):
            raise errors.Conflict.of(resource, name)
        self.operations.append(("patch", f"{resource}/{subresource}".rstrip("/"), meta.key(old)))
        return self._store(resource, _merge(copy.deepcopy(old), body), "MODIFIED")

    async def update(self, resource: str, obj: Object, *, subresource: str = "") -> Object:
        self._check()
        old = self._find(resource, meta.namespace(obj), meta.name(obj))
        if meta.resource_version(obj) not in ("", meta.resource_version(old)):
            raise errors.Conflict.of(resource, meta.name(obj))
        return self._store(resource, copy.deepcopy(obj), "MODIFIED")

    async def delete(
        self, resource: str, name: str, namespace: str = "", *, uid: str = "", grace_period_s: int | None = None
    ) -> Object:
        self._check()
        old = self._find(resource, namespace, name)
        if uid and uid != meta.uid(old):
            raise errors.Conflict.of(resource, name)
        self.operations.append(("delete", resource, meta.key(old)))
        grace = 30 if grace_period_s is None else grace_period_s
        new = copy.deepcopy(old)
        new["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        new["metadata"]["deletionGracePeriodSeconds"] = grace
        if (resource == "pods" and grace and old["spec"].get("nodeName")) or meta.finalizers(old):
            return self._store(resource, new, "MODIFIED")
        del self.objects[resource][meta.key(old)]
        return self._publish(resource, new, "DELETED")

    async def batch(self, operations: Sequence[pb.Operation], *, timeout: float = 10.0) -> _Answers:
        self._check()
        answers: _Answers = []
        for operation in operations:
            try:
                answers.append(await self._one(operation))
            except ApiError as e:
                answers.append(e)
        return answers

    async def watch(
        self, resource: str, namespace: str = "", *, field_selector: str = "", resource_version: str = "", **_: Any
    ) -> AsyncIterator[_Events]:
        self._check()
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        self._watchers.append((resource, field_selector, queue))
        for obj in self.objects.get(resource, {}).values():
            if int(meta.resource_version(obj)) > int(resource_version) and _selected(obj, field_selector):
                queue.put_nowait(WatchEvent("MODIFIED", copy.deepcopy(obj)))
        while True:
            event = await queue.get()
            self._check()
            yield [event]

    # --- for tests --------------------------------------------------------------------------------

    def put(self, resource: str, obj: Object) -> Object:
        """Create or replace, as another component would."""
        kind = "MODIFIED" if meta.key(obj) in self.objects.get(resource, {}) else "ADDED"
        return self._store(resource, copy.deepcopy(obj), kind)

    def remove(self, resource: str, key: str) -> None:
        self._publish(resource, self.objects[resource].pop(key), "DELETED")

    def pod(self, name: str) -> Object:
        return self.objects["pods"][f"default/{name}"]

    async def until(self, condition: Any, *, steps: int = 20_000) -> None:
        """Let the loop run until `condition()` holds; in real time at most about 20 seconds."""
        for _ in range(steps):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("the condition never held")

    # --- inside -----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.down:
            raise errors.ServiceUnavailable("no API server answered: down")

    def _find(self, resource: str, namespace: str, name: str) -> Object:
        obj = self.objects.get(resource, {}).get(f"{namespace}/{name}" if namespace else name)
        if obj is None:
            raise errors.NotFound.of(resource, name)
        return obj

    def _store(self, resource: str, obj: Object, kind: str) -> Object:
        self.objects.setdefault(resource, {})[meta.key(obj)] = obj
        return self._publish(resource, obj, kind)

    def _publish(self, resource: str, obj: Object, kind: str) -> Object:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        for watched, selector, queue in self._watchers:
            if watched == resource and _selected(obj, selector):
                queue.put_nowait(WatchEvent(kind, copy.deepcopy(obj)))
        return copy.deepcopy(obj)

    async def _one(self, operation: pb.Operation) -> Object:
        which = operation.WhichOneof("op")
        request = getattr(operation, which)
        ref = request.ref
        resource = f"{ref.resource}.{ref.group}" if ref.group else ref.resource
        if which == "create":
            return await self.create(resource, orjson.loads(request.json), subresource=ref.subresource)
        if which == "patch":
            body = orjson.loads(request.patch)
            return await self.patch(resource, ref.name, ref.namespace, body, subresource=ref.subresource)
        if which == "delete":
            return await self.delete(
                resource, ref.name, ref.namespace, uid=request.uid, grace_period_s=request.grace_period_seconds
            )
        raise AssertionError(which)


def _selected(obj: Object, selector: str) -> bool:
    fields = parse_fields(selector, rules_of("", "Pod" if "spec.nodeName" in selector else "").fields)
    return fields.matches(obj)


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = _merge(target.get(key), value)
    return target


__all__ = ["FakeApi", "ops"]
