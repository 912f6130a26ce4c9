"""The fast cycle against a slow and obvious one, over random clusters, profiles and histories."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery.selectors import from_map
from rayplane.control_plane.scheduler import Failure, Placement
from rayplane.control_plane.scheduler.config import DEFAULT_FILTERS, Profile
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.plugins.args import (
    FitArgs,
    InterPodAffinityArgs,
    NodeAffinityArgs,
    SpreadArgs,
    Strategy,
    VolumeBindingArgs,
)
from tests.scheduler.build import World, claim, info, node, on, pod, storage_class, volume
from tests.scheduler.reference import HOST, MEGA, WEIGHTS, ZONE, Reference, Ways
from tests.tiers import examples

RACK = "rack"
LABELS = [{"app": "u"}, {"app": "v"}, {"app": "u", "rev": "1"}, {"app": "v", "rev": "2"}]
MAYBE = st.integers(0, 3).map(lambda n: n == 0)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """A rule on labels of nodes."""
    key = draw(st.sampled_from(["kind", "cores", ZONE]))
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]))
    if operator in ("Gt", "Lt"):
        return {"key": "cores", "operator": operator, "values": [draw(st.sampled_from(["1", "4"]))]}
    values = draw(st.lists(st.sampled_from(["a", "b", "1", "2"]), min_size=1, max_size=2, unique=True))
    return {"key": key, "operator": operator, **({"values": values} if operator in ("In", "NotIn") else {})}


@st.composite
def node_terms(draw: st.DrawFn) -> dict[str, Any]:
    term: dict[str, Any] = {"matchExpressions": draw(st.lists(rules(), max_size=2))}
    if draw(MAYBE):
        names = [f"n{draw(st.integers(0, 5))}"]
        term["matchFields"] = [{"key": "metadata.name", "operator": "In", "values": names}]
    return term


@st.composite
def node_affinities(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        terms = draw(st.lists(node_terms(), min_size=1, max_size=2))
        found["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    if draw(st.booleans()):
        wish = st.fixed_dictionaries({"weight": st.integers(1, 100), "preference": node_terms()})
        found["preferredDuringSchedulingIgnoredDuringExecution"] = draw(st.lists(wish, min_size=1, max_size=2))
    return found


TAINTS = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["t", "level"]),
        "value": st.sampled_from(["", "1", "5"]),
        "effect": st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule", "PreferNoSchedule"]),
    }
)
TOLERATIONS = st.fixed_dictionaries(
    {"operator": st.sampled_from(["Equal", "Exists", "Gt", "Lt"]), "value": st.sampled_from(["1", "3", "5"])},
    optional={
        "key": st.sampled_from(["t", "level"]),
        "effect": st.sampled_from(["NoSchedule", "PreferNoSchedule"]),
    },
)
CLAIMS = st.sampled_from([f"c{i}" for i in range(8)])


@st.composite
def nodes(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for i in range(draw(st.integers(1, 6))):
        labels = {"kind": draw(st.sampled_from(["a", "b"])), "cores": draw(st.sampled_from(["1", "2", "8", "x"]))}
        if (zone := draw(st.sampled_from(["1", "2", None]))) is not None:
            labels[ZONE] = zone
        if (rack := draw(st.sampled_from(["r", "s", None]))) is not None:
            labels[RACK] = rack
        one = node(
            f"n{i}",
            cpu=draw(st.sampled_from(["1", "2", "4"])),
            memory=draw(st.sampled_from(["1Gi", "4Gi", "0"])),
            pods=draw(st.sampled_from([1, 3, 110])),
            labels=labels,
            taints=draw(st.lists(TAINTS, max_size=2)) if draw(MAYBE) else [],
            unschedulable=draw(st.integers(0, 9)) == 0,
            **({"x.io/y": "2"} if draw(st.booleans()) else {}),
        )
        if draw(st.booleans()):
            one["status"]["images"] = [{"names": ["big:latest"], "sizeBytes": 800 * MEGA}]
        if draw(st.booleans()):
            one["status"]["declaredFeatures"] = ["Other", "RestartAllContainersOnContainerExits"]
        found.append(one)
    return found


@st.composite
def pod_terms(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {
        "topologyKey": draw(st.sampled_from([HOST, ZONE, RACK])),
        "labelSelector": {"matchLabels": {"app": draw(st.sampled_from(["u", "v"]))}},
    }
    if draw(MAYBE):
        found["labelSelector"] = draw(
            st.sampled_from([{}, {"matchExpressions": [{"key": "rev", "operator": "Exists"}]}])
        )
    where = draw(st.integers(0, 5))
    if where == 0:
        found["namespaces"] = ["other"]
    elif where == 1:
        found["namespaceSelector"] = draw(st.sampled_from([{}, {"matchLabels": {"team": "x"}}]))
    if draw(MAYBE):
        found[draw(st.sampled_from(["matchLabelKeys", "mismatchLabelKeys"]))] = ["rev"]
    return found


@st.composite
def pod_affinities(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("podAffinity", "podAntiAffinity"):
        if draw(st.booleans()):
            continue
        side: dict[str, Any] = {}
        if draw(st.booleans()):
            side["requiredDuringSchedulingIgnoredDuringExecution"] = draw(st.lists(pod_terms(), min_size=1, max_size=2))
        else:
            wish = st.fixed_dictionaries({"weight": st.integers(1, 100), "podAffinityTerm": pod_terms()})
            side["preferredDuringSchedulingIgnoredDuringExecution"] = draw(st.lists(wish, min_size=1, max_size=2))
        found[kind] = side
    return found


@st.composite
def constraints(draw: st.DrawFn, *, defaults: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {
        "topologyKey": draw(st.sampled_from([HOST, ZONE, RACK])),
        "maxSkew": draw(st.integers(1, 3)),
        "whenUnsatisfiable": draw(st.sampled_from(["DoNotSchedule", "ScheduleAnyway"])),
    }
    if defaults:
        return found
    found["labelSelector"] = {"matchLabels": {"app": draw(st.sampled_from(["u", "v"]))}}
    if draw(MAYBE) and found["whenUnsatisfiable"] == "DoNotSchedule":
        found["minDomains"] = draw(st.integers(1, 4))
    if draw(MAYBE):
        found["nodeAffinityPolicy"] = draw(st.sampled_from(["Honor", "Ignore"]))
    if draw(MAYBE):
        found["nodeTaintsPolicy"] = draw(st.sampled_from(["Honor", "Ignore"]))
    if draw(MAYBE):
        found["matchLabelKeys"] = ["rev"]
    return found


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if draw(MAYBE):
        more["nodeSelector"] = {"kind": draw(st.sampled_from(["a", "b"]))}
    if draw(st.booleans()):
        more["tolerations"] = draw(st.lists(TOLERATIONS, max_size=2))
    affinity: dict[str, Any] = {}
    if draw(MAYBE):
        affinity["nodeAffinity"] = draw(node_affinities())
    if draw(MAYBE):
        affinity |= draw(pod_affinities())
    if affinity:
        more["affinity"] = affinity
    if draw(MAYBE):
        more["topologySpreadConstraints"] = draw(st.lists(constraints(), min_size=1, max_size=2))
    one = pod(
        "p",
        cpu=draw(st.sampled_from(["", "250m", "1", "1500m"])),
        memory=draw(st.sampled_from(["", "256Mi", "1Gi"])),
        labels=draw(st.sampled_from(LABELS)),
        namespace=draw(st.sampled_from(["default", "default", "other"])),
        requests={"x.io/y": "1"} if draw(MAYBE) else {},
        host_port=draw(st.sampled_from([0, 0, 0, 80, 81])),
        claims=tuple(draw(st.lists(CLAIMS, max_size=3, unique=True))) if draw(MAYBE) else (),
        priority=draw(st.integers(0, 2)),
        **more,
    )
    one["spec"]["containers"][0]["image"] = draw(st.sampled_from(["small:1", "big"]))
    if draw(MAYBE):
        rule = {"action": draw(st.sampled_from(["Restart", "RestartAllContainers"]))}
        one["spec"]["containers"][0]["restartPolicyRules"] = [rule]
    return one


@st.composite
def ways(draw: st.DrawFn) -> Ways:
    found = Ways(strategy=draw(st.sampled_from([s.value for s in Strategy])))
    if found.strategy == Strategy.REQUESTED_TO_CAPACITY_RATIO.value:
        found.shape = draw(st.sampled_from([((0, 0), (100, 10)), ((0, 10), (40, 3), (100, 0)), ((20, 5),)]))
    found.resources = draw(
        st.sampled_from([(("cpu", 1), ("memory", 1)), (("cpu", 3), ("memory", 1), ("x.io/y", 5)), (("memory", 1),)])
    )
    if draw(MAYBE):
        found.ignored = frozenset(["x.io/y"])
    if draw(MAYBE):
        found.added = draw(node_affinities())
    found.hard_weight = draw(st.sampled_from([0, 1, 50]))
    found.ignore_preferred = draw(st.booleans())
    if draw(st.booleans()):
        found.constraints = draw(st.lists(constraints(defaults=True), max_size=2))
    found.storage = draw(st.sampled_from([((0, 10), (100, 0)), ((0, 0), (100, 10)), ((10, 1), (60, 9), (90, 2))]))
    if draw(st.booleans()):
        # Who binds volumes also promises them.
        found.off = frozenset(draw(st.sets(st.sampled_from(DEFAULT_FILTERS)))) - {"VolumeBinding"}
    found.weights = {name: draw(st.integers(0, 5)) for name in WEIGHTS if draw(st.integers(0, 4))}
    return found


def profile(of: Ways) -> Profile:
    """The same ways, as the scheduler is told them."""
    fit = FitArgs(strategy=Strategy(of.strategy), resources=of.resources, shape=of.shape, ignored_resources=of.ignored)
    near = InterPodAffinityArgs(
        hard_pod_affinity_weight=of.hard_weight, ignore_preferred_terms_of_existing_pods=of.ignore_preferred
    )
    defaults = None if of.constraints is None else tuple(of.constraints)
    return Profile(
        name="default-scheduler",
        filters=tuple(name for name in DEFAULT_FILTERS if name not in of.off),
        scores=tuple(of.weights.items()),
        args={
            "NodeResourcesFit": fit,
            "InterPodAffinity": near,
            "NodeAffinity": NodeAffinityArgs(added_affinity=of.added),
            "PodTopologySpread": SpreadArgs(default_constraints=defaults),
            "VolumeBinding": VolumeBindingArgs(shape=of.storage),
        },
    )


SERVICE = {"kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "u"}}}


def pair(cluster: list[dict[str, Any]], of: Ways) -> tuple[World, Reference]:
    """The same cluster for both: nodes, namespaces, a Service, claims and what drivers can attach."""
    world, twin = World(*cluster, profiles=(profile(of),)), Reference(cluster, of)
    twin.namespaces = {"default": {}, "other": {"team": "x"}}
    for name, labels in twin.namespaces.items():
        world.snapshot.set_namespace(name, labels)
    world.cluster.owners.set("Service", SERVICE)
    world.volumes.classes["standard"] = storage_class("standard", provisioner="csi.x")
    for i, zone in enumerate(["1", "1__2", None, None]):
        twin.volumes[f"v{i}"] = volume(f"v{i}")
        twin.volumes[f"v{i}"]["spec"]["csi"] = {"driver": "csi.x", "volumeHandle": f"v{i}"}
        if zone:
            twin.volumes[f"v{i}"]["metadata"]["labels"] = {ZONE: zone}
        for namespace in twin.namespaces:
            one = claim(f"c{i}", volume=f"v{i}")
            one["metadata"]["namespace"] = namespace
            one["spec"]["accessModes"] = ["ReadWriteOncePod" if i == 3 else "ReadWriteMany"]
            twin.claims[f"{namespace}/c{i}"] = one
            world.volumes.set_claim(one)
        world.volumes.set_volume(twin.volumes[f"v{i}"])
    with_waiting_claims(world, twin)
    twin.limits = {"n0": 1, "n1": 2}
    for name, count in twin.limits.items():
        drivers = [{"name": "csi.x", "nodeID": name, "allocatable": {"count": count}}, {"name": "csi.z"}]
        world.volumes.use.set_csi_node({"metadata": {"name": name}, "spec": {"drivers": drivers}})
    twin.strict = {"csi.z"}  # and other nodes do not have it
    world.volumes.set_driver({"metadata": {"name": "csi.z"}, "spec": {"preventPodSchedulingIfMissing": True}})
    for at in twin.places:
        at.drivers = {"csi.x", "csi.z"} if at.name in twin.limits else set()
    return world, twin


def with_waiting_claims(world: World, twin: Reference) -> None:
    """Claims of three classes whose volumes are there, or can be made where there is room, or both."""
    made = (("none", "kubernetes.io/no-provisioner"), ("some", "csi.y"), ("any", "csi.z"))
    for of, provisioner in made:
        twin.classes[of] = world.volumes.classes[of] = storage_class(of, provisioner=provisioner)
    for i, (of, size) in enumerate([("none", "1Gi"), ("some", "1Gi"), ("some", "3Gi"), ("any", "2Gi")], start=4):
        for namespace in twin.namespaces:
            one = claim(f"c{i}", of=of, storage=size)
            one["metadata"]["namespace"] = namespace
            twin.claims[f"{namespace}/c{i}"] = one
            world.volumes.set_claim(one)
    for i, (of, size, where) in enumerate(
        [("none", "2Gi", "n0"), ("none", "4Gi", "n1"), ("none", "7Gi", ""), ("some", "3Gi", "n1"), ("some", "4Gi", "")]
    ):
        one = twin.volumes[f"w{i}"] = volume(f"w{i}", of=of, size=size, on=(where,) if where else ())
        world.volumes.set_volume(one)
    for i, (of, size, most, topology) in enumerate(
        [("some", "5Gi", "", {"kind": "a"}), ("some", "9Gi", "1Gi", {"kind": "a"}), ("some", "4Gi", "", {"kind": "b"})]
    ):
        capacity = {"storageClassName": of, "capacity": size, "nodeTopology": {"matchLabels": topology}}
        capacity |= {"maximumVolumeSize": most} if most else {}
        twin.capacities.append(capacity)
        world.volumes.capacities[f"driver/c{i}"] = {"metadata": {"name": f"c{i}"}, **capacity}


def check_sums(world: World) -> None:
    """The arrays are the sums of the pods."""
    for name, row in world.snapshot.nodes():
        for resource, column in world.snapshot.columns.items():
            total = sum(p.shape.requests.get(resource, 0) for p in world.snapshot.pods_on(name).values())
            assert world.snapshot.requested[row, column] == total


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cluster=nodes(), arrivals=st.lists(pods(), max_size=10), of=ways(), data=st.data())
def test_decisions_are_those_of_the_reference(
    cluster: list[dict], arrivals: list[dict], of: Ways, data: st.DataObject
) -> None:
    world, twin = pair(cluster, of)
    twin.services = [SERVICE]
    for number, one in enumerate(arrivals):
        one["metadata"]["name"] = f"p{number}"
        twin.services = [SERVICE] if one["metadata"]["namespace"] == "default" else []
        expected = {at.name: twin.refused_by(one, at) for at in twin.places}
        explained = world.cycle.explain(info(one))
        told = {n.node: n.refusal.plugin if n.refusal else "" for n in explained.nodes}
        assert told == expected
        decision = world.decide(one)
        if isinstance(decision, Placement):
            assert decision.node == twin.choose(one)
            place = next(at for at in twin.places if at.name == decision.node)
            twin.promised |= {name: (place.name, made) for name, made in twin.bindings(one, place) or ()}
            place.pods.append(one)
        else:
            assert all(expected.values())
            check_preemption(twin, one, decision)
        check_sums(world)
        if number % 5 == 4 and data.draw(st.booleans()):
            busy = [at for at in twin.places if at.pods]
            if busy:
                gone = busy[0].pods.pop(0)
                world.snapshot.remove_pod(f"{gone['metadata']['namespace']}/p{gone['metadata']['name'][1:]}")


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cluster=nodes(),
    asked=st.lists(st.lists(CLAIMS, min_size=1, max_size=4, unique=True), min_size=1, max_size=4),
    of=ways(),
)
def test_storage_is_worth_what_the_reference_says(cluster: list[dict], asked: list[list[str]], of: Ways) -> None:
    of.weights = {"VolumeBinding": 1}
    world, twin = pair(cluster, of)
    for number, claims in enumerate(asked):
        one = pod(f"p{number}", claims=tuple(claims))
        expected = {at.name: twin.storage_score(one, at) for at in twin.places if not twin.refused_by(one, at)}
        told = {n.node: int(n.total) for n in world.cycle.explain(info(one)).nodes if n.refusal is None}
        assert told == expected
        decision = world.decide(one)
        if isinstance(decision, Placement):
            place = next(at for at in twin.places if at.name == decision.node)
            twin.promised |= {name: (place.name, made) for name, made in twin.bindings(one, place) or ()}
            place.pods.append(one)


def check_preemption(twin: Reference, one: dict[str, Any], failure: Failure) -> None:
    """Victims are those that trying out finds, on a node where that helps; none only where it helps nowhere."""
    helps = {at.name: v for at in twin.places if (v := twin.victims(one, at))}
    if failure.preemption is None:
        assert not helps or all(unresolvable(twin, one, at) for at in twin.places if at.name in helps)
    else:
        found = sorted(victim.name for victim in failure.preemption.victims)
        assert found == sorted(helps[failure.preemption.node])


def unresolvable(twin: Reference, one: dict[str, Any], at: Any) -> bool:
    """Refusals that Kubernetes does not expect a deletion to change."""
    return twin.refused_by(one, at) in ("PodTopologySpread", "InterPodAffinity", "NodeResourcesFit")


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
