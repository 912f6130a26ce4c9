"""Work that is done again and again does not grow with the cluster: how many objects controllers are handed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Patch
from rayplane.control_plane.controllers.config import Timing
from rayplane.control_plane.controllers.core import View
from rayplane.control_plane.controllers.nodeipam import NodeIpamController
from rayplane.control_plane.controllers.nodelifecycle import NodeLifecycleController
from rayplane.control_plane.controllers.podgc import KEY, PodGCController
from rayplane.control_plane.controllers.service_targets import services_of_pod
from tests.controllers.cluster import Cluster

SIZES = (4, 64)


class Counting:
    """A view that counts the objects it hands out, by resource."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.handed: Counter[str] = Counter()

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        return self._view.get(resource, namespace, name)

    def list(self, resource: str) -> Sequence[Object]:
        found = self._view.list(resource)
        self.handed[resource] += len(found)
        return found

    def indexed(self, resource: str, index: str, value: str) -> Sequence[Object]:
        found = self._view.indexed(resource, index, value)
        self.handed[resource] += len(found)
        return found

    def values(self, resource: str, index: str) -> Collection[str]:
        return self._view.values(resource, index)


@pytest.mark.parametrize("size", SIZES)
def test_of_many_services_those_of_a_pod_are_found_without_looking_at_all(size: int) -> None:
    cluster = Cluster()
    for number in range(size):
        cluster.add("services", f"s{number}", spec={"selector": {"app": f"a{number}"}})
    cluster.add("services", "tier", spec={"selector": {"tier": "web"}})
    cluster.add("services", "both", spec={"selector": {"tier": "web", "app": "a1"}})
    cluster.add("services", "more", spec={"selector": {"app": "a1", "track": "canary"}})
    cluster.add("services", "none", spec={})
    pod = cluster.add("pods", "p", metadata={"labels": {"tier": "web", "app": "a1"}}, spec={})
    view = Counting(cluster)
    assert sorted(services_of_pod(pod, view)) == ["default/both", "default/s1", "default/tier"]
    assert view.handed["services"] == 4


@pytest.mark.parametrize("size", SIZES)
def test_pods_that_run_are_not_looked_at_to_find_those_whose_node_is_gone(size: int) -> None:
    controller = PodGCController(Timing())
    cluster = Cluster(controller)
    cluster.node("n1")
    for number in range(size):
        cluster.set_pod(cluster.add("pods", f"p{number}", spec={"nodeName": "n1"}), ready=True)
    cluster.add("pods", "gone", spec={"nodeName": "n2"})
    view = Counting(cluster)
    controller.reconcile(KEY, view, cluster.now)
    assert view.handed == {"pods": 1}


@pytest.mark.parametrize("size", SIZES)
def test_nodes_are_counted_once_however_many_are_lost_in_one_moment(size: int) -> None:
    controller = NodeLifecycleController(Timing())
    cluster = Cluster(controller)
    for number in range(2 * size):
        cluster.node(f"n{number}")
    cluster.settle()
    lost = []
    for number in range(size):
        node = meta.copy_for_write(cluster.get("nodes", "", f"n{number}") or {})
        conditions = [{**meta.get_condition(node, "Ready"), "status": "False"}]  # type: ignore[dict-item]
        lost.append(cluster.put("nodes", {**node, "status": {**meta.status(node), "conditions": conditions}}))
    view = Counting(cluster)
    for node in lost:
        assert controller.reconcile(meta.name(node), view, cluster.now).actions
    assert view.handed["nodes"] == 2 * size


@pytest.mark.parametrize("size", SIZES)
def test_address_ranges_are_given_to_new_nodes_without_looking_at_the_others(size: int) -> None:
    controller = NodeIpamController(cluster_cidr="127.64.0.0/16", mask=24)
    cluster = Cluster(controller)
    for number in range(size):
        cluster.add("nodes", f"n{number}", spec={})
    cluster.settle()
    cluster.add("nodes", "new", spec={})
    view = Counting(cluster)
    assert [a.name for a in controller.reconcile("all", view, cluster.now).actions if isinstance(a, Patch)] == ["new"]
    assert view.handed == {"nodes": 1}
