"""The shell: informers, barrier, batches, back-off, custom resources; on a real event loop with a slow client."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.controllers.actions import (
    Create,
    IfAlive,
    IfUnclaimed,
    Patch,
)
from rayplane.control_plane.controllers.catalog import build_controllers
from rayplane.control_plane.controllers.config import ControllersConfig, Timing
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)
from rayplane.control_plane.controllers.manager import manager
from rayplane.control_plane.controllers.manager.executor import ActionFailed, Executor
from rayplane.control_plane.controllers.manager.expectations import Barrier, Shown
from rayplane.control_plane.controllers.manager.live_reads import LiveReads
from rayplane.control_plane.controllers.manager.manager import Term
from rayplane.control_plane.controllers.manager.runner import COSTS_MAX, REST_FACTOR, REST_MAX_S, Costs
from rayplane.control_plane.tasks import Turn, cancel_and_wait
from rayplane.storage.env import Env, SystemClock
from tests.fakes import FakeClient, Store

RS = {
    "replicas": 60,
    "selector": {"matchLabels": {"app": "web"}},
    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
}


class NoNetwork:
    def channel(self, address: str) -> Any:
        raise AssertionError(f"nothing should be called, but {address} was")


@asynccontextmanager
async def controllers(client: FakeClient, **settings: Any) -> AsyncIterator[Term]:
    env = Env(SystemClock(), random.Random(1), None)  # type: ignore[arg-type]
    config = ControllersConfig(identity="test", timing=Timing(coalesce_s=0.01), batch_size=25, **settings)
    term = Term(config, env, NoNetwork(), client=client)  # type: ignore[arg-type]
    task = asyncio.create_task(term.run())
    try:
        yield term
    finally:
        await cancel_and_wait(task)
        await term.stop()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def add(store: Store, resource: str, kind: str, name: str, **fields: Any) -> meta.Object:
    version = "apps/v1" if resource.endswith(".apps") else "v1"
    own: dict[str, Any] = {"name": name, "namespace": "default", **fields.pop("metadata", {})}
    made = store.create(resource, {"apiVersion": version, "kind": kind, "metadata": own, **fields})
    return store.update(resource, {**made, **fields}, subresource="status") if "status" in fields else made


async def test_a_cache_far_behind_never_makes_pods_twice() -> None:
    store = Store()
    client = FakeClient(store, lag_s=0.15)
    most = 0

    def count(resource: str, *_: Any) -> None:
        nonlocal most
        most = max(most, len(store.list("pods")))

    store.listeners.append(count)
    async with controllers(client):
        await until(lambda: bool(client.watched.get("replicasets.apps")))
        rs = add(store, "replicasets.apps", "ReplicaSet", "web", spec=RS)
        await until(lambda: len(store.list("pods")) == 60)
        store.update("replicasets.apps", {**rs, "spec": {**RS, "replicas": 10}})
        await until(lambda: len(store.list("pods")) == 10)
        await until(lambda: meta.status(store.list("replicasets.apps")[0]).get("replicas") == 10)
    assert most == 60
    events = {e["reason"] for e in store.list("events")}
    assert events <= {"SuccessfulCreate", "SuccessfulDelete"}


async def test_each_controller_writes_under_a_name_of_its_own() -> None:
    store = Store()
    client = FakeClient(store)
    add(store, "replicasets.apps", "ReplicaSet", "web", spec={**RS, "replicas": 3})
    add(store, "namespaces", "Namespace", "ns", metadata={"namespace": ""}, status={"phase": "Active"})
    async with controllers(client):
        await until(lambda: len(store.list("pods")) == 3 and bool(store.list("serviceaccounts")))
        await until(lambda: bool(store.list("events")))
    names = {"replicaset-controller", "service-account-controller"}
    assert {(f"system:serviceaccount:kube-system:{name}", "batch") for name in names} == {*client.actors}


class Greeter(BaseController):
    """A controller that somebody added, without an account of its own."""

    name = "greeter"
    component = "greeter"
    watches = (Watch("namespaces"),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hello", "namespace": key}}
        return result([Create("configmaps", made)] if view.get("configmaps", key, "hello") is None else [])


async def test_a_controller_that_was_added_runs_in_the_managers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "build_controllers", lambda config: [*build_controllers(config), Greeter()])
    store = Store()
    client = FakeClient(store)
    add(store, "namespaces", "Namespace", "ns", metadata={"namespace": ""}, status={"phase": "Active"})
    async with controllers(client):
        await until(lambda: any(meta.name(one) == "hello" for one in store.list("configmaps")))
        await until(lambda: bool(store.list("serviceaccounts")))
    assert {user for user, _ in client.actors} == {"system:serviceaccount:kube-system:service-account-controller"}


async def test_the_loop_is_left_to_others_between_controllers_and_between_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader of many objects renews its Lease, however many keys it has to look at."""
    store, given = Store(), 0

    async def give(_: Turn) -> None:
        nonlocal given
        given += 1

    monkeypatch.setattr(Turn, "give", give)
    for number in range(40):
        add(store, "nodes", "Node", f"n{number}", metadata={"namespace": ""}, spec={})
    async with controllers(FakeClient(store)) as term:
        await until(lambda: all(meta.spec(node).get("podCIDR") for node in store.list("nodes")))
        assert given >= len(term.runners) + 40


