"""The API in memory answers a program of requests as the real registry over its watch cache and an etcd does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, WatchEvent, ops
from rayplane.control_plane.tasks import cancel_and_wait
from tests.apiserver.conftest import Stack
from tests.fakes import FakeClient

NAMES = ("a", "b", "c")
STEPS = 60
FINALIZER = "example.org/wait"


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    made = Stack()
    await made.add_server()
    await made.client().create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    yield made
    await made.stop()


def new(resource: str, name: str, rng: random.Random) -> Object:
    own = {"name": name, "namespace": "default", "labels": {"app": rng.choice("xy")}}
    if rng.random() < 0.3:
        own["finalizers"] = [FINALIZER]
    if resource == "configmaps":
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": own, "data": {"k": rng.choice("123")}}
    if resource == "replicasets.apps":
        template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        spec = {"replicas": rng.randrange(3), "selector": {"matchLabels": {"app": "x"}}, "template": template}
        return {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": own, "spec": spec}
    spec = {"containers": [{"name": "c", "image": "i"}], **({"nodeName": "n"} if rng.random() < 0.5 else {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": own, "spec": spec, "status": {"phase": "Running"}}


class Caller:
    """One side of the comparison: runs requests by what it was answered before, and keeps what can be compared."""

    def __init__(self, client: Any) -> None:
        self.client = cast(ApiClient, client)
        self.seen: dict[tuple[str, str], list[Object]] = {}
        self.versions: dict[str, int] = {}

    async def call(self, rng: random.Random) -> Any:
        resource = rng.choice(("configmaps", "pods", "replicasets.apps"))
        name = rng.choice(NAMES)
        try:
            return self.shown(await self._one(rng, resource, name))
        except ApiError as e:
            return type(e).__name__, e.code, e.reason

    async def _one(self, rng: random.Random, resource: str, name: str) -> Object:
        verb = rng.choice(("create", "create", "get", "update", "status", "patch", "bind", "delete"))
        sight = rng.random()
        fresh = new(resource, name, rng)
        change = rng.choice(("data", "labels", "finalizers", "uid", "nothing"))
        options = rng.choice(({}, {"grace_period_s": 0}, {"propagation": "Foreground"}, {"uid": "another"}))
        if verb == "create":
            return self._remember(resource, await self.client.create(resource, fresh))
        if verb == "get":
            return await self.client.get(resource, name, "default")
        if verb == "delete":
            return await self.client.delete(resource, name, "default", **options)
        if verb == "bind":
            target = {"apiVersion": "v1", "kind": "Node", "name": "n"}
            body = {"metadata": {"name": name, "namespace": "default"}, "target": target}
            [answer] = await self.client.batch([ops.create("pods", body, subresource="binding")])
            if isinstance(answer, ApiError):
                raise answer
            return {}
        if verb == "patch":
            return self._remember(resource, await self.client.patch(resource, name, "default", _patch(change, rng)))
        known = self.seen.get((resource, name))
        if not known:
            raise errors.NotFound("never made")
        # One that may be of long ago: a conflict.
        old = known[int(sight * len(known))]
        if verb == "update":
            labels = {**meta.labels(old), "n": str(rng.randrange(3))}
            changed = {**old, "metadata": {**old["metadata"], "labels": labels}}
            return self._remember(resource, await self.client.update(resource, changed))
        if resource == "configmaps":
            return self._remember(resource, await self.client.update(resource, {**old, "data": fresh["data"]}))
        status = (
            {"phase": rng.choice(("Running", "Succeeded"))} if resource == "pods" else {"replicas": rng.randrange(1, 4)}
        )
        changed = {**old, "status": status}
        return self._remember(resource, await self.client.update(resource, changed, subresource="status"))

    def _remember(self, resource: str, obj: Object) -> Object:
        self.seen.setdefault((resource, meta.name(obj)), []).append(obj)
        return obj

    def shown(self, obj: Object) -> Any:
        """What both sides must agree on."""
        if not obj or obj.get("kind") == "Status":
            return "done"
        own, status = obj["metadata"], obj.get("status") or {}
        kept = {f: own.get(f) for f in ("name", "namespace", "labels", "finalizers", "generation")}
        kept["deleting"] = meta.is_deleting(obj), own.get("deletionGracePeriodSeconds")
        kept["content"] = obj.get("data"), meta.node_name(obj), status.get("phase"), status.get("replicas")
        return kept


def _patch(change: str, rng: random.Random) -> Object:
    value = rng.choice("123")
    bodies: dict[str, Object] = {
        "data": {"metadata": {"annotations": {"v": value}}},
        "labels": {"metadata": {"labels": {"app": rng.choice("xy")}}},
        "finalizers": {"metadata": {"finalizers": None}},
        "uid": {"metadata": {"uid": "another"}},
        "nothing": {},
    }
    return bodies[change]


class Watcher:
    """What a watch showed."""

    def __init__(self, client: Any, resource: str, **selectors: str) -> None:
        self.events: list[WatchEvent] = []
        self._client, self._resource, self._selectors = client, resource, selectors
        self.task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        version = (await self._client.list(self._resource, "default")).resource_version
        self.task = asyncio.create_task(self._read(version))

    async def _read(self, version: str) -> None:
        stream = self._client.watch(self._resource, "default", resource_version=version, **self._selectors)
        async with contextlib.aclosing(stream) as groups:
            async for group in groups:
                self.events += [event for event in group if event.type != "BOOKMARK"]

    def shown(self, caller: Caller) -> list[tuple[str, str, Any]]:
        return [(event.type, meta.name(event.object), meta.labels(event.object)) for event in self.events]


@pytest.mark.parametrize("seed", range(8))
async def test_the_same_program_has_the_same_answers_and_events(stack: Stack, seed: int) -> None:
    sides = [Caller(FakeClient()), Caller(stack.client())]
    watchers: list[list[Watcher]] = []
    for side in sides:
        mine = [Watcher(side.client, "configmaps"), Watcher(side.client, "pods", field_selector="spec.nodeName=n")]
        mine.append(Watcher(side.client, "replicasets.apps", label_selector="app=x"))
        watchers.append(mine)
        for one in mine:
            await one.open()
    for step in range(STEPS):
        fake, real = [await side.call(random.Random(f"{seed} {step}")) for side in sides]
        assert fake == real, f"step {step}"
    for resource in ("configmaps", "pods", "replicasets.apps"):
        fake_list, real_list = [await side.client.list(resource, "default") for side in sides]
        assert sorted(map(meta.name, fake_list.items)) == sorted(map(meta.name, real_list.items))
    for fakes, reals in zip(*watchers, strict=True):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                while len(reals.events) < len(fakes.events):
                    await asyncio.sleep(0.01)
        assert fakes.shown(sides[0]) == reals.shown(sides[1])
    await cancel_and_wait(*(one.task for mine in watchers for one in mine if one.task is not None))


async def test_a_watch_from_before_a_compaction_is_told_so() -> None:
    client = FakeClient()
    client.put("configmaps", {"metadata": {"name": "a", "namespace": "default"}})
    client.put("configmaps", {"metadata": {"name": "b", "namespace": "default"}})
    client.store.forget_history()
    with pytest.raises(errors.Expired):
        await anext(client.watch("configmaps", resource_version="1"))


async def test_a_fenced_client_reads_and_does_not_write() -> None:
    client = FakeClient()
    fenced = client.fenced(lambda: False)
    assert (await fenced.list("pods")).items == []
    with pytest.raises(errors.ServiceUnavailable):
        await fenced.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}})
    assert not client.operations
