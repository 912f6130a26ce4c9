"""Where pods may go, and Kubernetes' words for why they may not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rayplane.control_plane.api.claims import REPLICATED
from rayplane.control_plane.api.pods.ports import HostPort
from rayplane.control_plane.scheduler import Failure, Placement
from rayplane.control_plane.scheduler.events import Action, Event, Resource
from rayplane.control_plane.scheduler.hints import HINTS
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.plugins import PodView
from rayplane.control_plane.scheduler.plugins.base import ALL
from rayplane.control_plane.scheduler.plugins.node import NodePorts
from rayplane.control_plane.scheduler.pods import PodInfo
from tests.scheduler.build import World, claim, info, node, on, pod, storage_class, volume

HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"


def affinity(*expressions: dict, fields: tuple[dict, ...] = ()) -> dict:
    term = {"matchExpressions": list(expressions), "matchFields": list(fields)}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def rule(key: str, operator: str, *values: str) -> dict:
    return {"key": key, "operator": operator, "values": list(values)}


def test_no_nodes() -> None:
    assert World().fail(pod("p")) == "no nodes available to schedule pods"


def test_the_message_has_kubernetes_form() -> None:
    world = World(
        node("a", cpu="1"),
        node("b", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]),
        node("c", taints=[{"key": "gpu", "value": "yes", "effect": "NoExecute"}]),
    )
    assert world.fail(pod("p", cpu="2")) == (
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). "
        "no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    )


def test_lack_of_room_that_no_victim_can_make() -> None:
    world = World(node("a", cpu="2", memory="1Gi"))
    world.run(on("a", pod("busy", cpu="1", memory="1Gi")))
    assert world.fail(pod("p", cpu="1500m", memory="1Mi")) == (
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. no new claims to deallocate, "
        "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )


def test_too_many_pods() -> None:
    world = World(node("a", pods=1))
    assert world.place(pod("first")) == "a"
    assert world.fail(pod("second")).startswith("0/1 nodes are available: 1 Too many pods.")


def test_extended_and_ephemeral_resources() -> None:
    world = World(node("plain"), node("gpu", extended={"nvidia.com/gpu": "2", "ephemeral-storage": "10Gi"}))
    assert world.place(pod("p", requests={"nvidia.com/gpu": "2"})) == "gpu"
    assert "2 Insufficient nvidia.com/gpu" in world.fail(pod("q", requests={"nvidia.com/gpu": "1"}))
    assert world.place(pod("r", requests={"ephemeral-storage": "10Gi"})) == "gpu"
    assert "2 Insufficient ephemeral-storage" in world.fail(pod("s", requests={"ephemeral-storage": "1"}))


def test_init_containers_sidecars_and_overhead_count() -> None:
    world = World(node("a", cpu="1"))
    init = [
        {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "300m"}}},
        {"name": "once", "resources": {"requests": {"cpu": "600m"}}},
    ]
    shape = info(pod("p", cpu="200m", initContainers=init, overhead={"cpu": "100m"})).shape
    assert shape.requests["cpu"] == 1000, "the one-off beside the sidecar is the peak, then the overhead"
    assert world.place(pod("p", cpu="200m", initContainers=init, overhead={"cpu": "100m"})) == "a"
    assert "Insufficient cpu" in world.fail(pod("q", cpu="1m"))


def test_unschedulable_nodes_take_only_pods_that_tolerate_it() -> None:
    world = World(node("a", unschedulable=True))
    assert "1 node(s) were unschedulable" in world.fail(pod("p"))
    tolerant = pod("q", tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    assert world.place(tolerant) == "a"


@pytest.mark.parametrize(
    ("toleration", "passes"),
    [
        ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "k", "value": "w"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "k", "value": "v", "effect": "NoExecute"}, False),
    ],
)
def test_tolerations(toleration: dict, passes: bool) -> None:
    world = World(node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]))
    decision = world.decide(pod("p", tolerations=[toleration]))
    assert isinstance(decision, Placement) is passes


@pytest.mark.parametrize(
    ("expression", "nodes"),
    [
        (rule("disk", "In", "ssd", "nvme"), ["a"]),
        (rule("disk", "NotIn", "ssd"), ["b", "c"]),
        (rule("disk", "Exists"), ["a", "b"]),
        (rule("disk", "DoesNotExist"), ["c"]),
        (rule("cores", "Gt", "8"), ["b"]),
        (rule("cores", "Lt", "9"), ["a"]),
    ],
)
def test_required_node_affinity(expression: dict, nodes: list[str]) -> None:
    world = World(
        node("a", labels={"disk": "ssd", "cores": "8"}),
        node("b", labels={"disk": "hdd", "cores": "16"}),
        node("c"),
    )
    explained = world.cycle.explain(info(pod("p", affinity=affinity(expression))))
    assert [n.node for n in explained.nodes if n.refusal is None] == nodes


def test_match_fields_pin_a_daemons_pod() -> None:
    world = World(node("a"), node("b"), node("c"))
    pinned = affinity(fields=(rule("metadata.name", "In", "b"),))
    assert world.place(pod("p", affinity=pinned)) == "b"
    large = world.fail(pod("q", affinity=pinned, cpu="99"))
    assert "1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]." in large
    assert "3 node(s) didn't satisfy plugin(s) [NodeAffinity]." in world.fail(
        pod("r", affinity=affinity(fields=(rule("metadata.name", "In", "gone"),)))
    )


def test_node_selector_and_an_empty_term() -> None:
    world = World(node("a"), node("b", labels={"x": "1"}))
    assert world.place(pod("p", nodeSelector={"x": "1"})) == "b"
    terms: dict[str, Any] = {"nodeSelectorTerms": [{}]}
    empty = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    assert "2 node(s) didn't match Pod's node affinity/selector" in world.fail(pod("q", affinity=empty))


def test_host_ports_exclude_each_other() -> None:
    world = World(node("a"), node("b"))
    assert {world.place(pod(f"p{i}", host_port=80)) for i in range(2)} == {"a", "b"}
    assert "2 node(s) didn't have free ports for the requested pod ports" in world.fail(pod("q", host_port=80))
    assert world.place(pod("r", host_port=81)) == "a"


class Counted(tuple[HostPort, ...]):
    """Host ports; it is counted how many of them are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[HostPort]:
        for port in super().__iter__():
            Counted.looks += 1
            yield port


