"""Objects over gRPC: create, read, change, delete, watch."""

import asyncio

import pytest

from rayplane.control_plane.api import errors
from tests.apiserver.conftest import Stack


def config_map(name: str, **data: str) -> dict:
    return {"metadata": {"name": name, "namespace": "default"}, "data": data}


async def test_created_object_reads_back_with_its_revision(stack: Stack) -> None:
    client = stack.client()
    made = await client.create("configmaps", config_map("a", x="1"))
    assert made["kind"] == "ConfigMap"
    assert made["metadata"]["uid"]
    assert int(made["metadata"]["resourceVersion"]) == stack.etcd.revision
    assert await client.get("configmaps", "a", "default") == made
    with pytest.raises(errors.AlreadyExists, match='configmaps "a" already exists'):
        await client.create("configmaps", config_map("a"))
    with pytest.raises(errors.NotFound, match='configmaps "b" not found'):
        await client.get("configmaps", "b", "default")


async def test_update_from_an_old_version_conflicts(stack: Stack) -> None:
    client = stack.client()
    made = await client.create("configmaps", config_map("a", x="1"))
    newer = await client.update("configmaps", {**made, "data": {"x": "2"}})
    assert int(newer["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    with pytest.raises(errors.Conflict, match="the object has been modified"):
        await client.update("configmaps", {**made, "data": {"x": "3"}})


async def test_concurrent_patches_all_apply(stack: Stack) -> None:
    client = stack.client()
    await client.create("configmaps", config_map("a"))
    await asyncio.gather(*(client.patch("configmaps", "a", "default", {"data": {f"k{i}": "v"}}) for i in range(12)))
    found = await client.get("configmaps", "a", "default")
    assert sorted(found["data"]) == sorted(f"k{i}" for i in range(12))


async def test_watch_tells_what_enters_and_leaves_the_selection(stack: Stack) -> None:
    client = stack.client()
    start = (await client.list("configmaps", "default")).resource_version
    seen = []

    async def follow() -> None:
        async for events in client.watch("configmaps", "default", label_selector="on=yes", resource_version=start):
            for e in events:
                if e.type != "BOOKMARK":
                    seen.append((e.type, e.object["metadata"]["name"]))
            if len(seen) == 4:
                return

    task = asyncio.create_task(follow())
    await client.create("configmaps", config_map("off"))
    await client.create(
        "configmaps", {**config_map("a"), "metadata": {"name": "a", "namespace": "default", "labels": {"on": "yes"}}}
    )
    await client.patch("configmaps", "a", "default", {"data": {"x": "1"}})
    await client.patch("configmaps", "a", "default", {"metadata": {"labels": {"on": "no"}}})
    await client.patch("configmaps", "off", "default", {"metadata": {"labels": {"on": "yes"}}})
    async with asyncio.timeout(5):
        await task
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "off")]


async def test_pod_is_marked_until_the_kubelet_confirms(stack: Stack) -> None:
    client = stack.client()
    pod = {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "nginx"}]},
    }
    await client.create("pods", pod)
    marked = await client.delete("pods", "p", "default")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    assert (await client.get("pods", "p", "default"))["metadata"]["deletionTimestamp"]
    await client.delete("pods", "p", "default", grace_period_s=0)
    with pytest.raises(errors.NotFound):
        await client.get("pods", "p", "default")


async def test_pod_without_service_account_is_refused(stack: Stack) -> None:
    pod = {
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {"serviceAccountName": "none", "containers": [{"name": "c", "image": "nginx"}]},
    }
    with pytest.raises(errors.Forbidden) as caught:
        await stack.client().create("pods", pod)
    assert caught.value.message == (
        'pods "x" is forbidden: error looking up service account default/none: serviceaccount "none" not found'
    )


async def test_second_server_reads_what_the_first_wrote(stack: Stack) -> None:
    await stack.add_server()
    one, two = stack.client(0), stack.client(1)
    for i in range(20):
        made = await one.create("configmaps", config_map(f"c{i}"))
        assert await two.get("configmaps", f"c{i}", "default") == made
        listed = await two.list("configmaps", "default")
        assert int(listed.resource_version) >= int(made["metadata"]["resourceVersion"])
        assert len(listed.items) == i + 1


async def test_write_whose_answer_is_lost_is_applied_once(stack: Stack) -> None:
    client = stack.client()
    made = await client.create("configmaps", config_map("a", x="1"))
    stack.etcd.lose_answers = 1
    before = stack.etcd.revision
    changed = await client.update("configmaps", {**made, "data": {"x": "2"}})
    assert (changed["data"], stack.etcd.revision) == ({"x": "2"}, before + 1)
    stack.etcd.lose_answers = 1
    gone = await client.delete("configmaps", "a", "default")
    assert gone["status"] == "Success"
    stack.etcd.lose_answers = 1
    made = await client.create("configmaps", config_map("b"))
    assert await client.get("configmaps", "b", "default") == made


async def test_same_change_from_two_writers_succeeds_once(stack: Stack) -> None:
    """A resourceVersion is a fence even for those who want to write the same."""
    await stack.add_server()
    made = await stack.client().create("configmaps", config_map("lock"))
    wanted = {**made, "data": {"taken": "yes"}}
    answers = await asyncio.gather(
        *(stack.client(i % 2).update("configmaps", wanted) for i in range(6)), return_exceptions=True
    )
    assert sum(isinstance(a, errors.Conflict) for a in answers) == 5


async def test_writes_of_the_status_fill_in_its_defaults(stack: Stack) -> None:
    client = stack.client()
    await client.create("nodes", {"metadata": {"name": "n"}})
    node = await client.patch("nodes", "n", "", {"status": {"capacity": {"cpu": "4000m"}}}, subresource="status")
    assert node["status"]["capacity"] == node["status"]["allocatable"] == {"cpu": "4"}
    service = {
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    }
    await client.create("services", service)
    told = {"status": {"loadBalancer": {"ingress": [{"ip": "10.1.2.3"}]}}}
    written = await client.patch("services", "s", "default", told, subresource="status")
    assert written["status"]["loadBalancer"]["ingress"] == [{"ip": "10.1.2.3", "ipMode": "VIP"}]
