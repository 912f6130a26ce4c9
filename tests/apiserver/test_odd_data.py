"""The oddest that a fault or a user of etcdctl can leave in etcd stops no server, list, watch or component."""

import asyncio
from typing import Any

import orjson
import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.authorization import rbac
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.client import Informer, LeaderElector
from rayplane.control_plane.controllers.config import ControllersConfig
from rayplane.control_plane.controllers.manager.manager import ControllerManager
from rayplane.control_plane.scheduler.config import SchedulerConfig
from rayplane.control_plane.scheduler.service import Scheduler
from rayplane.control_plane.timings import ElectionTiming
from tests.apiserver.conftest import Stack, make_env

RESOURCES = [
    i
    for i in builtin_registry().all()
    if i.persisted and i.is_storage_version and i.name not in ("events.events.k8s.io", "componentstatuses")
]


def odd_values(kind: str, version: str, name: str, namespace: str) -> list[bytes]:
    """By number, so that the names of their keys can be told apart."""
    space = f',"namespace":"{namespace}"' if namespace else ""
    head = f'{{"kind":"{kind}","apiVersion":"{version}","metadata":{{"name":"{name}"{space}'.encode()
    return [
        b"",
        b"\xff\x00garbage",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"metadata":"resourceVersion"}',
        b'{"metadata":{"name":"another"}}',
        head,
        head + b"}",
        head + b',"labels":["x"]}}',
        head + b',"labels":{"a":1}}}',
        head + b',"ownerReferences":{}}}',
        head + b'},"spec":[]}',
        head + b'},"status":"x"}',
        b"k8s\x00protobuf",
        b"[" * 5000,
    ]


def shaped_oddly(kind: str, version: str, meta: dict[str, Any]) -> bytes:
    """An object of its place whose parts are all of the wrong kind."""
    part: dict[str, Any] = {f: [1, None, {"x": 2}, "y"] for f in _FIELDS}
    spec = {f: value for f in _FIELDS for value in ({"a": [None]},)}
    o = {"kind": kind, "apiVersion": version, "metadata": meta, **part, "spec": spec, "status": spec}
    return orjson.dumps(o)


_FIELDS = [
    "rules",
    "subjects",
    "roleRef",
    "aggregationRule",
    "data",
    "involvedObject",
    "endpoints",
    "subsets",
    "ports",
    "addressType",
    "webhooks",
    "value",
    "containers",
    "nodeName",
    "replicas",
    "selector",
    "template",
    "conditions",
    "podCIDR",
    "taints",
    "capacity",
    "allocatable",
    "names",
    "group",
    "versions",
    "scope",
    "clusterIP",
    "clusterIPs",
    "type",
    "hard",
    "used",
    "limits",
    "volumeName",
    "claimRef",
    "storageClassName",
    "accessModes",
    "resources",
    "holderIdentity",
    "renewTime",
    "leaseDurationSeconds",
    "leaseTransitions",
    "schedule",
    "jobTemplate",
    "completions",
    "parallelism",
    "finalizers",
    "phase",
    "podIP",
    "tolerations",
    "affinity",
    "topologySpreadConstraints",
    "volumes",
    "provisioner",
    "parameters",
]


async def fill(stack: Stack) -> None:
    for info in RESOURCES:
        namespace = "default" if info.namespaced else ""
        for n, value in enumerate(odd_values(info.kind, info.stored_api_version, "NAME", namespace)):
            key = info.key(namespace, f"odd-{n}")
            await stack.etcd.put(key.encode(), value.replace(b"NAME", f"odd-{n}".encode()))
        if info.name in ("resourcequotas", "limitranges"):
            namespace = "odd"  # where they are, nothing is made any more
        meta = {"name": "shaped", "uid": f"u-{info.name}", **({"namespace": namespace} if namespace else {})}
        await stack.etcd.put(
            info.key(namespace, "shaped").encode(), shaped_oddly(info.kind, info.stored_api_version, meta)
        )
        await stack.etcd.put(info.storage_prefix.encode() + b"\xff\xfe", b"{}")
        await stack.etcd.put(info.storage_prefix.encode() + b"a/b/c/d", b"{}")
    await stack.etcd.put(b"/registry/masterleases/10.0.0.1", b"k8s\x00protobuf")
    await stack.etcd.put(b"/registry/masterleases/odd", b'{"grpc":5,"https":null}')
    await stack.etcd.put(b"/registry/no.such.group/things/x", b"{}")
    await stack.etcd.put(b"/registry/", b"{}")


def config_map(name: str) -> dict:
    return {"metadata": {"name": name, "namespace": "default"}}


@pytest.mark.parametrize("before", [True, False], ids=["before the start", "while it runs"])
async def test_a_server_starts_and_serves_beside_what_is_no_object(before: bool) -> None:
    stack = Stack()
    if before:
        await fill(stack)
    async with asyncio.timeout(60):
        server = await stack.add_server()
        client = stack.client()
        informers = [Informer(client, i.name) for i in RESOURCES]
        if not before:
            for informer in informers:
                informer.start()
                await informer.synced()
            await fill(stack)
        await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
        await client.create("configmaps", config_map("good"))
        if before:
            for informer in informers:
                informer.start()
        for informer in informers:
            await informer.synced()
            names = {o["metadata"]["name"] for o in (await client.list(informer.resource)).items}
            assert not [n for n in names if n.startswith("odd-")], informer.resource
        by_name = {i.resource: i for i in informers}
        while by_name["configmaps"].get("default", "good") is None:
            await asyncio.sleep(0.01)
        # Whoever asks for one of them hears what is the matter, and can make room.
        with pytest.raises(errors.InternalError, match="is no object"):
            await client.get("configmaps", "odd-1", "default")
        with pytest.raises(errors.AlreadyExists):
            await client.create("configmaps", config_map("odd-1"))
        await client.delete("configmaps", "odd-1", "default")
        await client.create("configmaps", config_map("odd-1"))
        attributes = rbac.Attributes(user="x", groups=["g"], verb="get", group="", resource="pods", namespace="default")
        assert not (await server.registry.authorizer.decide(attributes)).allowed
        assert [s.name for s in server._keeper.servers()] == ["apiserver-0"]
        for informer in informers:
            assert informer._task is not None and not informer._task.done()
            await informer.stop()
    await stack.stop()


