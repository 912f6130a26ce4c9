"""Bugs that are planted in components are found by the invariants of the whole cluster, each by its own."""

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers import service_targets
from rayplane.control_plane.controllers.core import NOTHING
from rayplane.control_plane.controllers.garbagecollector import GarbageCollector
from rayplane.control_plane.controllers.resourcequota import ResourceQuotaController
from rayplane.control_plane.etcd.server.state_machine.lessor import Lessor
from rayplane.control_plane.scheduler.plugins.resources import NodeResourcesFit
from rayplane.control_plane.simulation import parse_scenario, simulate

pytestmark = pytest.mark.timeout(300)

CLUSTER = "{members: 1, apiservers: 1, schedulers: 1, controllers: 1, nodes: 1, timing: fast}"


def web(replicas: int, *, cpu: str = "10m", gates: str = "[]") -> str:
    return f"""
  - apiVersion: apps/v1
    kind: Deployment
    metadata: {{name: web, namespace: default}}
    spec:
      replicas: {replicas}
      selector: {{matchLabels: {{app: web}}}}
      template:
        metadata: {{labels: {{app: web}}}}
        spec:
          readinessGates: {gates}
          containers: [{{name: web, image: web, resources: {{requests: {{cpu: {cpu}}}}}}}]
"""


SERVICE = """
  - apiVersion: v1
    kind: Service
    metadata: {name: web, namespace: default}
    spec: {selector: {app: web}, ports: [{port: 80}]}
"""
QUOTA = """
  - apiVersion: v1
    kind: ResourceQuota
    metadata: {name: few, namespace: default}
    spec: {hard: {pods: "9"}}
"""


def failures_of(workload: str, steps: str = "") -> list[str]:
    text = f"duration: 12s\ncluster: {CLUSTER}\nworkload:{workload}\nsteps: [{{sleep: 6s}}{steps}]\n"
    return [*simulate(parse_scenario(text, source="planted"), 1).failures]


def leases_of() -> list[str]:
    client = "client: {write_every: 200ms}"
    text = f"duration: 20s\ncluster: {CLUSTER}\n{client}\nworkload: []\nsteps: [{{sleep: 15s}}]\n"
    return [*simulate(parse_scenario(text, source="leases"), 1).failures]


def nothing(self: Any, key: str, view: Any, now: Any) -> Any:
    return NOTHING


def test_without_a_bug_nothing_is_found() -> None:
    workload = QUOTA + web(3) + SERVICE
    assert failures_of(workload, ", {scale: {deployment: web, replicas: 1}}, {delete: {deployment: web}}") == []


@pytest.mark.turn(1, of=2)
def test_a_scheduler_that_does_not_count_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeResourcesFit, "allowed", lambda self, view, rows: None)
    monkeypatch.setattr(NodeResourcesFit, "allows", lambda self, view, row: True)
    assert any("no node over-committed" in found for found in failures_of(web(2, cpu="3")))


@pytest.mark.turn(0, of=2)
def test_endpoints_that_are_not_ready_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_targets, "pod_is_ready", lambda pod: True)
    workload = web(1, gates="[{conditionType: example.com/never}]") + SERVICE
    assert any("endpoints are ready pods" in found for found in failures_of(workload))


@pytest.mark.turn(0, of=2)
def test_leases_that_end_before_their_time_or_by_halves_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leases_of() == []
    with monkeypatch.context() as planted:
        planted.setattr(Lessor, "renew", lambda self, lease_id, now: self.get(lease_id).ttl_s)
        assert any("before its time" in found for found in leases_of())
    attach = Lessor.attach
    planted_attach = lambda self, key, lease_id: attach(self, key, 0 if key.endswith(b"b") else lease_id)  # noqa: E731
    monkeypatch.setattr(Lessor, "attach", planted_attach)
    assert any("illegal" in found and "gone" in found for found in leases_of())


@pytest.mark.turn(1, of=2)
def test_what_nobody_collects_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GarbageCollector, "reconcile", nothing)
    assert any("no orphans" in found for found in failures_of(web(1), ", {delete: {deployment: web}}"))


@pytest.mark.turn(0, of=2)
def test_a_quota_that_nobody_counts_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = ResourceQuotaController.reconcile

    def once(self: Any, key: str, view: Any, now: Any) -> Any:
        quota = view.get("resourcequotas", *meta.split_key(key))
        return NOTHING if quota is not None and meta.status(quota).get("hard") else counts(self, key, view, now)

    monkeypatch.setattr(ResourceQuotaController, "reconcile", once)
    found = failures_of(QUOTA + web(3), ", {scale: {deployment: web, replicas: 1}}")
    assert any("quotas exact" in one for one in found), found