def test_any_number_of_host_ports_is_looked_at_once_for_a_node() -> None:
    def ported(name: str, first: int) -> PodInfo:
        one = info(on("a", pod(name)))
        ports = Counted(("TCP", f"10.0.0.{name}", number) for number in range(first, first + 1000))
        return replace(one, shape=replace(one.shape, ports=ports))

    world, Counted.looks = World(node("a")), 0
    world.snapshot.set_pod(ported("1", 1))
    wanted = PodView(ported("2", 500), world.cluster)
    allowed = NodePorts().allowed(wanted, ALL)
    assert allowed is not None and allowed.tolist()[0] and NodePorts().refusal(wanted, 0) is None
    [freed] = [hint.helps for hint in HINTS["NodePorts"] if hint.resource is Resource.ASSIGNED_POD]
    assert not freed(wanted.pod, Event(Resource.ASSIGNED_POD, Action.DELETE, ported("1", 1), None), world.snapshot)
    assert Counted.looks <= 5 * 1000


def test_a_node_that_changes_or_goes_is_seen() -> None:
    from rayplane.control_plane.scheduler.nodes import NodeInfo

    world = World(node("a"))
    assert "Insufficient" in world.fail(pod("p", cpu="8"))
    world.snapshot.set_node(NodeInfo.of(node("a", cpu="16")))
    assert world.place(pod("p", cpu="8")) == "a"
    world.snapshot.remove_node("a")
    assert world.fail(pod("q")) == "no nodes available to schedule pods"
    world.snapshot.set_node(NodeInfo.of(node("a", cpu="16")))
    assert "Insufficient cpu" in world.fail(pod("r", cpu="9")), "its pods are still on it"


