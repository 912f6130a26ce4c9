"""A client of the API in memory: the methods of `ApiClient`, on a network that can be slow, cut off or lose answers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.registry import rules_of
from rayplane.control_plane.api.machinery.field_selectors import parse_fields
from rayplane.control_plane.api.machinery.selectors import parse_labels
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ObjectList, WatchEvent
from rayplane.proto.rayplane.v1 import aggregation_pb2
from rayplane.proto.rayplane.v1 import objects_pb2 as pb
from tests.fakes.store import Change, Store, copied, info_of

# The class below has a method `list`, which hides the type inside it.
_Answers = list[Object | ApiError]
_Events = list[WatchEvent]
_PATCHES = {pb.MERGE: "merge", pb.JSON: "json", pb.STRATEGIC: "strategic"}
_GONE: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
_SHOWN_WHEN_GONE = frozenset({"pods", "services", "persistentvolumes", "persistentvolumeclaims", "serviceaccounts"})
_WRITES = frozenset({"apply", "create", "update", "update_status", "patch", "delete", "batch"})


class FakeClient:
    """One client of a `Store`, and a hand on what fails.

    `down`: calls fail at once, and open watches end. `parted`: calls take `timeout_s`, then fail; a write may have been
    done before. `lose_answers`: writes are done, and their callers never hear of it. Watches are `lag_s` behind.
    """

    def __init__(
        self, store: Store | None = None, *, delay_s: float = 0.0, timeout_s: float = 10.0, lag_s: float = 0.0
    ) -> None:
        self.store = store or Store()
        self.delay_s, self.timeout_s, self.lag_s = delay_s, timeout_s, lag_s
        self.parted = self.lose_answers = False
        self.before_batch: Callable[[Sequence[pb.Operation]], Any] | None = None
        self.after_batch: Callable[[Sequence[pb.Operation]], Any] | None = None
        """Are told a batch; may raise, or wait."""
        self.refuse: Callable[[str, str], ApiError | None] | None = None
        """The error of a write, if it shall have one: by verb and resource[/subresource]."""
        self.calls: list[str] = []
        self.operations: list[tuple[str, str, str]] = []
        """Writes that were done: verb, resource[/subresource], key."""
        self.actors: list[tuple[str, str]] = []
        """Calls that write and were made as somebody else: the user, and the method."""
        self.watched: dict[str, int] = {}
        """Open watches, by resource."""
        self.silent: set[str] = set()
        """Resources of which watches tell nothing, and of which they lose all that happens."""
        self._down = False
        self._breaks = 0
        self._horizon: int | None = None
        self._wakes: set[asyncio.Event] = set()
        self.store.listeners.append(lambda *_: self._wake())

    # --- for tests ------------------------------------------------------------------------------

    @property
    def objects(self) -> dict[str, dict[str, Object]]:
        return self.store.objects

    @property
    def version(self) -> int:
        return self.store.version

    @property
    def down(self) -> bool:
        return self._down

    @down.setter
    def down(self, down: bool) -> None:
        self._down = down
        self._wake()

    def put(self, resource: str, obj: Object) -> Object:
        """Create or replace, as another component would."""
        return self.store.put(resource, obj)

    def remove(self, resource: str, key: str) -> None:
        self.store.remove(resource, key)

    def pod(self, name: str) -> Object:
        return self.objects["pods"][f"default/{name}"]

    def events(self, reason: str) -> _Texts:
        """The texts of the events with a reason."""
        return [e["message"] for e in self.objects.get("events", {}).values() if e["reason"] == reason]

    def break_watches(self) -> None:
        """All open ones end with an error; new ones can be opened."""
        self._breaks += 1
        self._wake()

    def hold_events(self) -> None:
        """Watches fall behind until `release_events`."""
        self._horizon = self.version

    def release_events(self, count: int | None = None) -> None:
        """Let watches see so many changes more; all of them end the hold."""
        assert self._horizon is not None
        self._horizon = None if count is None else self._horizon + count
        self._wake()

    async def until(self, condition: Callable[..., Any], *, steps: int = 20_000) -> None:
        """Let the loop run until `condition()` holds; in real time at most about 20 seconds."""
        for _ in range(steps):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("the condition never held")

    # --- ApiClient ------------------------------------------------------------------------------

    def fenced(self, may_write: Callable[[], bool], claim: Callable[[], str] | None = None) -> _Fenced:
        return _Fenced(self, may_write)

    def acting(self, user: str) -> _Acting:
        return _Acting(self, self.actors, user)

    def bearing(self, token: str) -> _Acting:
        return _Acting(self, self.actors, token)

    async def get(self, resource: str, name: str, namespace: str = "", *, subresource: str = "") -> Object:
        return await self._call("get", lambda: copied(self.store.require(resource, namespace, name)))

    async def list(
        self, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = "", **_: Any
    ) -> ObjectList:
        matches = _selection(resource, namespace, label_selector, field_selector)

        def work() -> ObjectList:
            items = [copied(o) for o in self.store.list(resource) if matches(o)]
            return ObjectList(items, str(self.version))

        return await self._call("list", work)

    async def create(self, resource: str, obj: Object, *, subresource: str = "") -> Object:
        return await self._call("create", lambda: self._create(resource, obj, subresource))

    async def update(self, resource: str, obj: Object, *, subresource: str = "") -> Object:
        return await self._call("update", lambda: self._update(resource, obj, subresource))

    async def update_status(self, resource: str, obj: Object) -> Object:
        return await self.update(resource, obj, subresource="status")

    async def patch(
        self,
        resource: str,
        name: str,
        namespace: str,
        body: Any,
        *,
        kind: str = "merge",
        subresource: str = "",
        **_: Any,
    ) -> Object:
        return await self._call("patch", lambda: self._patch(resource, name, namespace, body, kind, subresource))

    async def apply(self, resource: str, obj: Object, **_: Any) -> Object:
        """Nobody's fields are asked about: what is there is merged."""
        if self.store.get(resource, meta.namespace(obj), meta.name(obj)) is None:
            return await self.create(resource, obj)
        return await self.patch(resource, meta.name(obj), meta.namespace(obj), obj)

    async def delete(
        self,
        resource: str,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        grace_period_s: int | None = None,
        propagation: str = "",
    ) -> Object:
        options = {"uid": uid, "version": resource_version, "grace_s": grace_period_s, "propagation": propagation}
        return await self._call("delete", lambda: self._delete(resource, name, namespace, options))

    async def batch(
        self, operations: Sequence[pb.Operation], *, timeout: float = 10.0, quiet: bool = False
    ) -> _Answers:
        async def told(hook: Callable[[Sequence[pb.Operation]], Any] | None) -> None:
            answer = hook(operations) if hook is not None else None
            if inspect.isawaitable(answer):
                await answer

        await told(self.before_batch)
        answers = await self._call(f"batch {len(operations)}", lambda: [self._answer(one) for one in operations])
        await told(self.after_batch)
        return [a if isinstance(a, ApiError) else {} for a in answers] if quiet else answers

    async def purge_aggregated(self, namespace: str) -> aggregation_pb2.PurgeResponse:
        return await self._call("purge_aggregated", aggregation_pb2.PurgeResponse)

    async def collect_aggregated(self) -> aggregation_pb2.CollectResponse:
        return await self._call("collect_aggregated", aggregation_pb2.CollectResponse)

    async def read_aggregated(self, *_: Any, **__: Any) -> Any:
        return await self._call("read_aggregated", lambda: None)

    async def watch(
        self,
        resource: str,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        **_: Any,
    ) -> AsyncIterator[_Events]:
        await self._travel()
        matches = _selection(resource, namespace, label_selector, field_selector)
        at, opened, wake = int(resource_version or self.version), self._breaks, asyncio.Event()
        self._wakes.add(wake)
        self.watched[resource] = self.watched.get(resource, 0) + 1
        try:
            while True:
                wake.clear()
                self._check_watch(at, opened)
                end = self.version if self._horizon is None else self._horizon
                changes = [c for c in self.store.history[at:end] if c.resource == resource]
                at = max(at, end)
                if resource in self.silent:
                    changes = []
                if events := [e for c in changes if (e := _event(c, matches)) is not None]:
                    await asyncio.sleep(self.lag_s)
                    yield events
                else:
                    await wake.wait()
        finally:
            self._wakes.discard(wake)
            self.watched[resource] -= 1

    # --- inside ---------------------------------------------------------------------------------

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()

    def _check_watch(self, at: int, opened: int) -> None:
        if self._down or opened != self._breaks:
            raise errors.ServiceUnavailable("the connection was lost")
        if at < self.store.floor:
            raise errors.Expired("too old resource version")

    async def _travel(self) -> None:
        await asyncio.sleep(self.timeout_s if self.parted else self.delay_s)
        if self.parted or self._down:
            raise errors.ServiceUnavailable("no API server answered")

    async def _call(self, name: str, work: Callable[[], Any]) -> Any:
        self.calls.append(name)
        await self._travel()
        answer = work()
        if self.lose_answers:
            await asyncio.sleep(self.timeout_s)
            raise errors.ServiceUnavailable("the connection was lost")
        if self.parted or self.delay_s:
            await self._travel()
        return answer

    def _begin(self, verb: str, resource: str, subresource: str = "") -> None:
        error = self.refuse(verb, f"{resource}/{subresource}".rstrip("/")) if self.refuse is not None else None
        if error is not None:
            raise error

    def _done(self, verb: str, resource: str, subresource: str, obj: Object) -> Object:
        self.operations.append((verb, f"{resource}/{subresource}".rstrip("/"), meta.key(obj)))
        return copied(obj)

    def _create(self, resource: str, obj: Object, subresource: str) -> Object:
        self._begin("create", resource, subresource)
        if subresource == "token":
            return {"status": {"token": "token-of-" + meta.name(obj)}}
        made = self.store.bind(obj) if subresource == "binding" else self.store.create(resource, obj)
        return self._done("create", resource, subresource, made)

    def _update(self, resource: str, obj: Object, subresource: str) -> Object:
        self._begin("update", resource, subresource)
        made = self.store.update(resource, obj, subresource=subresource)
        return self._done("update", resource, subresource, made)

    def _patch(self, resource: str, name: str, namespace: str, body: Any, kind: Any, subresource: str) -> Object:
        self._begin("patch", resource, subresource)
        made = self.store.patch(resource, name, namespace, body, kind=kind, subresource=subresource)
        return self._done("patch", resource, subresource, made)

    def _delete(self, resource: str, name: str, namespace: str, options: dict[str, Any]) -> Object:
        self._begin("delete", resource)
        left = self._done("delete", resource, "", self.store.delete(resource, name, namespace, **options))
        gone = self.store.get(resource, namespace, name) is None
        return dict(_GONE) if gone and resource not in _SHOWN_WHEN_GONE else left

    def _answer(self, operation: pb.Operation) -> Object | ApiError:
        try:
            return self._one(operation)
        except ApiError as e:
            return e

    def _one(self, operation: pb.Operation) -> Object:
        verb = operation.WhichOneof("op") or ""
        request = getattr(operation, verb)
        ref = request.ref
        resource = f"{ref.resource}.{ref.group}" if ref.group else ref.resource
        if verb == "get":
            return copied(self.store.require(resource, ref.namespace, ref.name))
        if verb == "create":
            return self._create(resource, orjson.loads(request.json), ref.subresource)
        if verb == "update":
            return self._update(resource, orjson.loads(request.json), ref.subresource)
        if verb == "patch":
            body, kind = orjson.loads(request.patch), _PATCHES[request.type]
            return self._patch(resource, ref.name, ref.namespace, body, kind, ref.subresource)
        grace = request.grace_period_seconds if request.HasField("grace_period_seconds") else None
        options = {"uid": request.uid, "version": request.resource_version, "grace_s": grace}
        options["propagation"] = request.propagation_policy
        return self._delete(resource, ref.name, ref.namespace, options)


