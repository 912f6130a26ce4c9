"""Disruption budgets: what their status says of pods with owners of every kind, and promises that nobody kept."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.kinds.policy.eviction import DISRUPTION_TARGET, count_disruption, mark_evicted
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.disruption import DisruptionController
from tests.controllers.cluster import Cluster

BUDGETS = "poddisruptionbudgets.policy"
LABELS = {"app": "web"}


class Guarded(Cluster):
    """A namespace with one budget over pods labelled app=web."""

    def __init__(self) -> None:
        super().__init__(DisruptionController())

    def budget(self, name: str = "b", **spec: Any) -> None:
        self.add(BUDGETS, name, spec={"selector": {"matchLabels": LABELS}, **spec})

    def owner(self, resource: str, replicas: int, name: str = "o", owner: Object | None = None) -> Object:
        refs = [meta.owner_reference(owner)] if owner else []
        return self.add(resource, name, metadata={"ownerReferences": refs}, spec={"replicas": replicas})

    def web(self, count: int, *, ready: int, owner: Object | None = None) -> None:
        """`count` pods of an owner, the first of which are `ready`."""
        refs = [meta.owner_reference(owner)] if owner else []
        known = len(self.list("pods"))
        for n in range(known, known + count):
            pod = self.add("pods", f"p{n}", metadata={"labels": LABELS, "ownerReferences": refs}, spec={})
            self.set_pod(pod, ready=n - known < ready)

    def status(self, name: str = "b") -> dict[str, Any]:
        self.settle()
        return dict(meta.status(self.require(BUDGETS, "default", name)))

    def counts(self) -> tuple[int, int, int, int]:
        found = self.status()
        return tuple(found[f] for f in ("currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"))

    def condition(self) -> tuple[str, str, str]:
        found = meta.get_condition(self.status()["conditions"], "DisruptionAllowed") or {}
        return found["status"], found["reason"], found["message"]

    def evict(self, name: str) -> None:
        """Let an eviction through as the API server does, and carry it out no further."""
        budget = meta.copy_for_write(self.require(BUDGETS, "default", "b"))
        count_disruption(budget, name, self.now.wall)
        self.update(BUDGETS, budget, subresource="status")
        pod = meta.copy_for_write(self.require("pods", "default", name))
        mark_evicted(pod, self.now.wall)
        self.update("pods", pod, subresource="status")


def define(cluster: Guarded, replicas: Any, *, scale: bool = True) -> Object:
    """A custom resource with a scale subresource (or none), one object of it (or none); the object."""
    paths = {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"scale": paths} if scale else {}}
    names = {"kind": "Band", "plural": "bands"}
    cluster.add(CRDS, "bands.music.io", spec={"group": "music.io", "names": names, "versions": [version]})
    made = {"metadata": {"name": "o", "namespace": "default", "uid": "u1"}, "kind": "Band", "apiVersion": "music.io/v1"}
    if replicas is not None:
        cluster.objects["bands.music.io"] = {"default/o": {**made, "spec": {"size": replicas}}}
    return made


# spec, replicas of the owner, pods, ready pods -> healthy, desired, expected, allowed
ARITHMETIC: dict[str, tuple[dict[str, Any], int, int, int, tuple[int, ...]]] = {
    "a number that is available": ({"minAvailable": 2}, 4, 4, 4, (4, 2, 4, 2)),
    "a number counts pods, not replicas": ({"minAvailable": 2}, 9, 3, 3, (3, 2, 3, 1)),
    "more than there are": ({"minAvailable": 7}, 4, 4, 4, (4, 7, 4, 0)),
    "percents of the owner's replicas": ({"minAvailable": "75%"}, 4, 4, 4, (4, 3, 4, 1)),
    "percents are rounded up": ({"minAvailable": "30%"}, 7, 7, 7, (7, 3, 7, 4)),
    "percents of replicas that are still to come": ({"minAvailable": "50%"}, 10, 4, 4, (4, 5, 10, 0)),
    "a number that is unavailable": ({"maxUnavailable": 1}, 3, 3, 3, (3, 2, 3, 1)),
    "unavailable percents round up too": ({"maxUnavailable": "10%"}, 5, 5, 5, (5, 4, 5, 1)),
    "more unavailable than there are": ({"maxUnavailable": 9}, 3, 3, 3, (3, 0, 3, 3)),
    "nothing may be unavailable": ({"maxUnavailable": 0}, 3, 3, 3, (3, 3, 3, 0)),
    "pods that are not ready": ({"maxUnavailable": 1}, 3, 3, 2, (2, 2, 3, 0)),
    "neither": ({}, 3, 3, 3, (3, 0, 0, 0)),
}


@pytest.mark.parametrize("case", ARITHMETIC)
def test_arithmetic(case: str) -> None:
    spec, replicas, pods, ready, wanted = ARITHMETIC[case]
    cluster = Guarded()
    cluster.budget(**spec)
    cluster.web(pods, ready=ready, owner=cluster.owner("statefulsets.apps", replicas))
    assert cluster.counts() == wanted
    allowed = wanted[-1] > 0
    assert cluster.condition() == (str(allowed), "SufficientPods" if allowed else "InsufficientPods", "")
    assert cluster.status()["observedGeneration"] == 1


@pytest.mark.parametrize("resource", ["replicationcontrollers", "replicasets.apps", "statefulsets.apps"])
def test_owners_with_a_scale(resource: str) -> None:
    cluster = Guarded()
    cluster.budget(maxUnavailable=1)
    cluster.web(2, ready=2, owner=cluster.owner(resource, 5))
    assert cluster.counts() == (2, 4, 5, 0)


def test_a_deployment_counts_once_for_all_its_sets() -> None:
    cluster = Guarded()
    cluster.budget(minAvailable="50%")
    deployment = cluster.owner("deployments.apps", 4)
    for name in ("old", "new"):
        cluster.web(2, ready=2, owner=cluster.owner("replicasets.apps", 3, name, deployment))
    assert cluster.counts() == (4, 2, 4, 2)


def test_the_scale_of_a_custom_resource() -> None:
    cluster = Guarded()
    cluster.budget(minAvailable="50%")
    cluster.web(4, ready=4, owner=define(cluster, 6))
    assert cluster.counts() == (4, 3, 6, 1)


FAILURES = {
    "a custom kind without scale": (
        lambda c: define(c, 3, scale=False), "bands.music.io does not implement the scale subresource"),
    "a custom owner with something else than a number": (
        lambda c: define(c, "abc"), ".spec.size accessor error: abc is of the type string, expected int64"),
    "a custom owner that is gone": (lambda c: define(c, None), 'found no controllers for pod "p0"'),
    "a kind without scale": (
        lambda c: {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "o", "uid": "u"}},
        "jobs.batch does not implement the scale subresource"),
    "a kind that nobody serves": (
        lambda c: {"apiVersion": "a.io/v1", "kind": "Odd", "metadata": {"name": "o", "uid": "u"}},
        'no matches for kind "Odd" in version "a.io/v1"'),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_counted_allows_nothing(case: str) -> None:
    make, why = FAILURES[case]
    cluster = Guarded()
    cluster.budget(maxUnavailable=1)
    cluster.web(2, ready=2, owner=make(cluster))
    assert cluster.condition() == ("False", "SyncFailed", why)
    assert cluster.status()["disruptionsAllowed"] == 0
    text = f"Failed to calculate the number of expected pods: {why}"
    assert ("b", "CalculateExpectedPodCountFailed", text) in cluster.events


def test_an_owner_that_is_seen_later_is_counted_then() -> None:
    cluster = Guarded()
    cluster.budget(maxUnavailable=1)
    owner = define(cluster, None)
    cluster.web(2, ready=2, owner=owner)
    assert cluster.condition()[1] == "SyncFailed"
    cluster.objects["bands.music.io"] = {"default/o": {**owner, "spec": {"size": 2}}}
    cluster.advance(20)
    assert cluster.counts() == (2, 1, 2, 1)
    assert cluster.condition() == ("True", "SufficientPods", "")


def test_pods_of_nobody() -> None:
    cluster = Guarded()
    cluster.budget(maxUnavailable=1)
    cluster.web(2, ready=2)
    assert cluster.counts() == (2, 0, 0, 0)
    ((_, reason, text),) = set(cluster.events)
    assert reason == "UnmanagedPods"
    selector = "&LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},}"
    assert f"(selector: {selector}) were found to be unmanaged." in text


def test_no_pods() -> None:
    cluster = Guarded()
    cluster.budget(minAvailable=1)
    assert cluster.counts() == (0, 1, 0, 0)
    assert set(cluster.events) == {("b", "NoPods", "No matching pods found")}


def test_an_eviction_that_was_let_through_counts_until_the_pod_is_gone() -> None:
    cluster = Guarded()
    cluster.budget(maxUnavailable=2)
    cluster.web(3, ready=3, owner=cluster.owner("statefulsets.apps", 3))
    assert cluster.counts() == (3, 1, 3, 2)
    cluster.evict("p0")
    assert cluster.counts() == (2, 1, 3, 1)
    assert list(cluster.status()["disruptedPods"]) == ["p0"]
    cluster.delete_object("pods", cluster.place(cluster.require("pods", "default", "p0")), grace_s=30)
    assert cluster.counts() == (2, 1, 3, 1)
    assert "disruptedPods" not in cluster.status()


def test_an_eviction_that_nobody_carries_out_is_forgotten() -> None:
    cluster = Guarded()
    cluster.budget(maxUnavailable=1)
    cluster.web(2, ready=2, owner=cluster.owner("statefulsets.apps", 2))
    cluster.settle()
    cluster.evict("p1")
    cluster.advance(119)
    assert cluster.counts() == (1, 1, 2, 0)
    cluster.advance(2)
    assert cluster.counts() == (2, 1, 2, 1)
    assert "disruptedPods" not in cluster.status()
    assert ("p1", "NotDeleted", "Pod was expected by PDB default/b to be deleted but it wasn't") in cluster.events
    promise = meta.get_condition(cluster.require("pods", "default", "p1"), DISRUPTION_TARGET)
    at = "2026-01-01T00:02:00Z"
    assert promise == {
        "type": DISRUPTION_TARGET, "status": "False", "observedGeneration": 1, "lastTransitionTime": at,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "phase", "after"),
    [("PreemptionByScheduler", "Running", "False"), ("TerminationByKubelet", "Running", "True"),
     ("PreemptionByScheduler", "Failed", "True")],
)  # fmt: skip
def test_whose_promises_grow_stale(reason: str, phase: str, after: str) -> None:
    cluster = Guarded()
    cluster.web(1, ready=1)
    target = {"type": DISRUPTION_TARGET, "status": "True", "reason": reason, "lastTransitionTime": cluster.now.stamp}
    cluster.change("pods", "p0", status={"phase": phase, "conditions": [target]})
    cluster.advance(121)
    assert meta.condition_is(cluster.require("pods", "default", "p0"), DISRUPTION_TARGET, after)


def test_several_budgets_of_a_pod() -> None:
    cluster = Guarded()
    for name in ("a", "b"):
        cluster.budget(name, minAvailable=1)
    cluster.web(2, ready=2)
    assert [cluster.status(name)["disruptionsAllowed"] for name in ("a", "b")] == [1, 1]
    text = 'Pod "default"/"p0" matches multiple PodDisruptionBudgets.  Chose "a" arbitrarily.'
    assert ("p0", "MultiplePodDisruptionBudgets", text) in cluster.events


def test_a_new_spec_is_observed_at_once() -> None:
    cluster = Guarded()
    cluster.budget(minAvailable=1)
    cluster.web(3, ready=3)
    assert cluster.counts() == (3, 1, 3, 2)
    cluster.change(BUDGETS, "b", spec={"minAvailable": 3})
    assert cluster.counts() == (3, 3, 3, 0)
    assert cluster.status()["observedGeneration"] == 2
    condition = meta.get_condition(cluster.status()["conditions"], "DisruptionAllowed")
    assert condition is not None and condition["observedGeneration"] == 2