async def test_an_api_that_fails_is_tried_again() -> None:
    store = Store()
    client = FakeClient(store)
    add(store, "replicasets.apps", "ReplicaSet", "web", spec={**RS, "replicas": 3})
    failures = iter([True])

    def fail(_: Any) -> None:
        if next(failures, False):
            raise errors.ServiceUnavailable("no API server answered")

    client.before_batch = fail
    async with controllers(client):
        await until(lambda: len(store.list("pods")) == 3)


async def test_a_refusal_is_told_in_the_status_and_ends() -> None:
    store = Store()
    client = FakeClient(store)
    add(store, "replicasets.apps", "ReplicaSet", "web", spec={**RS, "replicas": 3})
    client.refuse = lambda verb, what: (
        errors.Forbidden("exceeded quota") if (verb, what) == ("create", "pods") else None
    )

    def conditions() -> list[tuple[str, str]]:
        found = meta.status(store.list("replicasets.apps")[0]).get("conditions") or ()
        return [(c["reason"], c["message"]) for c in found]

    async with controllers(client):
        await until(lambda: conditions() == [("FailedCreate", "exceeded quota")])
        client.refuse = None
        await until(lambda: len(store.list("pods")) == 3 and not conditions())


async def test_an_owner_that_goes_adopts_nothing_although_the_cache_does_not_know() -> None:
    store = Store()
    client = FakeClient(store)
    known = add(store, "replicasets.apps", "ReplicaSet", "web", metadata={"finalizers": ["orphan"]}, spec=RS)
    orphan = add(store, "pods", "Pod", "x", metadata={"labels": {"app": "web"}}, spec={})
    adoption = Patch("pods", "default", "x", {"metadata": {"ownerReferences": [meta.owner_reference(known)]}})
    executor = Executor(client, None, store, batch_size=10)  # type: ignore[arg-type]
    wanted = Result(((IfAlive("replicasets.apps", known, (adoption,)),),))
    store.delete("replicasets.apps", "web", "default")
    outcome = await executor.run(wanted)
    assert outcome.failed and store.list("pods") == [orphan]
    store.put("replicasets.apps", known)
    assert not (await executor.run(wanted)).failed
    assert meta.is_controlled_by(store.list("pods")[0], known)


