"""What the cluster answers: the specification's records for any cluster, and what others do with them."""

from typing import Any

import pytest
from dnslib import QTYPE, RCODE, RR, DNSLabel
from hypothesis import given
from hypothesis import strategies as st

from rayplane.node.dns.answers import TTL_S, Answer, answer
from rayplane.node.dns.names import names_of
from rayplane.node.dns.zone import Zone
from tests.node.dns.reference import DNS, ZONE, Cluster, ask, records

NETWORKS = ("10.16.0.0/13", "10.24.0.0/16")


def service(name: str, *, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": "10.24.0.20", **spec}}


def a_slice(name: str, *endpoints: dict[str, Any], ports: Any = (), namespace: str = "default") -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": name}
    return {
        "metadata": {"name": f"{name}-x", "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [*endpoints],
        "ports": [*ports],
    }


def fill(zone: Zone, cluster: Cluster) -> None:
    for namespace in ("default", "other"):
        zone.set_namespace(namespace, exists=namespace in cluster.namespaces)
    there = {f"{s['metadata']['namespace']}/{s['metadata']['name']}": s for s in cluster.services}
    for namespace in ("default", "other"):
        for name in NAMES:
            key = f"{namespace}/{name}"
            one = there.get(key)
            slices = [
                s
                for s in cluster.slices
                if s["metadata"]["namespace"] == namespace
                and s["metadata"]["labels"]["kubernetes.io/service-name"] == name
            ]
            zone.set_service(key, names_of(one, slices) if one else None)


def zone_of(*objects: dict[str, Any]) -> Zone:
    zone = Zone(DNS, NETWORKS)
    services = [o for o in objects if "spec" in o]
    fill(zone, Cluster(["default"], services, [o for o in objects if "endpoints" in o]))
    return zone


def question(zone: Zone, name: str, kind: str, turn: int = 0) -> Answer | None:
    return answer(zone, DNSLabel(name), getattr(QTYPE, kind), turn)


def data(record: RR) -> tuple[Any, ...]:
    match QTYPE[record.rtype]:
        case "SRV":
            return record.rdata.port, str(record.rdata.target).rstrip(".")
        case "TXT":
            return (record.rdata.data[0].decode(),)
        case _:
            return (str(record.rdata).rstrip("."),)


def said(found: Answer | None) -> tuple[str, list[tuple[Any, ...]]]:
    assert found is not None
    return RCODE[found.rcode], [data(r) for r in found.records]


# --- any cluster ----------------------------------------------------------------------------------

NAMES = ("web", "db", "x")
_NAMESPACES = st.sampled_from(["default", "other"])
_PORTS = st.lists(
    st.builds(
        lambda name, protocol, number: {"protocol": protocol, "port": number} | ({"name": name} if name else {}),
        st.sampled_from(["", "http", "Admin"]),
        st.sampled_from(["TCP", "UDP"]),
        st.sampled_from([80, 443, 8080]),
    ),
    min_size=1,
    max_size=3,
)
_IPS = st.sampled_from([f"10.16.1.{n}" for n in range(1, 6)] + ["192.0.2.1"])
_ENDPOINTS = st.builds(
    lambda ips, host, ready: {"addresses": ips} | host | ready,
    st.lists(_IPS, min_size=1, max_size=2),
    st.sampled_from([{}, {"hostname": "db-0"}, {"hostname": "db-1"}]),
    st.sampled_from([{}, {"conditions": {}}, {"conditions": {"ready": True}}, {"conditions": {"ready": False}}]),
)
_SERVICES = st.builds(
    lambda name, namespace, spec, ports: service(name, namespace=namespace, ports=ports, **spec),
    st.sampled_from(NAMES),
    _NAMESPACES,
    st.sampled_from(
        [
            {"clusterIP": "10.24.0.20"},
            {"clusterIP": "10.24.0.21", "clusterIPs": ["10.24.0.21"], "type": "NodePort"},
            {"clusterIP": "None"},
            {"clusterIP": "None", "clusterIPs": ["None"]},
            {"type": "ExternalName", "externalName": "db.example.com"},
        ]
    ),
    _PORTS,
)
_SLICES = st.builds(
    lambda name, namespace, ends, ports: a_slice(name, *ends, namespace=namespace, ports=ports),
    st.sampled_from(NAMES),
    _NAMESPACES,
    st.lists(_ENDPOINTS, max_size=3),
    _PORTS,
)
_CLUSTERS = st.builds(
    Cluster,
    st.just(["default", "other"]),
    st.lists(_SERVICES, max_size=5, unique_by=lambda s: (s["metadata"]["name"], s["metadata"]["namespace"])),
    st.lists(_SLICES, max_size=4),
)
_KINDS = ("A", "AAAA", "SRV", "PTR", "TXT", "CNAME", "MX", "ANY")


def names_around(cluster: Cluster) -> set[str]:
    """All names, what is above them up to the zone, and what is not there beside and below."""
    names = {name for name, _, _ in records(cluster)}
    above = {".".join(parts[i:]) for name in names for parts in [name.split(".")] for i in range(len(parts) - 1)}
    inside = {n for n in above if n.endswith((ZONE, "16.10.in-addr.arpa", "24.10.in-addr.arpa"))}
    return inside | {f"no.{n}" for n in inside if n != ZONE} | {f"other.svc.{ZONE}", f"none.svc.{ZONE}"}


@given(_CLUSTERS, _CLUSTERS)
def test_any_cluster_has_the_records_of_the_specification(before: Cluster, cluster: Cluster) -> None:
    zone = Zone(DNS, NETWORKS)
    fill(zone, before)
    fill(zone, cluster)
    aliases = {name for name, kind, _ in records(cluster) if kind == "CNAME"}
    for name in names_around(cluster):
        if name in (ZONE, "16.10.in-addr.arpa", "24.10.in-addr.arpa", f"dns.{ZONE}"):
            continue
        for kind in _KINDS:
            if name in aliases and kind != "CNAME":
                continue
            rcode, found = said(question(zone, name, kind))
            assert len(found) == len(set(found))
            assert (rcode, set(found)) == ask(cluster, name, kind), (name, kind)


# --- what a user meets ----------------------------------------------------------------------------


def test_a_service_and_the_letters_of_the_question() -> None:
    zone = zone_of(service("web", ports=[{"port": 80, "protocol": "TCP", "name": "http"}]))
    found = question(zone, "WeB.default.SVC.cluster.local.", "A")
    assert found is not None and said(found) == ("NOERROR", [("10.24.0.20",)])
    assert str(found.records[0].rname) == "WeB.default.SVC.cluster.local." and found.records[0].ttl == TTL_S


def test_names_that_are_there_without_records_are_not_denied() -> None:
    zone = zone_of(service("web", ports=[{"port": 80, "protocol": "TCP", "name": "http"}]))
    for name, rcode in (
        ("web.default.svc.cluster.local", "NOERROR"),
        ("_tcp.web.default.svc.cluster.local", "NOERROR"),
        ("default.svc.cluster.local", "NOERROR"),
        ("svc.cluster.local", "NOERROR"),
        ("dns.cluster.local", "NOERROR"),
        ("cluster.local", "NOERROR"),
        ("24.10.in-addr.arpa", "NOERROR"),
        ("0.24.10.in-addr.arpa", "NOERROR"),
        ("_udp.web.default.svc.cluster.local", "NXDOMAIN"),
        ("none.svc.cluster.local", "NXDOMAIN"),
        ("web.cluster.local", "NXDOMAIN"),
        ("9.0.24.10.in-addr.arpa", "NXDOMAIN"),
        ("09.0.24.10.in-addr.arpa", "NXDOMAIN"),
        ("1.20.0.24.10.in-addr.arpa", "NXDOMAIN"),
    ):
        found = question(zone, name, "AAAA")
        assert found is not None and said(found) == (rcode, []), name
        (soa,) = found.authority
        assert QTYPE[soa.rtype] == "SOA" and soa.ttl == soa.rdata.times[4] == TTL_S
        assert DNSLabel(name).matchSuffix(soa.rname)


def test_servers_of_a_port_come_with_their_addresses() -> None:
    port = {"port": 27017, "protocol": "TCP", "name": "mongo"}
    ends = [{"addresses": [f"10.16.1.{n}"], "hostname": f"db-{n}"} for n in (1, 2)]
    zone = zone_of(service("db", clusterIP="None", ports=[port]), a_slice("db", *ends, ports=[port]))
    found = question(zone, "_mongo._tcp.db.default.svc.cluster.local", "SRV")
    assert found is not None
    assert {(r.rdata.weight, *data(r)) for r in found.records} == {
        (50, 27017, f"db-{n}.db.default.svc.cluster.local") for n in (1, 2)
    }
    assert {(str(r.rname), *data(r)) for r in found.additional} == {
        (f"db-{n}.db.default.svc.cluster.local.", f"10.16.1.{n}") for n in (1, 2)
    }


def test_addresses_take_turns_to_be_the_first() -> None:
    ends = [{"addresses": [f"10.16.1.{n}"]} for n in (1, 2, 3)]
    zone = zone_of(service("db", clusterIP="None"), a_slice("db", *ends))
    firsts = [said(question(zone, "db.default.svc.cluster.local", "A", turn))[1][0] for turn in range(3)]
    assert sorted(firsts) == [(f"10.16.1.{n}",) for n in (1, 2, 3)]


def test_a_headless_service_without_ready_endpoints_is_no_name() -> None:
    ends = {"addresses": ["10.16.1.1"], "hostname": "db-0", "conditions": {"ready": False}}
    zone = zone_of(service("db", clusterIP="None"), a_slice("db", ends))
    for name in ("db", "db-0.db"):
        assert said(question(zone, f"{name}.default.svc.cluster.local", "A")) == ("NXDOMAIN", [])


def test_the_address_of_a_pod_is_a_name_in_every_namespace_there_is() -> None:
    zone = zone_of()
    assert said(question(zone, "10-16-1-7.default.pod.cluster.local", "A")) == ("NOERROR", [("10.16.1.7",)])
    assert said(question(zone, "10-16-1-7.default.pod.cluster.local", "AAAA")) == ("NOERROR", [])
    assert said(question(zone, "2001-db8--7.default.pod.cluster.local", "AAAA")) == ("NOERROR", [("2001:db8::7",)])
    for name in ("10-16-1-7.none", "web.default", "x.10-16-1-7.default", "10-16-1-256.default"):
        assert said(question(zone, f"{name}.pod.cluster.local", "A")) == ("NXDOMAIN", [])


def test_aliases_are_followed_inside_and_told_outside() -> None:
    zone = zone_of(
        service("web", ports=[{"port": 80, "protocol": "TCP"}]),
        service("db", type="ExternalName", externalName="web.default.svc.cluster.local"),
        service("x", type="ExternalName", externalName="db.example.com."),
    )
    name = "db.default.svc.cluster.local"
    assert said(question(zone, name, "A"))[1] == [("web.default.svc.cluster.local",), ("10.24.0.20",)]
    assert said(question(zone, name, "CNAME"))[1] == [("web.default.svc.cluster.local",)]
    outside = question(zone, "x.default.svc.cluster.local", "A")
    assert outside is not None and str(outside.follow) == "db.example.com."
    assert said(outside) == ("NOERROR", [("db.example.com",)])
    alone = question(zone, "x.default.svc.cluster.local", "CNAME")
    assert alone is not None and len(alone.records) == 1 and alone.follow is None and not alone.authority
    assert said(question(zone, "y.x.default.svc.cluster.local", "A")) == ("NXDOMAIN", [])


@pytest.mark.parametrize("alias", ["192.0.2.1", "", "a..b", "a" * 64 + ".example.com", "x." * 130])
def test_an_alias_that_is_no_name_is_none(alias: str) -> None:
    zone = zone_of(service("db", type="ExternalName", externalName=alias))
    assert said(question(zone, "db.default.svc.cluster.local", "A")) == ("NXDOMAIN", [])


def test_aliases_of_each_other_end() -> None:
    zone = zone_of(
        service("db", type="ExternalName", externalName="x.default.svc.cluster.local"),
        service("x", type="ExternalName", externalName="db.default.svc.cluster.local"),
    )
    assert said(question(zone, "db.default.svc.cluster.local", "A")) == ("SERVFAIL", [])


def test_the_zone_names_its_server() -> None:
    zone = zone_of()
    assert said(question(zone, "cluster.local", "NS")) == ("NOERROR", [("ns.dns.cluster.local",)])
    assert said(question(zone, "ns.dns.cluster.local", "A")) == ("NOERROR", [(DNS,)])
    found = question(zone, "cluster.local", "SOA")
    assert found is not None and str(found.records[0].rname) == "cluster.local."
    assert said(question(zone, "cluster.local", "AXFR")) == ("REFUSED", [])


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "example.com",
        "local",
        "acluster.local",
        "cluster.local.example.com",
        "1.0.0.127.in-addr.arpa",
        "10.in-addr.arpa",
    ],
)
def test_other_names_are_for_others(name: str) -> None:
    assert question(zone_of(), name, "A") is None


def test_endpoints_outside_of_the_cluster_have_names_and_their_neighbours_are_for_others() -> None:
    zone = zone_of(service("db", clusterIP="None"), a_slice("db", {"addresses": ["192.0.2.1"]}, {"addresses": ["::5"]}))
    names = {"1.2.0.192.in-addr.arpa": "192-0-2-1", f"5.{'0.' * 31}ip6.arpa": "--5"}
    for name, host in names.items():
        assert said(question(zone, name, "PTR"))[1] == [(f"{host}.db.default.svc.cluster.local",)]
    assert question(zone, "2.2.0.192.in-addr.arpa", "PTR") is None
