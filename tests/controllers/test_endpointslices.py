"""EndpointSlices: packing with few writes, families, hints, foreign slices; and mirrors of Endpoints."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.endpointslice import MOST_ENDPOINTS, EndpointSliceController
from rayplane.control_plane.controllers.endpointslicemirroring import MOST_ADDRESSES, EndpointSliceMirroringController
from rayplane.control_plane.controllers.slice_packing import SLICES, pack
from tests.controllers.cluster import Cluster
from tests.tiers import examples

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(EndpointSliceController(), EndpointSliceMirroringController())
    found.node("n1", metadata={"labels": {"topology.kubernetes.io/zone": "z1"}})
    found.node("n2")
    return found


def service(cluster: Cluster, **spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return cluster.add("services", "web", spec={"selector": {"app": "web"}, "ports": ports, **spec})


def pod(cluster: Cluster, n: int, *, node: str = "n1", ready: bool = True, ips: tuple[str, ...] = ()) -> Object:
    made = cluster.add(
        "pods", f"p{n:04d}", metadata={"labels": {"app": "web"}}, spec={"nodeName": node, "containers": [{"name": "c"}]}
    )
    made = cluster.set_pod(made, ready=ready, ip=ips[0] if ips else f"10.1.{n // 250}.{n % 250 + 1}")
    if len(ips) < 2:
        return made
    status = {**made["status"], "podIPs": [{"ip": ip} for ip in ips]}
    return cluster.update("pods", {**made, "status": status}, subresource="status")


def sizes(cluster: Cluster) -> list[int]:
    return sorted(len(s["endpoints"]) for s in cluster.list(SLICES))


def versions(cluster: Cluster) -> dict[str, str]:
    return {meta.name(s): meta.resource_version(s) for s in cluster.list(SLICES)}


def endpoints(cluster: Cluster) -> dict[str, Object]:
    return {e["targetRef"]["name"]: e for s in cluster.list(SLICES) for e in s["endpoints"]}


# --- packing ------------------------------------------------------------------------------------


def test_a_changed_pod_touches_one_slice_of_many(cluster: Cluster) -> None:
    service(cluster)
    for n in range(MOST_ENDPOINTS + 20):
        pod(cluster, n)
    cluster.settle()
    assert sizes(cluster) == [20, MOST_ENDPOINTS]
    before = versions(cluster)
    changed = cluster.get("pods", "default", "p0003")
    assert changed
    cluster.set_pod(changed, ready=False)
    cluster.settle()
    after = versions(cluster)
    assert sum(before[name] != after[name] for name in before) == 1


def test_new_pods_go_together_into_the_fullest_slice_with_room(cluster: Cluster) -> None:
    service(cluster)
    for n in range(2 * MOST_ENDPOINTS):
        pod(cluster, n)
    cluster.settle()
    first, second = sorted(cluster.list(SLICES), key=meta.name)
    for one, left in ((first, 60), (second, 90)):
        for endpoint in one["endpoints"][left:]:
            cluster.remove_object("pods", cluster.require("pods", "default", endpoint["targetRef"]["name"]))
    cluster.settle()
    assert sizes(cluster) == [60, 90]
    before = versions(cluster)
    for n in range(1000, 1020):
        pod(cluster, n)
    cluster.settle()
    assert sizes(cluster) == [80, 90]  # the one with 90 has no room for all of them
    assert [name for name in before if versions(cluster)[name] == before[name]] == [meta.name(second)]


def test_slices_are_reused_when_all_ports_change(cluster: Cluster) -> None:
    service(cluster)
    pod(cluster, 1)
    cluster.settle()
    (before,) = map(meta.uid, cluster.list(SLICES))
    cluster.change("services", "web", spec={"ports": [{"name": "http", "port": 81, "protocol": "TCP"}]})
    cluster.settle()
    (after,) = cluster.list(SLICES)
    assert meta.uid(after) == before
    assert [p["port"] for p in after["ports"]] == [81]


def test_the_last_pod_leaves_a_placeholder_that_is_left_alone(cluster: Cluster) -> None:
    service(cluster)
    made = pod(cluster, 1)
    cluster.settle()
    cluster.remove_object("pods", made)
    cluster.settle()
    (found,) = cluster.list(SLICES)
    assert (found["endpoints"], found["ports"]) == ([], [])
    version = cluster.version
    cluster.change("services", "web", metadata={"annotations": {"a": "b"}})
    cluster.settle()
    assert cluster.version == version + 1


@given(
    st.lists(st.sets(st.integers(0, 40), max_size=6), max_size=6),
    st.sets(st.integers(0, 40), max_size=30),
    st.integers(4, 9),
)
@settings(max_examples=examples(150), deadline=None)
def test_packing_holds_each_endpoint_once_and_moves_none(held: list[set[int]], wanted: set[int], most: int) -> None:
    seen: set[int] = set()
    slices: list[Object] = []
    for number, members in enumerate(held):
        own = sorted(members - seen)[:most]
        seen |= set(own)
        slices.append({"metadata": {"name": f"s{number}"}, "endpoints": [{"id": str(n)} for n in own]})
    packing = pack(
        slices,
        {str(n): {"id": str(n)} for n in wanted},
        identity=lambda e: str(e["id"]),
        is_stale=lambda _s: False,
        most=most,
    )
    contents = [members for _, members in packing.kept] + packing.fresh
    assert sorted(int(e["id"]) for members in contents for e in members) == sorted(wanted)
    assert all(0 < len(members) <= most for members in contents)
    for one, endpoints in packing.kept:
        stays = [e for e in one["endpoints"] if int(e["id"]) in wanted]
        assert endpoints[: len(stays)] == stays
    fresh = len(wanted - seen)
    assert len(packing.fresh) <= -(-fresh // most)


# --- what slices say ----------------------------------------------------------------------------


def test_each_family_of_a_service_has_slices_of_its_own(cluster: Cluster) -> None:
    service(cluster, ipFamilies=["IPv4", "IPv6"], clusterIP="10.96.0.1")
    pod(cluster, 1, ips=("10.0.0.1", "fd00::1"))
    pod(cluster, 2, ips=("10.0.0.2",))
    cluster.settle()
    found = {s["addressType"]: [e["addresses"] for e in s["endpoints"]] for s in cluster.list(SLICES)}
    assert found == {"IPv4": [["10.0.0.1"], ["10.0.0.2"]], "IPv6": [["fd00::1"]]}
    cluster.change("services", "web", spec={"ipFamilies": ["IPv4"]})
    cluster.settle()
    assert [s["addressType"] for s in cluster.list(SLICES)] == ["IPv4"]


def test_labels_follow_the_service_but_for_those_that_are_reserved(cluster: Cluster) -> None:
    service(cluster, clusterIP="None")
    pod(cluster, 1)
    reserved = {MANAGED_BY: "me", "kubernetes.io/service-name": "other", "team": "a"}
    cluster.change("services", "web", metadata={"labels": reserved})
    cluster.settle()
    (found,) = cluster.list(SLICES)
    expected = {"kubernetes.io/service-name": "web", MANAGED_BY: "endpointslice-controller.k8s.io"}
    assert meta.labels(found) == {**expected, "team": "a", "service.kubernetes.io/headless": ""}
    cluster.change("services", "web", metadata={"labels": {"team": None}})
    cluster.settle()
    (found,) = cluster.list(SLICES)
    assert meta.labels(found) == {**expected, "service.kubernetes.io/headless": ""}


def test_slices_of_others_are_never_touched(cluster: Cluster) -> None:
    made = service(cluster)
    labels = {"kubernetes.io/service-name": "web", MANAGED_BY: "me.example.com"}
    cluster.add(SLICES, "mine", metadata={"labels": labels}, addressType="IPv4", endpoints=[], ports=[])
    cluster.settle()
    cluster.delete_object("services", made)
    cluster.settle()
    assert [meta.name(s) for s in cluster.list(SLICES)] == ["mine"]


def test_slices_of_an_earlier_service_of_the_name_are_replaced(cluster: Cluster) -> None:
    labels = {"kubernetes.io/service-name": "web", MANAGED_BY: "endpointslice-controller.k8s.io"}
    owner = {"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "earlier"}
    service(cluster)
    cluster.add(
        SLICES, "old", metadata={"labels": labels, "ownerReferences": [owner]}, addressType="IPv4", endpoints=[]
    )
    cluster.settle()
    (found,) = cluster.list(SLICES)
    assert meta.name(found) != "old"


def test_pods_of_unknown_nodes_are_left_out_unless_unready_ones_are_published(cluster: Cluster) -> None:
    service(cluster)
    pod(cluster, 1, node="unknown")
    pod(cluster, 2)
    cluster.settle()
    assert list(endpoints(cluster)) == ["p0002"]
    cluster.node("unknown")
    cluster.advance(2)
    assert sorted(endpoints(cluster)) == ["p0001", "p0002"]
    pod(cluster, 3, node="nowhere")
    cluster.change("services", "web", spec={"publishNotReadyAddresses": True})
    cluster.settle()
    assert sorted(endpoints(cluster)) == ["p0001", "p0002", "p0003"]


def test_a_service_that_loses_its_selector_keeps_its_endpoints(cluster: Cluster) -> None:
    service(cluster)
    pod(cluster, 1)
    cluster.settle()
    cluster.change("services", "web", spec={"selector": None})
    pod(cluster, 2)
    cluster.settle()
    assert list(endpoints(cluster)) == ["p0001"]


@pytest.mark.parametrize(
    ("distribution", "mode", "hints"),
    [
        (None, "", None),
        ("PreferClose", "", {"forZones": [{"name": "z1"}]}),
        ("PreferSameZone", "", {"forZones": [{"name": "z1"}]}),
        ("PreferSameNode", "", {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}),
        ("PreferClose", "Disabled", {"forZones": [{"name": "z1"}]}),
        ("PreferClose", "Auto", None),
    ],
)
def test_traffic_distribution_puts_hints_on_ready_endpoints(
    cluster: Cluster, distribution: str | None, mode: str, hints: Object | None
) -> None:
    service(cluster)
    pod(cluster, 1)
    pod(cluster, 2, ready=False)
    cluster.settle()
    notes = {"service.kubernetes.io/topology-mode": mode} if mode else {}
    cluster.change("services", "web", metadata={"annotations": notes}, spec={"trafficDistribution": distribution})
    cluster.settle()
    assert {name: e.get("hints") for name, e in endpoints(cluster).items()} == {"p0001": hints, "p0002": None}
    cluster.change("services", "web", spec={"trafficDistribution": None})
    cluster.settle()
    assert not any("hints" in e for e in endpoints(cluster).values())


def test_an_endpoint_without_zone_has_only_a_hint_at_its_node(cluster: Cluster) -> None:
    service(cluster, trafficDistribution="PreferSameNode")
    pod(cluster, 1, node="n2")
    cluster.settle()
    assert endpoints(cluster)["p0001"]["hints"] == {"forNodes": [{"name": "n2"}]}


# --- mirrors ------------------------------------------------------------------------------------


def written(cluster: Cluster, *ips: str, waiting: tuple[str, ...] = (), **metadata: Any) -> Object:
    subset = {"addresses": [{"ip": ip} for ip in ips], "ports": [{"port": 80, "protocol": "TCP"}]}
    if waiting:
        subset["notReadyAddresses"] = [{"ip": ip} for ip in waiting]
    return cluster.add("endpoints", "web", metadata=metadata, subsets=[subset])


def mirrors(cluster: Cluster) -> dict[str, dict[str, bool]]:
    return {
        s["addressType"]: {e["addresses"][0]: e["conditions"]["ready"] for e in s["endpoints"]}
        for s in cluster.list(SLICES)
    }


def test_endpoints_are_mirrored_by_family_with_their_labels_and_notes(cluster: Cluster) -> None:
    service(cluster, selector=None)
    notes = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "why": "b"}
    made = written(cluster, "192.0.2.1", "2001:DB8::1", waiting=("192.0.2.2",), labels={"a": "b"}, annotations=notes)
    cluster.settle()
    assert mirrors(cluster) == {"IPv4": {"192.0.2.1": True, "192.0.2.2": False}, "IPv6": {"2001:db8::1": True}}
    for one in cluster.list(SLICES):
        expected = {"kubernetes.io/service-name": "web", MANAGED_BY: "endpointslicemirroring-controller.k8s.io"}
        assert meta.labels(one) == {"a": "b", **expected}
        assert meta.annotations(one) == {"why": "b"}
        owner = meta.controller_of(one)
        assert owner is not None
        assert (owner["kind"], owner["uid"]) == ("Endpoints", meta.uid(made))
    cluster.change("endpoints", "web", metadata={"annotations": {"why": "c"}})
    cluster.settle()
    assert [meta.annotations(one) for one in cluster.list(SLICES)] == [{"why": "c"}] * 2


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}},
    ],
)
def test_some_endpoints_are_not_mirrored(cluster: Cluster, metadata: Object) -> None:
    service(cluster, selector=None)
    written(cluster, "192.0.2.1")
    cluster.settle()
    assert mirrors(cluster)
    cluster.change("endpoints", "web", metadata=metadata)
    cluster.settle()
    assert not mirrors(cluster)


def test_mirrors_go_with_endpoints_with_the_service_and_with_its_lack_of_a_selector(cluster: Cluster) -> None:
    made = service(cluster, selector=None)
    own = written(cluster, "192.0.2.1")
    cluster.settle()
    assert mirrors(cluster)
    cluster.change("services", "web", spec={"selector": {"app": "web"}})
    cluster.settle()
    assert mirrors(cluster) == {"IPv4": {}}  # the placeholder of a service with a selector
    cluster.change("services", "web", spec={"selector": None})
    cluster.settle()
    assert [meta.labels(s)[MANAGED_BY].partition("-")[0] for s in cluster.list(SLICES)] == [
        "endpointslice",
        "endpointslicemirroring",
    ]
    cluster.delete_object("endpoints", own)
    cluster.settle()
    assert mirrors(cluster) == {"IPv4": {}}
    written(cluster, "192.0.2.1")
    cluster.delete_object("services", made)
    cluster.settle()
    assert not mirrors(cluster)


def test_a_thousand_addresses_are_mirrored_and_an_event_tells_of_the_rest(cluster: Cluster) -> None:
    service(cluster, selector=None)
    written(cluster, "no address", *(f"10.0.{n // 250}.{n % 250 + 1}" for n in range(MOST_ADDRESSES + 3)))
    cluster.settle()
    assert sizes(cluster) == [MOST_ADDRESSES]
    told = {reason: text for _, reason, text in cluster.events}
    assert told == {
        "InvalidIPAddress": "Skipped 1 invalid IP addresses when mirroring to EndpointSlices",
        "TooManyAddressesToMirror": "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. "
        "4 addresses were skipped",
    }
