"""Zones share out endpoints by their CPUs: each gets its part, no endpoint is overloaded, or there are no hints."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.node_labels import ZONE
from rayplane.control_plane.controllers.endpointslice import EndpointSliceController
from rayplane.control_plane.controllers.slice_packing import SLICES
from rayplane.control_plane.controllers.zone_shares import is_overloaded
from tests.controllers.cluster import Cluster
from tests.tiers import examples

AUTO = {"service.kubernetes.io/topology-mode": "Auto"}


def add_node(cluster: Cluster, name: str, zone: str, cpu: str = "4", **labels: str) -> None:
    cluster.node(name, cpu=cpu, metadata={"labels": {**({ZONE: zone} if zone else {}), **labels}})


def add_pod(cluster: Cluster, name: str, node: str, *, ready: bool = True, ips: tuple[str, ...] = ()) -> None:
    spec = {"nodeName": node, "containers": [{"name": "c"}]}
    made = cluster.add("pods", name, metadata={"labels": {"app": "web"}}, spec=spec)
    made = cluster.set_pod(made, ready=ready, ip=ips[0] if ips else "")
    if ips:
        status = {**made["status"], "podIPs": [{"ip": ip} for ip in ips]}
        cluster.update("pods", {**made, "status": status}, subresource="status")


def cluster_of(cpus: dict[str, str], pods: dict[str, int], **spec: Any) -> Cluster:
    """A node in each zone, with pods on it, and a Service of them all."""
    found = Cluster(EndpointSliceController())
    for zone, cpu in cpus.items():
        add_node(found, f"n-{zone}", zone, cpu)
    for zone, count in pods.items():
        for n in range(count):
            add_pod(found, f"{zone}-{n}", f"n-{zone}")
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    own = {"selector": {"app": "web"}, "ports": ports, **spec}
    found.add("services", "web", metadata={"annotations": AUTO}, spec=own)
    found.settle()
    return found


def hints(cluster: Cluster, family: str = "IPv4") -> Counter[str]:
    slices = [s for s in cluster.list(SLICES) if s["addressType"] == family]
    endpoints = [e for s in slices for e in s.get("endpoints") or ()]
    return Counter(zone["name"] for e in endpoints for zone in (e.get("hints") or {}).get("forZones") or ())


def told(cluster: Cluster) -> list[tuple[str, str]]:
    """Reasons and texts, each once."""
    found = dict.fromkeys((reason.removeprefix("TopologyAwareHints"), text) for _, reason, text in cluster.events)
    cluster.events.clear()
    return [*found]


ENABLED = ("Enabled", "Topology Aware Hints has been enabled, addressType: IPv4")
SHARED = {
    "as they are": ({"a": "4", "b": "4"}, {"a": 2, "b": 2}, {"a": 2, "b": 2}),
    "one gives": ({"a": "4", "b": "4"}, {"a": 4}, {"a": 2, "b": 2}),
    "by size": ({"a": "2", "b": "4"}, {"a": 6}, {"a": 2, "b": 4}),
    "a little too many is left so": ({"a": "4", "b": "4"}, {"a": 4, "b": 3}, {"a": 4, "b": 3}),
    "a minimum, though it leaves another less than its part": ({"a": "4", "b": "1"}, {"a": 7}, {"a": 5, "b": 2}),
    "three": ({"a": "4", "b": "4", "c": "4"}, {"a": 9}, {"a": 3, "b": 3, "c": 3}),
    "millis": ({"a": "500m", "b": "1500m"}, {"a": 4, "b": 4}, {"a": 2, "b": 6}),
}


@pytest.mark.parametrize("case", SHARED)
def test_zones_get_their_share_of_endpoints(case: str) -> None:
    cpus, pods, expected = SHARED[case]
    cluster = cluster_of(cpus, pods)
    assert hints(cluster) == expected
    assert told(cluster) == [ENABLED]


NODES = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
UNSHARED = {
    "one zone": ({"a": "4"}, {"a": 4}, NODES),
    "no CPU": ({"a": "4", "b": ""}, {"a": 4}, NODES),
    "too few": ({"a": "4", "b": "4", "c": "4"}, {"a": 2}, "Insufficient number of endpoints (2 endpoints, 3 zones)"),
    "no room": (
        {"a": "4", "b": "4", "c": "4"},
        {"a": 4},
        "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold "
        "(4 endpoints, 3 zones)",
    ),
}


@pytest.mark.parametrize("case", UNSHARED)
def test_without_what_it_takes_there_are_no_hints_and_users_are_told_why(case: str) -> None:
    cpus, pods, why = UNSHARED[case]
    cluster = cluster_of(cpus, pods)
    assert hints(cluster) == {}
    assert told(cluster) == [("Disabled", f"{why}, addressType: IPv4")]


def test_nodes_that_do_not_count_are_left_out() -> None:
    cluster = cluster_of({"a": "4", "b": "4"}, {"a": 4})
    add_node(cluster, "master", "", **{"node-role.kubernetes.io/control-plane": ""})
    add_node(cluster, "sick", "c")
    node = cluster.require("nodes", "", "sick")
    sick = [{"type": "Ready", "status": "False"}]
    cluster.update("nodes", {**node, "status": {**node["status"], "conditions": sick}}, subresource="status")
    cluster.settle()
    assert hints(cluster) == {"a": 2, "b": 2}


def test_hints_go_with_the_annotation() -> None:
    cluster = cluster_of({"a": "4", "b": "4"}, {"a": 2, "b": 2})
    told(cluster)
    cluster.change("services", "web", metadata={"annotations": {next(iter(AUTO)): "Disabled"}})
    cluster.settle()
    assert hints(cluster) == {}
    assert told(cluster) == [("Disabled", "Topology Aware Hints has been disabled, addressType: IPv4")]


def test_an_endpoint_without_a_zone_leaves_all_without_hints() -> None:
    cluster = cluster_of({"a": "4", "b": "4"}, {"a": 3, "b": 3})
    add_node(cluster, "elsewhere", "", **{"node-role.kubernetes.io/master": ""})
    told(cluster)
    add_pod(cluster, "stray", "elsewhere")
    cluster.settle()
    assert hints(cluster) == {}
    why = "One or more endpoints do not have a zone specified, addressType: IPv4"
    assert told(cluster) == [("Disabled", why)]


def test_nodes_that_outgrow_the_hints_have_them_shared_out_anew_and_no_others_do() -> None:
    cluster = cluster_of({"a": "4", "b": "4"}, {"a": 4, "b": 4})
    version = [meta.resource_version(s) for s in cluster.list(SLICES)]
    add_node(cluster, "more-of-a", "a", "1")  # 5 of 9 want 5: 4 are not too few
    cluster.settle()
    assert [meta.resource_version(s) for s in cluster.list(SLICES)] == version
    add_node(cluster, "much-of-a", "a", "7")
    cluster.settle()
    assert hints(cluster) == {"a": 6, "b": 2}
    cluster.remove("nodes", "n-b")
    cluster.settle()
    assert hints(cluster) == {}


def test_each_address_family_has_hints_of_its_own() -> None:
    cluster = cluster_of({"a": "4", "b": "4"}, {}, ipFamilies=["IPv4", "IPv6"])
    for n in range(2):
        add_pod(cluster, f"both-{n}", "n-a", ips=(f"10.1.0.{n}", f"fd00::{n}"))
        add_pod(cluster, f"four-{n}", "n-b", ips=(f"10.1.1.{n}",))
    cluster.settle()
    assert (hints(cluster), hints(cluster, "IPv6")) == ({"a": 2, "b": 2}, {"a": 1, "b": 1})
    cluster.change("services", "web", spec={"ipFamilies": ["IPv4"]})
    cluster.settle()
    assert (hints(cluster), hints(cluster, "IPv6")) == ({"a": 2, "b": 2}, {})


@given(
    st.lists(st.sampled_from([0, 1, 2, 4, 9]), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40),
    st.lists(st.integers(0, 39), max_size=6),
)
@settings(max_examples=examples(60), deadline=None)
def test_no_zone_is_left_short_whatever_comes_and_goes(
    cpus: list[int], pods: list[tuple[int, bool]], killed: list[int]
) -> None:
    zones = {f"z{n}": str(cpu) for n, cpu in enumerate(cpus)}
    cluster = cluster_of({zone: cpu for zone, cpu in zones.items() if cpu != "0"}, {})
    shares = {zone: int(cpu) / sum(cpus) for zone, cpu in zones.items() if cpu != "0"}
    for n, (zone, ready) in enumerate(pods):
        if f"z{zone}" in shares:
            add_pod(cluster, f"p{n}", f"n-z{zone}", ready=ready)
            cluster.settle()
    for n in killed:
        if cluster.get("pods", "default", f"p{n}") is not None:
            cluster.remove("pods", f"default/p{n}")
            cluster.settle()
    found = hints(cluster)
    ready_ones = [e for s in cluster.list(SLICES) for e in s.get("endpoints") or () if e["conditions"]["ready"]]
    assert not found or (found.total() == len(ready_ones) and not is_overloaded(found, shares))