# -- volumes


def with_claims(world: World, *claims: dict) -> World:
    for one in (storage_class("standard"), storage_class("now", wait=False)):
        world.volumes.classes[one["metadata"]["name"]] = one
    for one in claims:
        world.volumes.set_claim(one)
    return world


def test_an_unbound_immediate_claim_holds_the_pod() -> None:
    world = with_claims(World(node("a")), claim("data", of="now"))
    assert world.fail(pod("p", claims=("data",))) == (
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
    )


def test_a_missing_claim_is_named() -> None:
    world = with_claims(World(node("a")))
    assert 'persistentvolumeclaim "data" not found' in world.fail(pod("p", claims=("data",)))


def test_a_bound_volume_draws_the_pod_to_its_node() -> None:
    world = with_claims(World(node("a"), node("b")), claim("data", volume="pv"))
    world.volumes.set_volume(volume("pv", on=("b",)))
    decision = world.decide(pod("p", claims=("data",)))
    assert isinstance(decision, Placement)
    assert (decision.node, decision.claims) == ("b", ())
    text = world.fail(pod("q", claims=("data",), nodeSelector={HOST: "a"}))
    assert "1 node(s) didn't match PersistentVolume's node affinity" in text


def test_a_waiting_claim_goes_where_there_is_room() -> None:
    room = {"rayplane.io/volume-capacity": "5Gi"}
    world = with_claims(
        World(node("a", annotations={"rayplane.io/volume-capacity": "1Gi"}), node("b", annotations=room)),
        *(claim(name, storage="2Gi") for name in ("one", "two", "three")),
    )
    for name in ("one", "two"):
        decision = world.decide(pod(name, claims=(name,)))
        assert isinstance(decision, Placement)
        assert (decision.node, decision.claims) == ("b", (f"default/{name}",))
    assert "2 node(s) did not have enough free storage" in world.fail(pod("three", claims=("three",)))


def test_replicated_volumes_are_used_where_nodes_keep_volumes() -> None:
    none = {"rayplane.io/volume-capacity": "0"}
    world = with_claims(
        World(node("a", annotations=none), node("b", annotations={"rayplane.io/volume-capacity": "5Gi"})),
        claim("new", of="safe"),
        claim("old", of="safe", volume="pv"),
    )
    world.volumes.classes["safe"] = storage_class("safe", provisioner=REPLICATED)
    made = volume("pv", of="safe")
    made["spec"]["csi"] = {"driver": REPLICATED, "volumeHandle": "pv"}
    world.volumes.set_volume(made)
    for name, why in (("new", "did not have enough free storage"), ("old", "didn't match PersistentVolume's node")):
        assert why in world.fail(pod("p", claims=(name,), nodeSelector={HOST: "a"}))
        assert world.place(pod(name, claims=(name,))) == "b"


def test_two_pods_do_not_count_on_the_same_free_volume() -> None:
    world = with_claims(
        World(node("a"), node("b")), claim("x", of="disks"), claim("y", of="disks"), claim("z", of="disks")
    )
    world.volumes.classes["disks"] = storage_class("disks", provisioner="kubernetes.io/no-provisioner")
    world.volumes.set_volume(volume("pv-a", on=("a",), of="disks"))
    world.volumes.set_volume(volume("pv-b", on=("b",), of="disks"))
    assert {world.place(pod(name, claims=(name,))) for name in ("x", "y")} == {"a", "b"}
    text = world.fail(pod("z", claims=("z",)))
    assert "2 node(s) didn't find available persistent volumes to bind" in text


def test_a_forgotten_placement_frees_its_volume_and_its_room() -> None:
    world = with_claims(World(node("a", cpu="1")), claim("x", of="disks"), claim("y", of="disks"))
    world.volumes.classes["disks"] = storage_class("disks", provisioner="kubernetes.io/no-provisioner")
    world.volumes.set_volume(volume("pv-a", of="disks"))
    decision = world.decide(pod("x", claims=("x",), cpu="1"))
    assert isinstance(decision, Placement)
    world.cycle.forget(decision.pod)
    assert world.place(pod("y", claims=("y",), cpu="1")) == "a"