CLAIM = {"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default", "resourceVersion": "1"}}
USER = {"nodeName": "n1", "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}], "containers": []}


async def test_a_claim_is_let_go_only_when_the_api_server_lists_no_pod_with_it() -> None:
    store = Store()
    live, lists = LiveReads(client := FakeClient(store)), 0  # type: ignore[arg-type]
    kept = client.list

    async def list_(*args: Any, **named: Any) -> Any:
        nonlocal lists
        lists += 1
        return await kept(*args, **named)

    client.list = list_  # type: ignore[method-assign]
    release = IfUnclaimed(CLAIM, (Patch("persistentvolumeclaims", "default", "c", {}),))
    pod = add(store, "pods", "Pod", "p", spec=USER)
    with pytest.raises(ActionFailed):
        await live.unclaimed(release)
    store.delete("pods", "p", "default", grace_s=0)
    assert await live.unclaimed(release) == [*release.writes] and lists == 2
    # What was listed after a claim's deletion need not be listed again for it, whatever comes meanwhile.
    store.put("pods", pod)
    assert await live.unclaimed(release) == [*release.writes] and lists == 2
    assert await live.unclaimed(IfUnclaimed({**CLAIM, "metadata": {"name": "d", "namespace": "x"}}, ())) == []
    assert lists == 3


async def test_status_writes_are_gathered_while_pods_change() -> None:
    store = Store()
    client = FakeClient(store)
    add(store, "replicasets.apps", "ReplicaSet", "web", spec=RS)
    writes = 0

    def count(resource: str, *_: Any) -> None:
        nonlocal writes
        writes += resource == "replicasets.apps"

    async with controllers(client):
        await until(lambda: len(store.list("pods")) == 60)
        store.listeners.append(count)
        for pod in store.list("pods"):
            ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            store.update("pods", {**pod, "status": ready}, subresource="status")
        await until(lambda: meta.status(store.list("replicasets.apps")[0]).get("readyReplicas") == 60)
    assert writes < 30


async def test_owners_of_custom_kinds_are_followed_as_soon_as_they_are_defined() -> None:
    store = Store()
    client = FakeClient(store)
    async with controllers(client):
        crd = add(
            store,
            "customresourcedefinitions.apiextensions.k8s.io",
            "CustomResourceDefinition",
            "things.example.org",
            metadata={"namespace": ""},
            spec={
                "group": "example.org",
                "names": {"plural": "things", "kind": "Thing"},
                "scope": "Namespaced",
            },
            status={"conditions": [{"type": "Established", "status": "True"}]},
        )
        assert crd
        owner = store.create(
            "things.example.org",
            {
                "apiVersion": "example.org/v1",
                "kind": "Thing",
                "metadata": {"name": "t", "namespace": "default"},
            },
        )
        await until(lambda: bool(client.watched.get("things.example.org")))
        ref = meta.owner_reference(owner)
        add(store, "configmaps", "ConfigMap", "owned", metadata={"ownerReferences": [ref]})
        store.remove("things.example.org", "default/t")
        await until(lambda: store.get("configmaps", "default", "owned") is None)


async def test_namespace_is_emptied_then_finalized() -> None:
    store = Store()
    client = FakeClient(store)
    store.create(
        "namespaces",
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "default"},
            "spec": {"finalizers": ["kubernetes"]},
        },
    )
    add(store, "configmaps", "ConfigMap", "a")
    add(store, "secrets", "Secret", "held", metadata={"finalizers": ["example.org/wait"]})
    store.delete("namespaces", "default")
    async with controllers(client):
        await until(lambda: store.get("configmaps", "default", "a") is None)
        await until(lambda: meta.is_deleting(store.require("secrets", "default", "held")))
        held = store.require("secrets", "default", "held")
        assert store.get("namespaces", "", "default") is not None
        free = {**held, "metadata": {**held["metadata"], "finalizers": []}}
        store.update("secrets", free)
        await until(lambda: store.get("namespaces", "", "default") is None)
    assert not store.list("secrets")


def pod(version: int, name: str = "a", **own: Any) -> meta.Object:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version), **own}}


def seen(barrier: Barrier, resource: str, kind: str, obj: meta.Object) -> list[str]:
    barrier._shown.note(resource, obj)
    return barrier.seen(resource, kind, obj)


def test_barrier_holds_a_key_until_its_last_write_is_seen() -> None:
    barrier = Barrier(30, Shown())
    barrier.wrote("k", "pods", pod(5), now=0)
    barrier.wrote("k", "pods", pod(7), now=0)
    barrier.wrote("other", "pods", pod(6), now=0)
    assert barrier.is_held("k") and barrier.holds("k", 0) == 30
    assert seen(barrier, "pods", "ADDED", pod(5)) == []
    assert seen(barrier, "services", "ADDED", pod(9)) == []
    assert seen(barrier, "pods", "ADDED", pod(6)) == ["other"]
    assert seen(barrier, "pods", "MODIFIED", pod(8)) == ["k"]
    assert not barrier.is_held("k")
    barrier.wrote("k", "pods", pod(8), now=0)  # already seen
    assert not barrier.is_held("k")


