"""The fast cycle against a slow and obvious one, over random clusters and histories."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.selectors import from_map
from rayplane.control_plane.scheduler import Placement
from rayplane.control_plane.scheduler.nodes import NodeInfo
from tests.scheduler.build import World, info, node, on, pod
from tests.tiers import examples

ZONE = "topology.kubernetes.io/zone"


@dataclass
class TwinNode:
    obj: dict[str, Any]
    pods: list[dict[str, Any]] = field(default_factory=list)

    def room(self, resource: str) -> float:
        total = quantity.parse(self.obj["status"]["allocatable"].get(resource, "0")).nano / 1e9
        return total - sum(asked(p, resource) for p in self.pods)


def asked(one: dict[str, Any], resource: str) -> float:
    if resource == "pods":
        return 1
    requests = one["spec"]["containers"][0]["resources"]["requests"]
    return quantity.parse(requests.get(resource, "0")).nano / 1e9


def scored(one: dict[str, Any], resource: str) -> int:
    requests = one["spec"]["containers"][0]["resources"]["requests"]
    default = {"cpu": "100m", "memory": "200Mi"}[resource]
    return quantity.parse(requests.get(resource, default)).nano


def twin_allows(at: TwinNode, one: dict[str, Any], every: list[TwinNode]) -> bool:
    for resource in ("cpu", "memory", "pods", "x.io/y"):
        if asked(one, resource) > at.room(resource):
            return False
    spec, labels = one["spec"], at.obj["metadata"]["labels"]
    tolerated = {t["key"] for t in spec.get("tolerations", [])}
    if any(t["effect"] == "NoSchedule" and t["key"] not in tolerated for t in at.obj["spec"]["taints"]):
        return False
    if any(labels.get(k) != v for k, v in spec.get("nodeSelector", {}).items()):
        return False
    ports = [p["hostPort"] for p in spec["containers"][0].get("ports", [])]
    used = [q["hostPort"] for p in at.pods for q in p["spec"]["containers"][0].get("ports", [])]
    if set(ports) & set(used):
        return False
    return twin_apart(at, one, every) and twin_spread(at, one, every)


def twin_apart(at: TwinNode, one: dict[str, Any], every: list[TwinNode]) -> bool:
    """Anti-affinity to pods of the same app in the zone, in both directions."""
    zone = at.obj["metadata"]["labels"].get(ZONE)
    if zone is None:
        return True
    there = [p for n in every if n.obj["metadata"]["labels"].get(ZONE) == zone for p in n.pods]
    same = [p for p in there if p["metadata"]["labels"] == one["metadata"]["labels"]]
    return not any("affinity" in p["spec"] for p in same) and not (same and "affinity" in one["spec"])


def twin_spread(at: TwinNode, one: dict[str, Any], every: list[TwinNode]) -> bool:
    if not one["spec"].get("topologySpreadConstraints"):
        return True
    zones: dict[str, int] = {}
    wanted = one["spec"].get("nodeSelector", {})
    for n in every:
        labels = n.obj["metadata"]["labels"]
        if ZONE in labels and all(labels.get(k) == v for k, v in wanted.items()):
            same = [p for p in n.pods if p["metadata"]["labels"] == one["metadata"]["labels"]]
            zones[labels[ZONE]] = zones.get(labels[ZONE], 0) + len(same)
    zone = at.obj["metadata"]["labels"].get(ZONE)
    if zone is None:
        return False
    return zones.get(zone, 0) + 1 - min(zones.values(), default=0) <= 1


def twin_score(at: TwinNode, one: dict[str, Any]) -> int:
    shares = []
    for resource in ("cpu", "memory"):
        total = quantity.parse(at.obj["status"]["allocatable"][resource]).nano
        used = min(sum(scored(p, resource) for p in at.pods) + scored(one, resource), total)
        left = used if one["spec"]["schedulerName"] == "default-scheduler" else total - used
        shares.append(left * 100 // total)
    return sum(shares) // 2


@st.composite
def nodes(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for i in range(draw(st.integers(1, 6))):
        labels = {"kind": draw(st.sampled_from(["a", "b"]))}
        if (zone := draw(st.sampled_from(["1", "2", None]))) is not None:
            labels[ZONE] = zone
        extended = {"x.io/y": "2"} if draw(st.booleans()) else {}
        taints = [{"key": "t", "value": "", "effect": "NoSchedule"}] if draw(st.integers(0, 4)) == 0 else []
        found.append(
            node(
                f"n{i}",
                cpu=draw(st.sampled_from(["1", "2", "4"])),
                memory=draw(st.sampled_from(["1Gi", "4Gi"])),
                pods=draw(st.sampled_from([1, 3, 110])),
                labels=labels,
                taints=taints,
                **extended,
            )
        )
    return found


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    more: dict[str, Any] = {}
    labels = {"app": draw(st.sampled_from(["u", "v"]))}
    match = {"topologyKey": ZONE, "labelSelector": {"matchLabels": labels}}
    if draw(st.integers(0, 3)) == 0:
        more["nodeSelector"] = {"kind": draw(st.sampled_from(["a", "b"]))}
    if draw(st.booleans()):
        more["tolerations"] = [{"key": "t", "operator": "Exists"}]
    if draw(st.integers(0, 7)) == 0:
        more["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [match]}}
    if draw(st.integers(0, 5)) == 0:
        more["topologySpreadConstraints"] = [{**match, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]
    return pod(
        "p",
        cpu=draw(st.sampled_from(["", "250m", "1", "1500m"])),
        memory=draw(st.sampled_from(["", "256Mi", "1Gi"])),
        labels=labels,
        requests={"x.io/y": "1"} if draw(st.integers(0, 4)) == 0 else {},
        host_port=draw(st.sampled_from([0, 0, 0, 80, 81])),
        scheduler=draw(st.sampled_from(["default-scheduler", "spread-scheduler"])),
        **more,
    )


def check_sums(world: World) -> None:
    """The arrays are the sums of the pods; nothing is overcommitted."""
    for name, row in world.snapshot.nodes():
        for resource, column in world.snapshot.columns.items():
            total = sum(p.shape.requests.get(resource, 0) for p in world.snapshot.pods_on(name).values())
            assert world.snapshot.requested[row, column] == total
            assert total <= world.snapshot.allocatable[row, column]


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cluster=nodes(), arrivals=st.lists(pods(), max_size=25), data=st.data())
def test_decisions_are_those_of_the_twin(cluster: list[dict], arrivals: list[dict], data: st.DataObject) -> None:
    world, twins = World(*cluster), [TwinNode(n) for n in cluster]
    for number, one in enumerate(arrivals):
        one["metadata"]["name"] = f"p{number}"
        allowed = [t for t in twins if twin_allows(t, one, twins)]
        refused = {n.node for n in world.cycle.explain(info(one)).nodes if n.refusal is not None}
        assert refused == {t.obj["metadata"]["name"] for t in twins if t not in allowed}
        decision = world.decide(one)
        assert isinstance(decision, Placement) is bool(allowed)
        if isinstance(decision, Placement):
            (taken,) = [t for t in twins if t.obj["metadata"]["name"] == decision.node]
            assert taken in allowed
            assert twin_score(taken, one) == max(twin_score(t, one) for t in allowed)
            taken.pods.append(one)
        check_sums(world)
        if number % 5 == 4 and data.draw(st.booleans()):
            busy = [t for t in twins if t.pods]
            if busy:
                gone = busy[0].pods.pop(0)
                world.snapshot.remove_pod(f"default/{gone['metadata']['name']}")


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cluster=nodes(),
    events=st.lists(st.tuples(st.sampled_from(["pod", "gone", "node", "lost"]), st.integers(0, 30)), max_size=40),
)
def test_the_snapshot_equals_one_built_anew(cluster: list[dict], events: list[tuple[str, int]]) -> None:
    """Any history of changes gives the arrays that the final objects alone give."""
    world = World(*cluster)
    selector = from_map({"app": "u"})
    world.snapshot.matching((selector, None))
    names = [n["metadata"]["name"] for n in cluster]
    running: dict[str, dict] = {}
    here = {n["metadata"]["name"]: n for n in cluster}
    for kind, number in events:
        name = names[number % len(names)]
        if kind == "pod":
            one = on(name, pod(f"p{number}", cpu=f"{number}m", labels={"app": "uv"[number % 2]}))
            running[f"p{number}"] = one
            world.snapshot.set_pod(info(one))
        elif kind == "gone":
            running.pop(f"p{number}", None)
            world.snapshot.remove_pod(f"default/p{number}")
        elif kind == "lost":
            here.pop(name, None)
            world.snapshot.remove_node(name)
        else:
            here[name] = node(name, cpu=str(number + 1))
            world.snapshot.set_node(NodeInfo.of(here[name]))
    fresh = World(*here.values())
    fresh.run(*running.values())
    for name, row in fresh.snapshot.nodes():
        old = world.snapshot.index[name]
        for resource, column in fresh.snapshot.columns.items():
            mine = world.snapshot.columns[resource]
            assert world.snapshot.requested[old, mine] == fresh.snapshot.requested[row, column]
            assert world.snapshot.allocatable[old, mine] == fresh.snapshot.allocatable[row, column]
        assert world.snapshot.matching((selector, None))[old] == fresh.snapshot.matching((selector, None))[row]
    assert world.snapshot.index.keys() == fresh.snapshot.index.keys()
