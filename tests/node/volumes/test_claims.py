"""Claims of pods: real bytes that outlive pods, on one node and across nodes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.rpc import Stub
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.proto.csi import csi_pb2 as csi
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import logs, phase, shell

pytestmark = pytest.mark.processes

MakeHost = Callable[..., Awaitable[NodeHost]]
VOLUMES = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
MOUNT = {"volumeMounts": [{"name": "data", "mountPath": "/var/data"}]}


async def provision(api: FakeClient, host: NodeHost, node: str, driver: str) -> Object:
    """What the volume controllers do: make the bytes and the objects. Returns the claim, bound."""
    capability = csi.VolumeCapability(
        mount=csi.VolumeCapability.MountVolume(),
        access_mode=csi.VolumeCapability.AccessMode(mode=csi.VolumeCapability.AccessMode.SINGLE_NODE_MULTI_WRITER),
    )
    request = csi.CreateVolumeRequest(
        name="pvc-1", capacity_range=csi.CapacityRange(required_bytes=1 << 20), volume_capabilities=[capability]
    )
    stub = Stub(host.network.channel(host.advertised), csi.DESCRIPTOR.services_by_name["Controller"])
    made = await stub.CreateVolume(request, metadata={"csi-driver": driver, "csi-node": node})
    source = {"driver": driver, "volumeHandle": made.volume.volume_id}
    ref = {"namespace": "default", "name": "data", "uid": "claim-1"}
    api.put("persistentvolumes", {"metadata": {"name": "pv1"}, "spec": {"csi": source, "claimRef": ref}})
    claim = {"metadata": {"name": "data", "namespace": "default", "uid": "claim-1"}, "spec": {"volumeName": "pv1"}}
    return claim | {"status": {"phase": "Bound"}}


def user(name: str, script: str, node: str = "n1", **spec: Any) -> Object:
    return shell(name, script, node=node, container=MOUNT, volumes=VOLUMES, restartPolicy="Never", **spec)


async def test_a_local_volume_outlives_its_pods(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1", runtime="process"))
    claim = await provision(api, host, "n1", "rayplane.io/local")
    api.put("persistentvolumeclaims", claim)
    api.put("pods", user("writer", "echo kept > /var/data/file"))
    await api.until(lambda: phase(api, "writer") == "Succeeded")
    api.put("pods", user("reader", "cat /var/data/file"))
    await api.until(lambda: phase(api, "reader") == "Succeeded")
    assert await logs(host, "reader") == b"kept\n"


async def test_a_claim_that_says_so_gets_nobody_elses_volume(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1"))
    claim = await provision(api, host, "n1", "rayplane.io/local")
    thief = claim | {"metadata": {**claim["metadata"], "uid": "claim-2"}}
    api.put("persistentvolumeclaims", thief)
    api.put("pods", make_pod("web", volumes=VOLUMES, container=MOUNT))

    def failures() -> list[str]:
        return [e["message"] for e in api.objects.get("events", {}).values() if e["reason"] == "FailedMount"]

    await api.until(failures)
    assert 'volume "pv1" is bound to a different claim' in failures()[0]


async def test_a_pod_waits_until_its_claim_is_bound(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1"))
    claim = await provision(api, host, "n1", "rayplane.io/local")
    api.put("persistentvolumeclaims", claim | {"status": {"phase": "Pending"}})
    api.put("pods", make_pod("web", volumes=VOLUMES, container=MOUNT))

    def failures() -> list[str]:
        return [e["message"] for e in api.objects.get("events", {}).values() if e["reason"] == "FailedMount"]

    await api.until(failures)
    assert 'PersistentVolumeClaim is not bound: "data"' in failures()[0]
    assert phase(api, "web") == "Pending"
    api.put("persistentvolumeclaims", claim)
    await api.until(lambda: phase(api, "web") == "Running")


async def test_a_replicated_volume_follows_its_pod(api: FakeClient, make_host: MakeHost) -> None:
    hosts = {n: await make_host(NodeConfig(n, runtime="process"), proxy=False) for n in ("n1", "n2", "n3")}
    claim = await provision(api, hosts["n1"], "n1", "rayplane.io/replicated")
    api.put("persistentvolumeclaims", claim)
    api.put("pods", user("writer", "echo moved > /var/data/file; echo done; sleep 1000", node="n1"))
    await api.until(lambda: phase(api, "writer") == "Running")
    while await logs(hosts["n1"], "writer") != b"done\n":
        await asyncio.sleep(0.01)
    await api.delete("pods", "writer", "default", grace_period_s=1)
    await api.until(lambda: "default/writer" not in api.objects["pods"])
    api.put("pods", user("reader", "cat /var/data/file", node="n2"))
    await api.until(lambda: phase(api, "reader") == "Succeeded")
    host = hosts["n2"]
    worker = host.kubelet("n2").worker("default", "reader")
    assert [run async for run in worker.runs["main"].logs(_all())] == [b"moved\n"]
    record = api.objects["leases.coordination.k8s.io"]["kube-system/volume-pvc-1"]
    assert record["spec"]["leaseTransitions"] == 2


async def test_a_host_that_comes_back_releases_volumes_nobody_uses(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1", runtime="process"), proxy=False)
    claim = await provision(api, host, "n1", "rayplane.io/replicated")
    api.put("persistentvolumeclaims", claim)
    api.put("pods", user("writer", "sleep 1000"))

    def writer() -> Any:
        return api.objects["leases.coordination.k8s.io"]["kube-system/volume-pvc-1"]["spec"].get("holderIdentity")

    await api.until(lambda: phase(api, "writer") == "Running")
    assert writer() == "n1"
    await host.stop()
    # While the host is away the pod is removed by force.
    api.remove("pods", "default/writer")
    await make_host(NodeConfig("n1", runtime="process"), proxy=False)
    await api.until(lambda: writer() is None)


def _all() -> Any:
    from rayplane.node.runtime import LogOptions

    return LogOptions()