@pytest.mark.parametrize(
    "event",
    [("DELETED", pod(9)), ("MODIFIED", pod(9, deletionTimestamp="x")), ("ADDED", pod(9, uid="new"))],
)
def test_barrier_waits_for_a_deleted_object_to_leave(event: tuple[str, meta.Object]) -> None:
    barrier = Barrier(30, Shown())
    barrier.deleted("k", "pods", pod(3), cached=pod(3), now=0)
    assert seen(barrier, "pods", "MODIFIED", pod(4)) == []
    assert barrier.holds("k", 1) == 29
    assert seen(barrier, "pods", *event) == ["k"]
    assert not barrier.is_held("k")


def test_barrier_lets_every_key_go_that_deleted_the_same_object() -> None:
    barrier = Barrier(30, Shown())
    for key in ("one", "other"):
        barrier.deleted(key, "pods", pod(3), cached=pod(3), now=0)
    assert seen(barrier, "pods", "DELETED", pod(9)) == ["one", "other"]
    for key in ("one", "other"):
        barrier.deleted(key, "pods", pod(3), cached=pod(3), now=0)
    barrier.deleted("other", "services", pod(3), cached=pod(3), now=40)
    assert barrier.listed("pods", 20) == ["one"], "it is from before the other's last delete"
    assert seen(barrier, "pods", "DELETED", pod(9)) == [] and seen(barrier, "services", "DELETED", pod(9)) == ["other"]


def test_barrier_lets_go_when_a_list_after_the_write_is_in_and_not_before() -> None:
    barrier = Barrier(30, Shown())
    barrier.wrote("k", "pods", pod(7), now=10)
    barrier.deleted("k", "services", pod(3), cached=pod(3), now=11)
    assert barrier.overdue(39) == []
    assert barrier.overdue(41) == ["pods", "services"]
    assert barrier.overdue(42) == [], "they are on their way"
    assert barrier.is_held("k") and barrier.overdue(71) == ["pods", "services"]
    assert barrier.listed("pods", 9) == [], "a list from before the write"
    assert barrier.listed("services", 12) == []
    assert barrier.listed("nodes", 12) == []
    assert barrier.listed("pods", 12) == ["k"]
    assert not barrier.is_held("k") and barrier.holds("k", 41) == 0
    assert seen(barrier, "services", "DELETED", pod(9)) == [] and seen(barrier, "pods", "ADDED", pod(9)) == []


def test_barrier_does_not_wait_for_what_nobody_follows_any_more() -> None:
    barrier = Barrier(30, Shown())
    barrier.wrote("k", "widgets", pod(7), now=0)
    barrier.wrote("other", "widgets", pod(8), now=0)
    barrier.wrote("other", "pods", pod(8), now=0)
    assert barrier.forget("widgets") == ["k"]
    assert barrier.is_held("other")


async def test_what_a_watch_does_not_tell_is_listed_and_never_made_twice() -> None:
    """The watch of pods tells nothing from the moment on that pods are made."""
    store = Store()
    client = FakeClient(store)
    most = 0

    def count(resource: str, kind: str, *_: Any) -> None:
        nonlocal most
        most = max(most, len(store.list("pods")))
        if resource == "pods" and kind == "ADDED":
            client.silent.add("pods")

    store.listeners.append(count)
    async with controllers(client, barrier_timeout_s=0.2):
        await until(lambda: bool(client.watched.get("replicasets.apps")))
        add(store, "replicasets.apps", "ReplicaSet", "web", spec=RS)
        await until(lambda: meta.status(store.list("replicasets.apps")[0]).get("replicas") == 60)
    assert most == 60 and len(store.list("pods")) == 60


def test_costs_of_keys_that_went_are_forgotten() -> None:
    costs = Costs()
    for n in range(2 * COSTS_MAX):
        costs.note(f"owner/{n}", 0.01)
    assert len(costs) == COSTS_MAX
    newest = f"owner/{2 * COSTS_MAX - 1}"
    assert (costs.rest_s("owner/0"), costs.rest_s(newest)) == (0.0, 0.01 * REST_FACTOR)
    costs.note(newest, 0.0)
    assert costs.rest_s(newest) == 0.0
    costs.note(newest, 60.0)
    assert costs.rest_s(newest) == REST_MAX_S
