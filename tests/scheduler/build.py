"""Short forms of nodes, pods, claims and volumes for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.scheduler import Cluster, Cycle, Failure, Placement, SchedulerConfig
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo, PodParser

PARSER = PodParser()


def node(
    name: str,
    *,
    cpu: str = "4",
    memory: str = "8Gi",
    pods: int = 110,
    labels: dict[str, str] | None = None,
    taints: list[dict[str, str]] | None = None,
    annotations: dict[str, str] | None = None,
    unschedulable: bool = False,
    extended: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, **(labels or {})},
            "annotations": annotations or {},
        },
        "spec": {"taints": taints or [], **({"unschedulable": True} if unschedulable else {})},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": str(pods), **(extended or {})},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(
    name: str,
    *,
    cpu: str = "",
    memory: str = "",
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    requests: dict[str, str] | None = None,
    claims: tuple[str, ...] = (),
    host_port: int = 0,
    scheduler: str = "default-scheduler",
    **spec: Any,
) -> dict[str, Any]:
    asked = {**({"cpu": cpu} if cpu else {}), **({"memory": memory} if memory else {}), **(requests or {})}
    container: dict[str, Any] = {"name": "c", "image": "i", "resources": {"requests": asked}}
    if host_port:
        container["ports"] = [{"containerPort": host_port, "hostPort": host_port}]
    volumes = [{"name": f"v{i}", "persistentVolumeClaim": {"claimName": c}} for i, c in enumerate(claims)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": labels or {}},
        "spec": {
            "containers": [container],
            "schedulerName": scheduler,
            "priority": 0,
            "volumes": volumes,
            **spec,
        },
    }


def claim(name: str, *, storage: str = "1Gi", of: str = "standard", volume: str = "", **annotations: str) -> dict:
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage}},
        "storageClassName": of,
    }
    if volume:
        spec["volumeName"] = volume
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "annotations": dict(annotations)},
        "spec": spec,
        "status": {"phase": "Bound" if volume else "Pending"},
    }


def volume(name: str, *, on: tuple[str, ...] = (), size: str = "1Gi", of: str = "standard") -> dict[str, Any]:
    spec: dict[str, Any] = {
        "capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": of,
    }
    if on:
        rule = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(on)}
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}}
    return {"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}}


def storage_class(name: str, *, wait: bool = True, provisioner: str = "rayplane.io/local", **more: Any) -> dict:
    mode = "WaitForFirstConsumer" if wait else "Immediate"
    return {"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode, **more}


class World:
    """A cycle over a snapshot, driven directly."""

    def __init__(self, *nodes: dict[str, Any], **config: Any) -> None:
        self.cluster = Cluster()
        self.snapshot, self.volumes = self.cluster.snapshot, self.cluster.volumes
        self.cycle = Cycle(SchedulerConfig(identity="test", **config), self.cluster)
        for one in nodes:
            self.snapshot.set_node(NodeInfo.of(one))

    def run(self, *pods: dict[str, Any]) -> dict[str, str]:
        """Pods that are on nodes already."""
        for one in pods:
            self.snapshot.set_pod(PARSER.parse(one))
        return {}

    def decide(self, one: dict[str, Any]) -> Placement | Failure:
        return self.cycle.schedule_one(PARSER.parse(one))

    def place(self, one: dict[str, Any]) -> str:
        """The node; fails the test when there is none."""
        decision = self.decide(one)
        assert isinstance(decision, Placement), decision.message
        return decision.node

    def fail(self, one: dict[str, Any]) -> str:
        """The message; fails the test when there is a node."""
        decision = self.decide(one)
        assert isinstance(decision, Failure), decision.node
        return decision.message


def on(where: str, one: dict[str, Any]) -> dict[str, Any]:
    """The pod, running on a node."""
    return {**one, "spec": {**one["spec"], "nodeName": where}}


def info(one: dict[str, Any]) -> PodInfo:
    return PARSER.parse(one)
