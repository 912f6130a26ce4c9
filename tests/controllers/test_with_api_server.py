"""The controller manager against a real API server: what pure tests cannot see (validation, defaults, versions)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest_asyncio

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Conflict, NotFound, ServiceUnavailable, Timeout, TooManyRequests
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_ready, pod_phase
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.controllers.config import ControllersConfig, Timing
from rayplane.control_plane.controllers.manager.manager import ControllerManager
from rayplane.control_plane.controllers.service_loadbalancer import CLEANUP
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.control_plane.timings import NodeLeases
from rayplane.proto.csi import csi_pb2 as csi
from tests.apiserver.conftest import Stack, make_env
from tests.rpc.open_service import open_service

CONTAINERS = [{"name": "c", "image": "web:1", "ports": [{"name": "http", "containerPort": 80}]}]
TIMING = Timing(
    # Of nodes nothing is wanted but that they are there: a kubelet that is late on a busy machine loses none.
    NodeLeases(renew_s=0.1, duration_s=60, monitor_s=0.1, grace_s=60, toleration_s=60, force_delete_s=0.2, fence_s=60),
    pod_gc_s=0.2,
)


class Host:
    """The CSI controller of a node host."""

    def __init__(self) -> None:
        self.volumes: set[str] = set()

    async def CreateVolume(self, request: Any, context: Any) -> Any:
        assert context.metadata["csi-node"] == "n1"
        self.volumes.add(request.name)
        return csi.CreateVolumeResponse(volume=csi.Volume(volume_id=request.name))

    async def DeleteVolume(self, request: Any, context: Any) -> Any:
        self.volumes.discard(request.volume_id)
        return csi.DeleteVolumeResponse()


class Cluster:
    def __init__(self, stack: Stack) -> None:
        self.stack, self.client = stack, stack.client()
        self.host = Host()
        self._kubelet: asyncio.Task[None] | None = None
        self.managers: list[ControllerManager] = []

    async def start(self) -> None:
        service = open_service(csi.DESCRIPTOR.services_by_name["Controller"], self.host)
        await self.stack.network.serve("host-0:9000", [service])
        self.manager("a")
        await self.managers[0].start()
        for name in ("n1", "n2"):
            notes = {"rayplane.io/host-address": "host-0:9000", "rayplane.io/volume-capacity": "10Gi"}
            node = {"metadata": {"name": name, "annotations": notes if name == "n1" else {}}}
            await self.client.create("nodes", node)
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
            body = {"status": {"conditions": [ready]}}
            await self.client.patch("nodes", name, "", body, subresource="status")
            await self.client.create("leases.coordination.k8s.io", self._lease(name, 0))
        self._kubelet = asyncio.create_task(self._run_kubelet())

    def manager(self, identity: str) -> ControllerManager:
        config = ControllersConfig(
            identity=identity,
            api_endpoints=(self.stack.servers[0].grpc_address,),
            timing=TIMING,
            ca_certificate="PEM",
        )
        made = ControllerManager(config, make_env(7 + len(self.managers)), self.stack.network)
        self.managers.append(made)
        return made

    async def stop(self) -> None:
        if self._kubelet:
            await cancel_and_wait(self._kubelet)
        for manager in self.managers:
            await manager.stop()

    def _lease(self, node: str, beat: int) -> Object:
        return {
            "metadata": {"name": node, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": node, "renewTime": f"2026-01-01T00:00:{beat % 60:02d}.{beat:06d}Z"},
        }

    async def _run_kubelet(self) -> None:
        """Bind, start and stop pods; keep the nodes alive."""
        beat = 0
        while True:
            beat += 1
            for name in ("n1", "n2"):
                await self.client.patch(
                    "leases.coordination.k8s.io", name, "kube-node-lease", {"spec": self._lease(name, beat)["spec"]}
                )
            for number, pod in enumerate((await self.client.list("pods")).items):
                # It changed or went meanwhile, or the server had no time.
                with contextlib.suppress(NotFound, Conflict, ServiceUnavailable, Timeout, TooManyRequests):
                    await self._advance(pod, number)
            await asyncio.sleep(0.05)

    async def _advance(self, pod: Object, number: int) -> None:
        name, space = meta.name(pod), meta.namespace(pod)
        if meta.is_deleting(pod):
            await self.client.delete("pods", name, space, grace_period_s=0)
        elif not meta.node_name(pod):
            target = {"kind": "Node", "name": "n1"}
            binding = {"metadata": {"name": name, "namespace": space}, "target": target}
            await self.client.create("pods", binding, subresource="binding")
        elif not pod_is_ready(pod):
            status = {
                "phase": "Running",
                "podIP": f"127.64.0.{number + 2}",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }
            await self.client.patch("pods", name, space, {"status": status}, subresource="status")

    async def until(self, true: Callable[[], Awaitable[Any]]) -> None:
        async with asyncio.timeout(60):
            while not await true():
                if self._kubelet is not None and self._kubelet.done():
                    self._kubelet.result()
                await asyncio.sleep(0.03)

    async def find(self, resource: str, name: str, namespace: str = "default") -> Object:
        found = [o for o in (await self.client.list(resource, namespace)).items if meta.name(o) == name]
        return found[0] if found else {}


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[Cluster]:
    stack = Stack()
    await stack.add_server()
    made = Cluster(stack)
    await made.start()
    yield made
    await made.stop()
    await stack.stop()


def deployment(replicas: int = 3, image: str = "web:1") -> Object:
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{**CONTAINERS[0], "image": image}]},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}


async def test_deployment_service_rollout_and_removal(cluster: Cluster) -> None:
    client: ApiClient = cluster.client
    await client.create("deployments.apps", deployment())
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}], "type": "LoadBalancer"}
    await client.create("services", {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})

    async def complete() -> bool:
        found = await cluster.find("deployments.apps", "web")
        current = meta.get_condition(found, "Progressing") or {}
        return (
            meta.status(found).get("observedGeneration") == meta.generation(found)
            and meta.status(found).get("updatedReplicas") == 3 == meta.status(found).get("availableReplicas")
            and meta.status(found).get("replicas") == 3
            and current.get("reason") == "NewReplicaSetAvailable"
        )

    await cluster.until(complete)

    async def served() -> bool:
        endpoints = await cluster.find("endpoints", "web")
        slices = (await client.list("endpointslices.discovery.k8s.io", "default")).items
        ours = [s for s in slices if meta.labels(s).get("kubernetes.io/service-name") == "web"]
        service = await cluster.find("services", "web")
        addresses = [len(s.get("addresses", ())) for s in endpoints.get("subsets") or ()]
        external = (meta.status(service).get("loadBalancer") or {}).get("ingress")
        return addresses == [3] and [len(s["endpoints"]) for s in ours] == [3] and bool(external)

    await cluster.until(served)
    images = {"template": {"spec": {"containers": [{**CONTAINERS[0], "image": "web:2"}]}}}
    await client.patch("deployments.apps", "web", "default", {"spec": images})
    await cluster.until(complete)
    pods = (await client.list("pods", "default")).items
    assert {p["spec"]["containers"][0]["image"] for p in pods if pod_is_active(p)} == {"web:2"}
    sets = (await client.list("replicasets.apps", "default")).items
    assert sorted(s["spec"]["replicas"] for s in sets) == [0, 3]
    await client.delete("deployments.apps", "web", "default", propagation="Foreground")
    assert meta.finalizers(await client.get("services", "web", "default")) == [CLEANUP]
    await client.delete("services", "web", "default")

    async def gone() -> bool:
        resources = ("deployments.apps", "replicasets.apps", "pods", "services")
        left = [(await client.list(r, "default")).items for r in resources]
        return [[meta.name(o) for o in found] for found in left] == [[], [], [], ["kubernetes"]]

    await cluster.until(gone)

    async def told() -> bool:
        events = {e["reason"] for e in (await client.list("events", "default")).items}
        return {"ScalingReplicaSet", "SuccessfulCreate", "EnsuredLoadBalancer", "DeletedLoadBalancer"} <= events

    await cluster.until(told)


async def test_statefulset_with_volumes(cluster: Cluster) -> None:
    client = cluster.client
    storage = {"provisioner": "rayplane.io/local", "volumeBindingMode": "Immediate"}
    await client.create("storageclasses.storage.k8s.io", {"metadata": {"name": "quick"}, **storage})
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "quick",
            "resources": {"requests": {"storage": "5Gi"}},
        },
    }
    template = {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": CONTAINERS}}
    spec = {
        "replicas": 3,
        "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}},
        "template": template,
        "volumeClaimTemplates": [claim],
    }
    await client.create("statefulsets.apps", {"metadata": {"name": "db", "namespace": "default"}, "spec": spec})

    async def phases() -> list[str]:
        claims = (await client.list("persistentvolumeclaims", "default")).items
        return sorted(meta.status(c).get("phase", "") for c in claims)

    async def two_fit() -> bool:
        found = await cluster.find("statefulsets.apps", "db")
        return meta.status(found).get("readyReplicas") == 3 and await phases() == ["Bound", "Bound", "Pending"]

    await cluster.until(two_fit)  # the node has 10Gi, three claims ask for 15
    assert len(cluster.host.volumes) == 2
    await client.delete("statefulsets.apps", "db", "default")
    for n in range(3):
        await client.delete("persistentvolumeclaims", f"data-db-{n}", "default")

    async def nothing_left() -> bool:
        resources = ("pods", "persistentvolumeclaims", "controllerrevisions.apps")
        left = [(await client.list(r, "default")).items for r in resources]
        return left == [[], [], []] and not (await client.list("persistentvolumes")).items

    await cluster.until(nothing_left)
    assert cluster.host.volumes == set()


async def test_namespace_with_content_goes(cluster: Cluster) -> None:
    client = cluster.client
    await client.create("namespaces", {"metadata": {"name": "team"}})

    async def equipped() -> bool:
        return bool(
            await cluster.find("serviceaccounts", "default", "team")
            and await cluster.find("configmaps", "kube-root-ca.crt", "team")
        )

    await cluster.until(equipped)
    made = deployment()
    made["metadata"]["namespace"] = "team"
    await client.create("deployments.apps", made)

    async def running() -> bool:
        return len((await client.list("pods", "team")).items) == 3

    await cluster.until(running)
    await client.delete("namespaces", "team")

    async def gone() -> bool:
        return not await cluster.find("namespaces", "team", "")

    await cluster.until(gone)
    assert not (await client.list("pods", "team")).items


async def test_a_namespace_says_what_holds_it_back(cluster: Cluster) -> None:
    client = cluster.client
    await client.create("namespaces", {"metadata": {"name": "team", "labels": {"kubernetes.io/metadata.name": "x"}}})
    held = {"metadata": {"name": "held", "namespace": "team", "finalizers": ["example.com/wait"]}}
    await client.create("configmaps", held)
    await client.delete("namespaces", "team")

    async def told() -> bool:
        found = await client.get("namespaces", "team")
        assert meta.labels(found) == {"kubernetes.io/metadata.name": "team"}
        remaining = meta.get_condition(found, "NamespaceFinalizersRemaining") or {}
        return "example.com/wait in 1 resource instances" in remaining.get("message", "")

    await cluster.until(told)
    free = {"metadata": {"finalizers": None}}
    await client.patch("configmaps", "held", "team", free)

    async def gone() -> bool:
        return not await cluster.find("namespaces", "team", "")

    await cluster.until(gone)


async def test_job_and_nodes(cluster: Cluster) -> None:
    client = cluster.client
    template = {"spec": {"restartPolicy": "Never", "containers": CONTAINERS}}
    job = {"metadata": {"name": "j", "namespace": "default"}, "spec": {"completions": 2, "template": template}}
    await client.create("jobs.batch", job)

    async def complete() -> bool:
        for pod in (await client.list("pods", "default")).items:
            if pod_phase(pod) == "Running":
                body = {"status": {"phase": "Succeeded"}}
                await client.patch("pods", meta.name(pod), "default", body, subresource="status")
        return meta.condition_is(await cluster.find("jobs.batch", "j"), "Complete")

    await cluster.until(complete)

    async def have_networks() -> bool:
        cidrs = [meta.spec(n).get("podCIDR") for n in (await client.list("nodes")).items]
        return len(set(cidrs)) == 2 and None not in cidrs

    await cluster.until(have_networks)


async def test_another_manager_takes_over(cluster: Cluster) -> None:
    client = cluster.client
    second = cluster.manager("b")
    await second.start()

    async def leads() -> bool:
        return cluster.managers[0].is_leader

    await cluster.until(leads)
    assert not second.is_leader
    assert second.checks("readyz") == {"leaderElection": "", "shutdown": "", "informer-sync": ""}

    async def ready() -> bool:
        return not any(cluster.managers[0].checks("readyz").values())

    await cluster.until(ready)
    await cluster.managers[0].stop()
    assert cluster.managers[0].checks("readyz")["shutdown"] and not any(second.checks("readyz").values())
    await client.create("deployments.apps", deployment(2))

    async def running() -> bool:
        return second.is_leader and len((await client.list("pods", "default")).items) == 2

    await cluster.until(running)
