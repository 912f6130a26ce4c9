"""Endpoints and EndpointSlices: who is listed, as what, in which ports, with how few writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.controllers.endpoints import MOST_ADDRESSES, EndpointsController
from rayplane.control_plane.controllers.endpointslice import EndpointSliceController
from rayplane.control_plane.controllers.slice_packing import SLICES
from tests.controllers.cluster import Cluster
from tests.tiers import examples


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(EndpointsController(), EndpointSliceController())
    found.node("n1", metadata={"labels": {"topology.kubernetes.io/zone": "z1"}})
    return found


def service(cluster: Cluster, **spec: Any) -> Object:
    fields = {
        "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}],
        **spec,
    }
    return cluster.add("services", "web", metadata={"labels": {"team": "a"}}, spec=fields)


def pod(cluster: Cluster, name: str, *, ip: str, ready: bool = True, port: int = 8080, **spec: Any) -> Object:
    container = {"name": "c", "ports": [{"name": "web", "containerPort": port}]}
    made = cluster.add(
        "pods",
        name,
        metadata={"labels": {"app": "web"}},
        spec={"nodeName": "n1", "containers": [container], **spec},
    )
    return cluster.set_pod(made, ready=ready, ip=ip)


def subsets(cluster: Cluster) -> list[dict[str, Any]]:
    found = cluster.get("endpoints", "default", "web")
    assert found is not None
    return list(found["subsets"])


def conditions(cluster: Cluster) -> dict[str, tuple[bool, bool, bool]]:
    """Pod -> (ready, serving, terminating) over all slices."""
    return {
        e["targetRef"]["name"]: tuple(e["conditions"][c] for c in ("ready", "serving", "terminating"))
        for s in cluster.list(SLICES)
        for e in s["endpoints"]
    }


def test_ready_waiting_and_leaving_pods(cluster: Cluster) -> None:
    service(cluster)
    pod(cluster, "a", ip="10.0.0.1")
    pod(cluster, "b", ip="10.0.0.2", ready=False)
    leaving = pod(cluster, "c", ip="10.0.0.3")
    done = pod(cluster, "d", ip="10.0.0.4")
    cluster.set_pod(done, ready=False, phase="Succeeded")
    cluster.delete_object("pods", leaving)
    cluster.settle()
    (subset,) = subsets(cluster)
    assert [a["ip"] for a in subset["addresses"]] == ["10.0.0.1"]
    assert subset["addresses"][0]["nodeName"] == "n1"
    assert subset["addresses"][0]["targetRef"]["name"] == "a"
    assert [a["ip"] for a in subset["notReadyAddresses"]] == ["10.0.0.2"]
    assert subset["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert conditions(cluster) == {
        "a": (True, True, False),
        "b": (False, False, False),
        "c": (False, True, True),
    }
    (found,) = cluster.list(SLICES)
    assert meta.labels(found) == {
        "team": "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert found["addressType"] == "IPv4"
    assert found["endpoints"][0]["zone"] == "z1"
    assert meta.controller_of(found)["name"] == "web"  # type: ignore[index]


def test_publish_not_ready_addresses(cluster: Cluster) -> None:
    service(cluster, publishNotReadyAddresses=True)
    pod(cluster, "a", ip="10.0.0.1", ready=False)
    cluster.settle()
    assert "notReadyAddresses" not in subsets(cluster)[0]
    assert conditions(cluster) == {"a": (True, False, False)}


def test_headless_service_names_hosts_of_its_statefulset(cluster: Cluster) -> None:
    service(cluster, clusterIP="None", ports=[])
    pod(cluster, "db-0", ip="10.0.0.1", hostname="db-0", subdomain="web")
    pod(cluster, "other", ip="10.0.0.2", hostname="x", subdomain="elsewhere")
    cluster.settle()
    addresses = subsets(cluster)[0]["addresses"]
    assert [a.get("hostname") for a in addresses] == ["db-0", None]
    (found,) = cluster.list(SLICES)
    assert meta.labels(found)["service.kubernetes.io/headless"] == ""
    assert [e.get("hostname") for e in found["endpoints"]] == ["db-0", None]


def test_named_ports_may_differ_from_pod_to_pod(cluster: Cluster) -> None:
    service(cluster)
    pod(cluster, "a", ip="10.0.0.1", port=8080)
    pod(cluster, "b", ip="10.0.0.2", port=9090)
    cluster.settle()
    found = {s["ports"][0]["port"]: [a["ip"] for a in s["addresses"]] for s in subsets(cluster)}
    assert found == {8080: ["10.0.0.1"], 9090: ["10.0.0.2"]}
    assert sorted(s["ports"][0]["port"] for s in cluster.list(SLICES)) == [8080, 9090]


def test_service_without_pods_has_empty_endpoints_and_one_empty_slice(cluster: Cluster) -> None:
    service(cluster)
    cluster.settle()
    assert subsets(cluster) == []
    (found,) = cluster.list(SLICES)
    assert found["endpoints"] == []
    pod(cluster, "a", ip="10.0.0.1")
    cluster.settle()
    assert [len(s["endpoints"]) for s in cluster.list(SLICES)] == [1]


def test_deleted_service_takes_its_endpoints_along(cluster: Cluster) -> None:
    made = service(cluster)
    pod(cluster, "a", ip="10.0.0.1")
    cluster.settle()
    cluster.delete_object("services", made)
    cluster.settle()
    assert (cluster.list("endpoints"), cluster.list(SLICES)) == ([], [])


def test_endpoints_that_users_wrote_go_with_the_service_they_were_for(cluster: Cluster) -> None:
    made = cluster.add("services", "web", spec={"ports": [{"port": 80}]})
    written = [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}]
    cluster.add("endpoints", "web", subsets=written)
    cluster.add("endpoints", "of-nobody", subsets=written)
    election = {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}
    lock = cluster.add("services", "lock", spec={"ports": [{"port": 80}]})
    cluster.add("endpoints", "lock", metadata=election)
    cluster.settle()
    assert subsets(cluster) == written
    for one in (made, lock):
        cluster.delete_object("services", one)
    cluster.settle()
    assert sorted(map(meta.name, cluster.list("endpoints"))) == ["lock", "of-nobody"]


def test_endpoints_are_cut_at_a_thousand_addresses_ready_ones_first(cluster: Cluster) -> None:
    service(cluster)
    for n in range(MOST_ADDRESSES + 2):
        pod(cluster, f"p{n:04d}", ip=f"10.0.{n // 200}.{n % 200 + 1}", ready=n > 0)
    cluster.settle()
    found = cluster.get("endpoints", "default", "web")
    assert found is not None
    assert meta.annotations(found) == {"endpoints.kubernetes.io/over-capacity": "truncated"}
    (subset,) = found["subsets"]
    assert len(subset["addresses"]) == MOST_ADDRESSES
    assert "notReadyAddresses" not in subset
    for name in ("p0001", "p0002"):
        gone = cluster.get("pods", "default", name)
        assert gone
        cluster.remove_object("pods", gone)
    cluster.settle()
    found = cluster.get("endpoints", "default", "web")
    assert found is not None
    assert not meta.annotations(found)
    assert [a["targetRef"]["name"] for a in found["subsets"][0]["notReadyAddresses"]] == ["p0000"]


@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["up", "down", "leave", "gone"])), max_size=25))
@settings(max_examples=examples(40), deadline=None)
def test_slices_and_endpoints_always_agree_with_pods(changes: list[tuple[int, str]]) -> None:
    cluster = Cluster(EndpointsController(), EndpointSliceController())
    cluster.node("n1")
    service(cluster)
    for n, what in changes:
        name = f"p{n}"
        known = cluster.get("pods", "default", name)
        if known is None:
            known = pod(cluster, name, ip=f"10.0.0.{n}", ready=False)
        if what == "gone":
            cluster.remove_object("pods", known)
        elif what == "leave":
            cluster.delete_object("pods", known)
        else:
            cluster.set_pod(known, ready=what == "up")
        if n % 2:
            cluster.settle()
    cluster.settle()
    expected = {
        meta.name(p): (pod_is_ready(p) and not meta.is_deleting(p), pod_is_ready(p), meta.is_deleting(p))
        for p in cluster.list("pods")
    }
    assert conditions(cluster) == expected
    ready = sorted(a["targetRef"]["name"] for s in subsets(cluster) for a in s.get("addresses", ()))
    assert ready == sorted(name for name, (is_ready, _, _) in expected.items() if is_ready)