_Texts = list[str]


class _Acting:
    """The same client, which notes as whom it writes."""

    def __init__(self, client: Any, actors: list[tuple[str, str]], user: str) -> None:
        self._client, self._actors, self._user = client, actors, user

    def __getattr__(self, name: str) -> Any:
        if name in _WRITES:
            self._actors.append((self._user, name))
        return getattr(self._client, name)


class _Fenced:
    """The same client, whose writes are refused, unsent, while `may_write` says no."""

    def __init__(self, client: FakeClient, may_write: Callable[[], bool]) -> None:
        self._client, self._may_write = client, may_write

    def acting(self, user: str) -> _Acting:
        return _Acting(self, self._client.actors, user)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        if name not in _WRITES:
            return call

        async def write(*args: Any, **options: Any) -> Any:
            if not self._may_write():
                raise errors.ServiceUnavailable("this replica does not lead any more; nothing was done")
            return await call(*args, **options)

        return write


def _selection(resource: str, namespace: str, labels: str, fields: str) -> Callable[[Object], bool]:
    info = info_of(resource)
    of_labels = parse_labels(labels)
    of_fields = parse_fields(fields, rules_of(info.group, info.kind).fields) if info is not None else None

    def matches(obj: Object) -> bool:
        if namespace not in ("", meta.namespace(obj)) or not of_labels.matches(meta.labels(obj)):
            return False
        return of_fields is None or of_fields.matches(obj)

    return matches


def _event(change: Change, matches: Callable[[Object], bool]) -> WatchEvent | None:
    """What a watch with a selector shows: an object that leaves the selection is deleted from it."""
    was = change.old is not None and matches(change.old)
    if change.kind != "DELETED" and matches(change.obj):
        return WatchEvent("MODIFIED" if was else "ADDED", copied(change.obj))
    return WatchEvent("DELETED", copied(change.obj)) if was else None