def test_allowed_topologies() -> None:
    world = with_claims(World(node("a", labels={ZONE: "1"}), node("b", labels={ZONE: "2"})), claim("d", of="zonal"))
    terms = [{"matchLabelExpressions": [{"key": ZONE, "values": ["2"]}]}]
    world.volumes.classes["zonal"] = storage_class("zonal", allowedTopologies=terms)
    assert world.place(pod("p", claims=("d",))) == "b"


# -- pods and pods


def pod_rules(kind: str, key: str, labels: dict[str, str]) -> dict:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": labels}}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def test_anti_affinity_holds_both_ways() -> None:
    world = World(node("a"), node("b"))
    apart = pod_rules("podAntiAffinity", HOST, {"app": "db"})
    assert {world.place(pod(f"db{i}", labels={"app": "db"}, affinity=apart)) for i in range(2)} == {"a", "b"}
    text = world.fail(pod("db2", labels={"app": "db"}, affinity=apart))
    assert "2 node(s) didn't match pod anti-affinity rules" in text
    text = world.fail(pod("plain", labels={"app": "db"}))
    assert "2 node(s) didn't satisfy existing pods anti-affinity rules" in text
    assert world.place(pod("web", labels={"app": "web"})) in ("a", "b")


def test_affinity_follows_and_the_first_of_a_group_may_start_anywhere() -> None:
    world = World(node("a", labels={ZONE: "1"}), node("b", labels={ZONE: "2"}), node("c", labels={ZONE: "2"}, cpu="1"))
    near = pod_rules("podAffinity", ZONE, {"app": "web"})
    assert "3 node(s) didn't match pod affinity rules" in world.fail(pod("client", affinity=near))
    first = world.place(pod("w0", labels={"app": "web"}, affinity=near, nodeSelector={HOST: "c"}))
    assert first == "c"
    assert world.place(pod("client", affinity=near, cpu="2")) == "b", "the same zone"


