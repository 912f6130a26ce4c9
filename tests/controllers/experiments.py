"""Experiments of Chaos Mesh on a cluster in memory."""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import is_failed
from rayplane.control_plane.controllers.chaos.network_chaos import NetworkChaosController
from rayplane.control_plane.controllers.chaos.pod_chaos import PodChaosController
from rayplane.control_plane.controllers.chaos.schedule import ChaosScheduleController
from rayplane.control_plane.controllers.chaos.stress_chaos import StressChaosController
from rayplane.control_plane.controllers.chaos.workflow import ChaosWorkflowController
from rayplane.control_plane.controllers.core import Controller
from tests.controllers.cluster import Cluster

PODS, SCHEDULES = mesh.resource(mesh.POD_CHAOS), mesh.resource(mesh.SCHEDULE)
NETWORKS, STRESSES = mesh.resource(mesh.NETWORK_CHAOS), mesh.resource(mesh.STRESS_CHAOS)
WORKFLOWS = mesh.resource(mesh.WORKFLOW)


def controllers() -> tuple[Controller, ...]:
    """Those that carry experiments out, with all their kinds served."""
    found = (
        PodChaosController(),
        NetworkChaosController(),
        StressChaosController(),
        ChaosScheduleController(),
        ChaosWorkflowController(),
    )
    for one in found:
        for resource in (PODS, NETWORKS, STRESSES, SCHEDULES, WORKFLOWS):
            one.follow(resource, served=True)
    return found


def experiment(name: str = "e", **spec: Any) -> Object:
    """A PodChaos that kills one pod of the app `web`, unless `spec` says otherwise."""
    whole = {"action": "pod-kill", "mode": "one", "selector": {"labelSelectors": {"app": "web"}}, **spec}
    own = {"name": name, "namespace": "default"}
    return {"apiVersion": mesh.API_VERSION, "kind": mesh.POD_CHAOS, "metadata": own, "spec": whole}


class Experimented(Cluster):
    """Pods web-0 to web-3 of the app `web` on n1 and n2 by turns, db-0 of the app `db`, and who experiments on them."""

    kind = PODS
    """The resource of the experiments."""

    def __init__(self) -> None:
        super().__init__(*controllers())
        for n in range(4):
            self.pod(f"web-{n}", "web", node=f"n{n % 2 + 1}")
        self.pod("db-0", "db", node="n1")

    def pod(self, name: str, app: str, *, node: str, namespace: str = "default") -> Object:
        spec = {"nodeName": node, "containers": [{"name": "main", "image": "i"}, {"name": "side", "image": "i"}]}
        labels = {"app": app, "tier": "front" if app == "web" else "back"}
        made = self.add("pods", name, namespace=namespace, metadata={"labels": labels}, spec=spec)
        return self.set_pod(made, ready=True)

    def begin(self, name: str = "e", **spec: Any) -> None:
        self.create(PODS, experiment(name, **spec))
        self.settle()

    def pause(self, name: str = "e", *, value: str | None = "true") -> None:
        self.patch(self.kind, name, "default", {"metadata": {"annotations": {mesh.PAUSE: value}}})
        self.settle()

    def found(self, name: str = "e") -> Object:
        return self.require(self.kind, "default", name)

    def phases(self, name: str = "e") -> dict[str, str]:
        """How far each target is."""
        records = meta.status(self.found(name))["experiment"].get("containerRecords") or ()
        return {one["id"]: one["phase"] for one in records}

    def true(self, name: str = "e") -> set[str]:
        """The conditions that are true."""
        return {c["type"] for c in meta.status(self.found(name))["conditions"] if c["status"] == "True"}

    def alive(self) -> set[str]:
        return {meta.name(pod) for pod in self.list("pods") if not meta.is_deleting(pod)}

    def failed(self) -> set[str]:
        """Names of the pods that are kept from working."""
        return {meta.name(pod) for pod in self.list("pods") if is_failed(meta.annotations(pod))}