async def test_definitions_that_make_no_sense_are_not_served_and_the_others_are() -> None:
    stack = Stack()
    odd: list[Any] = [
        {"type": "object", "properties": {"spec": {"type": "string", "pattern": "(("}}},
        {"type": "object", "properties": [1]},
        {"type": "object", "properties": {"x": None}},
        {"type": "object", "items": {"type": "array"}, "required": 5, "enum": "x"},
        {"$ref": "#/x"},
        {"type": 5},
        "text",
        {"type": "object"},
    ]
    for n, schema in enumerate(odd):
        plural = f"kind{n}"
        names = {"plural": plural, "kind": plural.title(), "singular": plural, "listKind": f"{plural}List"}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        spec = {"group": "x.io", "names": names, "scope": "Namespaced", "versions": [version]}
        meta = {"name": f"{plural}.x.io", "uid": plural}
        crd = {"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": meta}
        key = f"/registry/apiextensions.k8s.io/customresourcedefinitions/{plural}.x.io"
        status = {"conditions": [{"type": "Established", "status": "True"}]}
        await stack.etcd.put(key.encode(), orjson.dumps({**crd, "spec": spec, "status": status}))
    async with asyncio.timeout(60):
        await stack.add_server()
        client = stack.client()
        await client.create("kind7.x.io", {"metadata": {"name": "good", "namespace": "default"}})
        assert len((await client.list("kind7.x.io")).items) == 1
    await stack.stop()


async def test_controllers_and_scheduler_work_beside_odd_objects() -> None:
    stack = Stack()
    await fill(stack)
    async with asyncio.timeout(60):
        server = await stack.add_server()
        client = stack.client()
        config = ControllersConfig(identity="c", api_endpoints=(server.grpc_address,))
        manager = ControllerManager(config, make_env(7), stack.network)
        scheduler = Scheduler(
            SchedulerConfig(identity="s", api_endpoints=(server.grpc_address,)), make_env(8), stack.network
        )
        await manager.start()
        await scheduler.start()
        node = {
            "metadata": {"name": "n"},
            "status": {
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "100"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        await client.create("nodes", node)
        labels = {"app": "web"}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
        while True:
            try:
                await client.create(
                    "deployments.apps", {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}
                )
                break
            except errors.Forbidden:
                await asyncio.sleep(0.05)  # no service account yet
        while True:
            pods = (await client.list("pods", "default", label_selector="app=web")).items
            if len(pods) == 2 and all(p["spec"].get("nodeName") == "n" for p in pods):
                break
            await asyncio.sleep(0.05)
        await scheduler.stop()
        await manager.stop()
    await stack.stop()


@pytest.mark.parametrize("value", odd_values("Lease", "coordination.k8s.io/v1", "x", "kube-system"))
async def test_a_leader_is_found_whatever_stands_in_its_lease(stack: Stack, value: bytes) -> None:
    await _leads(stack, value)


async def test_a_leader_is_found_when_its_lease_has_odd_fields(stack: Stack) -> None:
    meta = {"name": "x", "namespace": "kube-system", "uid": "u"}
    spec = {"holderIdentity": "other", "leaseDurationSeconds": "x", "leaseTransitions": [], "renewTime": 5}
    lease = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": meta, "spec": spec}
    await _leads(stack, orjson.dumps(lease))


async def _leads(stack: Stack, value: bytes) -> None:
    await stack.etcd.put(b"/registry/leases/kube-system/x", value)
    leads = asyncio.Event()

    async def lead() -> None:
        leads.set()
        await asyncio.get_running_loop().create_future()

    timing = ElectionTiming(0.3, 0.2, 0.05)
    elector = LeaderElector(stack.client(), make_env(3), name="x", identity="me", timing=timing)
    elector.start(lead)
    async with asyncio.timeout(60):
        await leads.wait()
    await elector.stop()


async def test_a_server_starts_without_what_it_may_not_make() -> None:
    """A quota on the namespace of its bootstrap objects, and another service at its address."""
    stack = Stack()
    await stack.add_server()
    client = stack.client()
    service = await client.get("services", "kubernetes", "default")
    await stack.etcd.delete(b"/registry/services/specs/default/kubernetes")
    other = {**service, "metadata": {"name": "other", "namespace": "default", "uid": "o"}}
    other = {"kind": "Service", "apiVersion": "v1", **other}
    await stack.etcd.put(b"/registry/services/specs/default/other", orjson.dumps(other))
    async with asyncio.timeout(60):
        await stack.add_server()
        assert (await stack.client(1).get("services", "other", "default"))["metadata"]["name"] == "other"
    await stack.stop()