def test_pods_that_keep_away_from_all_namespaces_do_so_however_many_nodes_come_after_them() -> None:
    world = World(node("a"))
    away = pod_rules("podAntiAffinity", HOST, {"app": "web"})
    away["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["namespaceSelector"] = {}
    world.run(on("a", pod("x", namespace="team", affinity=away)))
    for number in range(world.snapshot.rows):
        world.snapshot.set_node(NodeInfo.of(node(f"n{number}")))
    text = world.fail(pod("p", labels={"app": "web"}, nodeSelector={HOST: "a"}))
    assert "1 node(s) didn't satisfy existing pods anti-affinity rules" in text
    assert world.place(pod("q", labels={"app": "web"}))
    world.snapshot.remove_pod("team/x")
    assert world.place(pod("r", labels={"app": "web"}, nodeSelector={HOST: "a"})) == "a"
    assert not world.snapshot.anti._places, "nothing is kept of terms that nobody holds"


def test_affinity_needs_its_own_namespace_or_a_selector_of_namespaces() -> None:
    world = World(node("a"))
    world.snapshot.set_namespace("default", {})
    world.snapshot.set_namespace("team", {"tier": "1"})
    world.run(on("a", pod("x", namespace="team", labels={"app": "web"})))
    near = pod_rules("podAffinity", HOST, {"app": "web"})
    assert "didn't match pod affinity rules" in world.fail(pod("p", affinity=near))
    near["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["namespaceSelector"] = {
        "matchLabels": {"tier": "1"}
    }
    assert world.place(pod("q", affinity=near)) == "a"


def spread(**more: object) -> list[dict]:
    return [
        {
            "topologyKey": ZONE,
            "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}},
            **more,
        }
    ]


def test_topology_spread_keeps_the_skew() -> None:
    world = World(*(node(f"n{i}", labels={ZONE: f"z{i % 3}"}) for i in range(6)), node("bare"))
    zones = [
        int(world.place(pod(f"w{i}", labels={"app": "web"}, topologySpreadConstraints=spread()))[1]) % 3
        for i in range(9)
    ]
    assert all(sorted(zones[i : i + 3]) == [0, 1, 2] for i in (0, 3, 6))
    text = world.fail(pod("w9", labels={"app": "web"}, topologySpreadConstraints=spread(), nodeSelector={HOST: "bare"}))
    assert "1 node(s) didn't match pod topology spread constraints (missing required label)" in text


def test_topology_spread_min_domains() -> None:
    world = World(node("a", labels={ZONE: "1"}))
    rules = spread(minDomains=2)
    assert world.place(pod("w0", labels={"app": "web"}, topologySpreadConstraints=rules)) == "a"
    text = world.fail(pod("w1", labels={"app": "web"}, topologySpreadConstraints=rules))
    assert "1 node(s) didn't match pod topology spread constraints" in text


# -- preemption


def test_preemption_takes_the_least_important_and_the_fewest() -> None:
    world = World(node("a", cpu="4"), node("b", cpu="4"))
    world.run(
        on("a", pod("a-low", cpu="2", priority=1)),
        on("a", pod("a-mid", cpu="2", priority=5)),
        on("b", pod("b-mid", cpu="4", priority=4)),
    )
    decision = world.decide(pod("vip", cpu="2", priority=10))
    assert isinstance(decision, Failure) and decision.preemption is not None
    assert decision.preemption.node == "a"
    assert [v.name for v in decision.preemption.victims] == ["a-low"]
    assert set(world.snapshot.pods) == {"default/a-low", "default/a-mid", "default/b-mid"}, "nothing is removed yet"


def test_preemption_chooses_the_node_whose_victims_matter_least() -> None:
    world = World(*(node(name, cpu="2") for name in "abc"))
    world.run(
        on("a", pod("a1", cpu="2", priority=7)),
        on("b", pod("b1", cpu="1", priority=3)),
        on("b", pod("b2", cpu="1", priority=3)),
        on("c", pod("c1", cpu="2", priority=3)),
    )
    decision = world.decide(pod("vip", cpu="2", priority=10))
    assert isinstance(decision, Failure) and decision.preemption is not None
    assert decision.preemption.node == "c", "one victim of priority 3 rather than two, or one of 7"


def test_preemption_never_and_of_equals_does_not_happen() -> None:
    world = World(node("a", cpu="1"))
    world.run(on("a", pod("x", cpu="1", priority=5)))
    assert "No preemption victims found" in world.fail(pod("equal", cpu="1", priority=5))
    text = world.fail(pod("meek", cpu="1", priority=10, preemptionPolicy="Never"))
    assert text.endswith("preemption: not eligible due to preemptionPolicy=Never.")


def test_room_made_for_a_nominated_pod_is_kept() -> None:
    world = World(node("a", cpu="2"))
    vip = info(pod("vip", cpu="2", priority=10))
    world.cycle.nominate(vip, "a")
    assert "1 Insufficient cpu." in world.fail(pod("thief", cpu="1", priority=1))
    [told] = world.cycle.explain(info(pod("thief", cpu="1", priority=1))).nodes
    assert told.refusal is not None and told.refusal.reasons == ("Insufficient cpu",)
    assert world.place(pod("chief", cpu="500m", priority=20)) == "a", "a higher priority need not yield"
    world.cycle.forget_nomination("default/vip")
    assert world.place(pod("thief", cpu="1", priority=1)) == "a"


def test_a_terminating_victim_is_waited_for() -> None:
    world = World(node("a", cpu="1"))
    dying = on("a", pod("x", cpu="1", priority=1))
    dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.run(dying)
    vip = info(pod("vip", cpu="1", priority=10))
    world.cycle.nominate(vip, "a")
    decision = world.cycle.schedule_one(vip)
    assert isinstance(decision, Failure) and decision.preemption is None
    assert decision.message.endswith("not eligible due to terminating pod on the nominated node.")
