"""Creates and what counts as a change: generated names, metadata of the system, generations, doubled owners."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio

from rayplane.control_plane.rpc import RpcError
from rayplane.storage.env import Env, SystemClock
from tests.apiserver.conftest import Stack
from tests.apiserver.test_patches import DEPLOYMENTS, NAMESPACE, Api, api, config_map  # noqa: F401

MAPS = f"{NAMESPACE}/configmaps"
Object = dict[str, Any]


# --- names --------------------------------------------------------------------------------------


class Unlucky(random.Random):
    """Chance that draws the same letters time and again, and counts the names that were made of them."""

    draws: int = 0

    def choices(self, population: Any, *_: Any, k: int = 1, **__: Any) -> list[Any]:
        self.draws += k
        return [population[0]] * k if self.draws <= self.draws_alike else super().choices(population, k=k)

    draws_alike: int = 0


@pytest.fixture
def luck() -> Unlucky:
    return Unlucky(1)


@pytest_asyncio.fixture
async def unlucky(luck: Unlucky) -> AsyncIterator[Api]:
    stack = Stack()
    env = Env(SystemClock(), luck, None)  # type: ignore[arg-type]
    await stack.add_server(https_address="127.0.0.1:0", env=env)
    async with aiohttp.ClientSession() as session:
        yield Api(stack, session)
    await stack.stop()


async def test_a_name_that_is_taken_is_drawn_again(unlucky: Api, luck: Unlucky) -> None:
    await unlucky.made(MAPS, config_map("x-bbbbb"))
    luck.draws, luck.draws_alike = 0, 7 * 5
    made = await unlucky.made(MAPS, {"metadata": {"generateName": "x-"}})
    assert made["metadata"]["name"] != "x-bbbbb"
    assert luck.draws == 8 * 5


async def test_who_is_out_of_luck_is_told_to_come_again(unlucky: Api, luck: Unlucky) -> None:
    await unlucky.made(MAPS, config_map("x-bbbbb"))
    luck.draws, luck.draws_alike = 0, 1_000
    code, refused = await unlucky("POST", MAPS, {"metadata": {"generateName": "x-"}})
    assert luck.draws == 8 * 5
    assert (code, refused["reason"]) == (409, "AlreadyExists")
    assert refused["message"] == (
        'configmaps "x-bbbbb" already exists, the server was not able to generate a unique name for the object'
    )
    assert refused["details"] == {"name": "x-bbbbb", "kind": "configmaps", "retryAfterSeconds": 1}


async def test_the_system_fills_in_its_metadata_itself(api: Api) -> None:  # noqa: F811
    given = {
        "name": "c",
        "uid": "mine",
        "selfLink": "/mine",
        "creationTimestamp": "2001-01-01T00:00:00Z",
        "deletionTimestamp": "2001-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": 7,
    }
    meta = (await api.made(MAPS, {"metadata": given}))["metadata"]
    assert not {"selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"} & meta.keys()
    assert meta["uid"] != "mine"
    assert meta["creationTimestamp"] > "2020"
    code, refused = await api("POST", MAPS, {"metadata": {"name": "d", "resourceVersion": "1"}})
    assert (code, refused["message"]) == (500, "resourceVersion should not be set on objects to be created")


async def test_an_update_of_some_kinds_says_what_it_replaces(api: Api) -> None:  # noqa: F811
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    made = await api.made(leases, {"metadata": {"name": "l"}})
    del made["metadata"]["resourceVersion"]
    code, refused = await api("PUT", f"{leases}/l", made)
    assert code == 422
    assert refused["message"] == (
        'leases.coordination.k8s.io "l" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified '
        "for an update"
    )


async def test_events_of_the_newer_group_are_held_to_its_rules(api: Api) -> None:  # noqa: F811
    events, core = "/apis/events.k8s.io/v1/namespaces/default/events", f"{NAMESPACE}/events"
    event = {"metadata": {"name": "e"}, "reportingController": "a.io/b", "reportingInstance": "i", "action": "A"}
    event |= {"reason": "R", "type": "Normal", "note": "n", "eventTime": "2026-01-01T00:00:00.000000Z"}
    code, refused = await api("POST", events, {**event, "type": "Odd"})
    assert (code, refused["details"]["causes"][0]["field"]) == (422, "type")
    await api.made(events, event)
    merge = {"Content-Type": "application/merge-patch+json"}
    for path, text, wanted in ((events, {"note": "m"}, 422), (core, {"message": "m"}, 200)):
        async with api.session.request("PATCH", f"{api.base}{path}/e", json=text, headers=merge) as response:
            assert response.status == wanted


# --- owners -------------------------------------------------------------------------------------


async def test_an_owner_that_is_named_twice_is_kept_once(api: Api) -> None:  # noqa: F811
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}
    other = {**owner, "name": "m"}
    named = {"metadata": {"name": "c", "ownerReferences": [owner, other, owner, owner]}}
    path = f"{MAPS}/c"
    before, after = "contains duplicate entries; API server", "contains duplicate entries after mutating admission"
    for method, at, headers, text in (
        ("POST", MAPS, {}, before),
        ("PUT", path, {}, before),
        ("PATCH", path, {"Content-Type": "application/merge-patch+json"}, after),
    ):
        async with api.session.request(method, api.base + at, json=named, headers=headers) as response:
            assert (await response.json())["metadata"]["ownerReferences"] == [owner, other]
            [warning] = response.headers.getall("Warning")
            assert f".metadata.ownerReferences {text}" in warning
            assert "duplicate UID(s) observed: [u u]" in warning


# --- generations --------------------------------------------------------------------------------


def spec_of_pods() -> Object:
    labels = {"app": "d"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {"selector": {"matchLabels": labels}, "template": template}


NOTED = {"metadata": {"annotations": {"a": "b"}}}
LABELLED = {"metadata": {"labels": {"a": "b"}}}
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
DRIVERS = "/apis/storage.k8s.io/v1/csidrivers"
TEMPLATE_LABEL = {"spec": {"template": {"metadata": {"labels": {"b": "c"}}}}}


@pytest.mark.parametrize(
    ("path", "made", "steps"),
    [
        (DEPLOYMENTS, {"spec": spec_of_pods()}, [(LABELLED, 1), (NOTED, 2), ({"spec": {"replicas": 3}}, 3)]),
        (SLICES, {"addressType": "IPv4", "endpoints": []}, [(NOTED, 1), (LABELLED, 2)]),
        (CLASSES, {"value": 5}, [({"description": "new"}, 1), (LABELLED, 1)]),
        (DRIVERS, {"spec": {}}, [(LABELLED, None), ({"spec": {"requiresRepublish": True}}, 1)]),
        (MAPS, {}, [({"data": {"x": "y"}}, None)]),
    ],
    ids=["Deployment", "EndpointSlice", "PriorityClass", "CSIDriver", "ConfigMap"],
)
async def test_a_generation_is_what_its_kind_counts(
    api: Api,  # noqa: F811
    path: str,
    made: Object,
    steps: list[tuple[Object, int | None]],
) -> None:
    metadata = {"name": "x", "generation": 7} if path != MAPS else {"name": "x"}
    created = await api.made(path, {"metadata": metadata, **made})
    first = None if path in (DRIVERS, MAPS) else 1
    assert created["metadata"].get("generation") == first
    for patch, wanted in steps:
        for _ in range(2):
            code, changed = await api.patch("merge", f"{path}/x", patch)
            assert (code, changed["metadata"].get("generation")) == (200, wanted), "and no more for the same again"


async def test_a_status_is_no_new_generation(api: Api) -> None:  # noqa: F811
    await api.made(DEPLOYMENTS, {"metadata": {"name": "d"}, "spec": spec_of_pods()})
    patch = {**NOTED, "spec": {"replicas": 7}, "status": {"replicas": 2}}
    code, changed = await api.patch("merge", f"{DEPLOYMENTS}/d/status", patch)
    assert (code, changed["status"]["replicas"], changed["spec"]["replicas"]) == (200, 2, 1)
    assert (changed["metadata"]["generation"], changed["metadata"]["annotations"]) == (1, {"a": "b"})
    code, _ = await api.patch("merge", f"{DEPLOYMENTS}/d/scale", {"spec": {"replicas": 7}})
    assert code == 200
    assert (await api("GET", f"{DEPLOYMENTS}/d"))[1]["metadata"]["generation"] == 2


async def test_the_templates_of_a_daemon_set_are_counted_in_an_annotation(api: Api) -> None:  # noqa: F811
    path, count = "/apis/apps/v1/namespaces/default/daemonsets", "deprecated.daemonset.template.generation"
    made = await api.made(path, {"metadata": {"name": "d"}, "spec": spec_of_pods()})
    assert made["metadata"]["annotations"] == {count: "1"}
    steps = [({"metadata": {"annotations": {count: "9"}}}, "1", 1), (TEMPLATE_LABEL, "2", 2)]
    for patch, templates, generation in [*steps, ({"spec": {"minReadySeconds": 3}}, "2", 3)]:
        code, changed = await api.patch("merge", f"{path}/d", patch)
        meta = changed["metadata"]
        assert (code, meta["annotations"], meta["generation"]) == (200, {count: templates}, generation)


@pytest.mark.parametrize("with_status", [False, True])
async def test_all_of_a_custom_resource_counts_but_a_status_of_its_own(api: Api, with_status: bool) -> None:  # noqa: F811
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "foos", "kind": "Foo"}
    spec = {"group": "x.io", "scope": "Namespaced", "names": names, "versions": [version]}
    if with_status:
        version["subresources"] = {"status": {}}
    await api.made("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {**named("foos.x.io"), "spec": spec})
    foos = "/apis/x.io/v1/namespaces/default/foos"
    body = {"apiVersion": "x.io/v1", "kind": "Foo", **named("f")}
    assert (await api.made(foos, body))["metadata"]["generation"] == 1
    for patch, wanted in (
        (LABELLED, 1),
        ({"status": {"a": 1}}, 1 if with_status else 2),
        ({"extra": 1}, 2 if with_status else 3),
    ):
        code, changed = await api.patch("merge", f"{foos}/f", patch)
        assert (code, changed["metadata"]["generation"]) == (200, wanted)


def named(name: str) -> Object:
    return {"metadata": {"name": name}}


async def test_an_update_tells_of_bad_metadata_twice_as_kubernetes_finds_it(api: Api) -> None:  # noqa: F811
    await api.made(MAPS, config_map())
    bad = {**config_map(), "metadata": {"name": "c", "labels": {"a": "-"}}, "data": {"b c": ""}}
    seen = {}
    for method, path in (("POST", MAPS), ("PUT", f"{MAPS}/c")):
        code, refused = await api(method, path, bad)
        assert code == 422
        seen[method] = [cause["field"] for cause in refused["details"]["causes"]]
        assert refused["message"].count("metadata.labels: Invalid value") == 1
    assert seen == {
        "POST": ["metadata.labels", "data[b c]"],
        "PUT": ["metadata.labels", "metadata.labels", "data[b c]"],
    }


# --- large objects ------------------------------------------------------------------------------


async def test_what_is_too_large_goes_without_its_owners_but_for_who_applies(
    api: Api,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    etcd = api.stack.etcd
    plain = etcd.txn

    async def bounded(compare: Any, success: Any, failure: Any, **options: Any) -> Any:
        if any(len(op.request_put.value) > 1_000 for op in success):
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
        return await plain(compare, success, failure, **options)

    monkeypatch.setattr(etcd, "txn", bounded)
    many = {f"k{i:02}": "" for i in range(50)}
    made = await api.made(MAPS, {**config_map(), "data": many})
    assert "managedFields" not in made["metadata"]
    small = await api.made(MAPS, config_map("d", x="y"))
    assert small["metadata"]["managedFields"]
    code, changed = await api.patch("merge", f"{MAPS}/d", {"data": many})
    assert (code, changed["data"], changed["metadata"].get("managedFields")) == (200, {**many, "x": "y"}, None)
    for name in ("e", "d"):
        code, refused = await api.patch("apply", f"{MAPS}/{name}", {**config_map(name), "data": many}, "m")
        assert (code, refused["reason"]) == (413, "RequestEntityTooLarge")
    code, refused = await api("POST", MAPS, {**config_map("f"), "data": {"x": "y" * 1_000}})
    assert (code, refused["message"]) == (413, "etcdserver: request is too large")
