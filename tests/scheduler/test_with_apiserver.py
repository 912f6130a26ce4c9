"""The scheduler against a real API server: what it writes is taken, and it has the right to write it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLAIMS, FINALIZER, consumers, results
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.memory import MemoryNetwork
from rayplane.control_plane.scheduler import Scheduler, SchedulerConfig
from tests.apiserver.conftest import Stack, make_env
from tests.scheduler.build import claim, node, pod
from tests.scheduler.test_dynamic_resources import DRIVER, exactly, offered, user, wanted


@pytest.fixture
async def client() -> AsyncIterator[ApiClient]:
    stack = Stack()
    await stack.add_server()
    client = stack.client()
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    config = SchedulerConfig(identity="s0", api_endpoints=(stack.servers[0].grpc_address,), backoff=Backoff(0.05, 10.0))
    network = MemoryNetwork(stack.fabric, "host-of-scheduler", Identity("system:kube-scheduler"))
    scheduler = Scheduler(config, make_env(9), network)
    await scheduler.start()
    yield client
    await scheduler.stop()
    await stack.stop()


async def until(holds: Callable[[], Awaitable[Any]]) -> Any:
    while not (found := await holds()):
        await asyncio.sleep(0.01)
    return found


def fresh(one: dict[str, Any]) -> dict[str, Any]:
    """As a user writes it: what the server fills in is left out."""
    del one["metadata"]["uid"]
    del one["spec"]["priority"]
    return one


async def test_pods_are_bound_and_the_rest_say_why(client: ApiClient) -> None:
    await client.create("nodes", node("n1", cpu="2"))
    for name in ("a", "b", "c"):
        await client.create("pods", fresh(pod(name, cpu="1")))

    async def settled() -> list[dict[str, Any]] | None:
        pods = (await client.list("pods", "default")).items
        told = [p for p in pods if meta.get_condition(p, "PodScheduled")]
        return pods if len(told) == 3 else None

    pods = {meta.name(p): p for p in await until(settled)}
    assert [meta.node_name(pods[n]) for n in "abc"] == ["n1", "n1", ""]
    condition = meta.get_condition(pods["c"], "PodScheduled")
    assert condition is not None and condition["reason"] == "Unschedulable"
    assert condition["message"].startswith(
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes"
    )

    async def event() -> Any:
        return [e for e in (await client.list("events")).items if e["reason"] == "FailedScheduling"]

    assert (await until(event))[0]["message"] == condition["message"]


async def test_preemption_through_the_api(client: ApiClient) -> None:
    await client.create("nodes", node("n1", cpu="1"))
    await client.create("priorityclasses.scheduling.k8s.io", {"metadata": {"name": "high"}, "value": 1000})
    await client.create("pods", fresh(pod("meek", cpu="1", terminationGracePeriodSeconds=30)))

    async def bound(name: str) -> str:
        return meta.node_name(await client.get("pods", name, "default"))

    await until(lambda: bound("meek"))
    await client.create("pods", fresh(pod("vip", cpu="1", priorityClassName="high")))

    async def dying() -> Any:
        found = [p for p in (await client.list("pods", "default")).items if meta.name(p) == "meek"]
        return not found or meta.is_deleting(found[0])

    await until(dying)
    vip = await client.get("pods", "vip", "default")
    assert vip["status"].get("nominatedNodeName") == "n1"
    if any(meta.name(p) == "meek" for p in (await client.list("pods", "default")).items):
        await client.delete("pods", "meek", "default", grace_period_s=0)  # as its kubelet does in the end
    await until(lambda: bound("vip"))
    vip = await client.get("pods", "vip", "default")
    assert "nominatedNodeName" not in vip["status"], "where it was to go is of no interest any more"


async def test_a_gang_through_the_api(client: ApiClient) -> None:
    """Its condition is one that the API server takes, and stays as it is once the gang has its nodes."""
    groups, workloads = "podgroups.scheduling.k8s.io", "workloads.scheduling.k8s.io"
    policy = {"schedulingPolicy": {"gang": {"minCount": 3}}}
    named = {"name": "train", "namespace": "default"}
    await client.create(workloads, {"metadata": named, "spec": {"podGroupTemplates": [{"name": "w", **policy}]}})
    origin = {"workloadRef": {"workloadName": "train", "templateName": "w"}}
    await client.create(groups, {"metadata": named, "spec": {**policy, **origin}})
    await client.create("nodes", node("n1", cpu="2"))
    for name in ("a", "b", "c"):
        await client.create("pods", fresh(pod(name, cpu="1", schedulingGroup={"podGroupName": "train"})))

    async def condition() -> dict[str, Any]:
        found = await client.get(groups, "train", "default")
        return meta.get_condition(found, "PodGroupInitiallyScheduled") or {}

    async def refused() -> bool:
        return (await condition()).get("reason") == "Unschedulable"

    await until(refused)
    waiting = (await client.list("pods", "default")).items
    assert not any(meta.node_name(one) for one in waiting)
    assert (await condition())["message"].startswith("minCount (3) cannot be satisfied: 2 scheduled, 0 remaining")
    await client.create("nodes", node("n2", cpu="1"))

    async def scheduled() -> bool:
        return (await condition())["status"] == "True"

    await until(scheduled)

    async def bound() -> bool:
        return all(meta.node_name(one) for one in (await client.list("pods", "default")).items)

    await until(bound)
    assert (await condition())["observedGeneration"] == 1


async def test_devices_through_the_api(client: ApiClient) -> None:
    """A claim is marked, allocated, made ready by its driver, given back when that fails, and allocated again."""
    await client.create("nodes", node("n1"))
    await client.create("deviceclasses.resource.k8s.io", {"metadata": {"name": "gpu"}, "spec": {}})
    fabric = {"bindingConditions": ["ready"], "bindingFailureConditions": ["broken"], "bindsToNode": True}
    offer = offered("n1", {"name": "g0", **fabric}, {"name": "g1", **fabric})
    offer["spec"]["pool"]["name"] = "pool"
    await client.create("resourceslices.resource.k8s.io", offer)
    held = wanted("x", exactly())
    del held["metadata"]["uid"]
    await client.create(CLAIMS, held)
    await client.create("pods", fresh(user("p", "x")))

    async def has(device: str) -> dict[str, Any] | None:
        found = await client.get(CLAIMS, "x", "default")
        return found if [one["device"] for one in results(meta.status(found).get("allocation"))] == [device] else None

    async def says(device: str, condition: str) -> None:
        assert FINALIZER in meta.finalizers(await until(lambda: has(device)))
        told = {"type": condition, "status": "True", "reason": "Why", "message": "so"}
        conditions = [{**told, "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        of_device = {"driver": DRIVER, "pool": "pool", "device": device, "conditions": conditions}
        await client.patch(CLAIMS, "x", "default", {"status": {"devices": [of_device]}}, subresource="status")

    async def bound() -> str:
        return meta.node_name(await client.get("pods", "p", "default"))

    await says("g0", "broken")

    async def told() -> Any:
        events = (await client.list("events")).items
        return [one for one in events if 'claim x binding failed: reason=Why, message="so"' in one["message"]]

    await until(told)
    await says("g0", "ready")
    assert await until(bound) == "n1"


async def test_extended_resources_of_devices_through_the_api(client: ApiClient) -> None:
    """The claim is made with devices, the pod's status names it, and both are what the API server takes."""
    await client.create("nodes", node("n1"))
    spec = {"extendedResourceName": "example.com/gpu"}
    await client.create("deviceclasses.resource.k8s.io", {"metadata": {"name": "gpu"}, "spec": spec})
    offer = offered("n1", {"name": "g0"}, {"name": "g1"})
    await client.create("resourceslices.resource.k8s.io", offer)
    for name, resource in (("p", "example.com/gpu"), ("q", "deviceclass.resource.kubernetes.io/gpu")):
        one = fresh(pod(name))
        one["spec"]["containers"][0]["resources"] = {"requests": {resource: "1"}, "limits": {resource: "1"}}
        await client.create("pods", one)

    async def bound() -> list[dict[str, Any]] | None:
        pods = (await client.list("pods", "default")).items
        return pods if all(map(meta.node_name, pods)) else None

    found = await until(bound)
    claims = {meta.name(one): one for one in (await client.list(CLAIMS, "default")).items}
    had = []
    for one in found:
        told = one["status"]["extendedResourceClaimStatus"]
        held = claims[told["resourceClaimName"]]
        assert [user["name"] for user in consumers(held)] == [meta.name(one)]
        assert told["requestMappings"][0]["requestName"] == results(held["status"]["allocation"])[0]["request"]
        had += [result["device"] for result in results(held["status"]["allocation"])]
    assert sorted(had) == ["g0", "g1"]


async def test_a_claims_node_is_selected(client: ApiClient) -> None:
    await client.create(
        "storageclasses.storage.k8s.io",
        {
            "metadata": {"name": "waiting"},
            "provisioner": "rayplane.io/local",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
    )
    await client.create("nodes", node("n1"))
    wanted = claim("data", of="waiting")
    del wanted["metadata"]["uid"]
    await client.create("persistentvolumeclaims", wanted)
    await client.create("pods", fresh(pod("p", claims=("data",))))

    async def selected() -> str | None:
        held = await client.get("persistentvolumeclaims", "data", "default")
        return meta.annotations(held).get("volume.kubernetes.io/selected-node")

    assert await until(selected) == "n1"
