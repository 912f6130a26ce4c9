"""Random nodes, pods and profiles out of Dice, and the cluster of them for the scheduler and for the reference."""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.scheduler.config import DEFAULT_FILTERS, Profile
from rayplane.control_plane.scheduler.plugins.args import (
    FitArgs,
    InterPodAffinityArgs,
    NodeAffinityArgs,
    SpreadArgs,
    Strategy,
    VolumeBindingArgs,
)
from tests.scheduler import random_devices
from tests.scheduler.build import World, claim, node, pod, storage_class, volume
from tests.scheduler.devices_reference import Devices
from tests.scheduler.dice import Dice
from tests.scheduler.reference import HOST, MEGA, WEIGHTS, ZONE, Reference, Ways
from tests.scheduler.test_dynamic_resources import offered

RACK = "rack"
LABELS = [{"app": "u"}, {"app": "v"}, {"app": "u", "rev": "1"}, {"app": "v", "rev": "2"}]
CLAIMS = [f"c{i}" for i in range(8)]
DEVICE_CLAIMS = ["d0", "d1", "d2"]
SERVICE = {"kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "u"}}}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def rule(dice: Dice) -> dict[str, Any]:
    """A rule on labels of nodes."""
    operator = dice.choice(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"])
    if operator in ("Gt", "Lt"):
        return {"key": "cores", "operator": operator, "values": [dice.choice("14")]}
    values = dice.sample(["a", "b", "1", "2"], dice.randint(1, 2))
    key = dice.choice(["kind", "cores", ZONE])
    return {"key": key, "operator": operator, **({"values": values} if operator in ("In", "NotIn") else {})}


def node_term(dice: Dice) -> dict[str, Any]:
    term: dict[str, Any] = {"matchExpressions": dice.few(rule, 0, 2)}
    if dice.maybe():
        term["matchFields"] = [{"key": "metadata.name", "operator": "In", "values": [f"n{dice.randint(0, 5)}"]}]
    return term


def node_affinity(dice: Dice) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if dice.coin():
        found[REQUIRED] = {"nodeSelectorTerms": dice.few(node_term, 1, 2)}
    if dice.coin():
        found[PREFERRED] = [{"weight": dice.randint(1, 100), "preference": term} for term in dice.few(node_term, 1, 2)]
    return found


def taint(dice: Dice) -> dict[str, Any]:
    effect = dice.choice(["NoSchedule", "NoExecute", "PreferNoSchedule", "PreferNoSchedule"])
    return {"key": dice.choice(["t", "level"]), "value": dice.choice(["", "1", "5"]), "effect": effect}


def toleration(dice: Dice) -> dict[str, Any]:
    found = {"operator": dice.choice(["Equal", "Exists", "Gt", "Lt"]), "value": dice.choice("135")}
    if dice.coin():
        found["key"] = dice.choice(["t", "level"])
    if dice.coin():
        found["effect"] = dice.choice(["NoSchedule", "PreferNoSchedule"])
    return found


def a_node(dice: Dice, number: int) -> dict[str, Any]:
    labels = {"kind": dice.choice("ab"), "cores": dice.choice(["1", "2", "8", "x"])}
    if (zone := dice.choice(["1", "2", None])) is not None:
        labels[ZONE] = zone
    if (rack := dice.choice(["r", "s", None])) is not None:
        labels[RACK] = rack
    one = node(
        f"n{number}",
        cpu=dice.choice("124"),
        memory=dice.choice(["1Gi", "4Gi", "0"]),
        pods=dice.choice([1, 3, 110]),
        labels=labels,
        taints=dice.few(taint, 0, 2) if dice.maybe() else [],
        unschedulable=dice.random() < 0.1,
        extended={"x.io/y": "2"} if dice.coin() else {},
    )
    if dice.coin():
        one["status"]["images"] = [{"names": ["big:latest"], "sizeBytes": 800 * MEGA}]
    if dice.coin():
        one["status"]["declaredFeatures"] = ["Other", "RestartAllContainersOnContainerExits"]
    return one


def nodes(dice: Dice, count: int) -> list[dict[str, Any]]:
    return [a_node(dice, number) for number in range(count)]


def pod_term(dice: Dice) -> dict[str, Any]:
    found: dict[str, Any] = {
        "topologyKey": dice.choice([HOST, ZONE, RACK]),
        "labelSelector": {"matchLabels": {"app": dice.choice("uv")}},
    }
    if dice.maybe():
        found["labelSelector"] = dice.choice([{}, {"matchExpressions": [{"key": "rev", "operator": "Exists"}]}])
    where = dice.randint(0, 5)
    if where == 0:
        found["namespaces"] = ["other"]
    elif where == 1:
        found["namespaceSelector"] = dice.choice([{}, {"matchLabels": {"team": "x"}}])
    if dice.maybe():
        found[dice.choice(["matchLabelKeys", "mismatchLabelKeys"])] = ["rev"]
    return found


def pod_affinity(dice: Dice) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("podAffinity", "podAntiAffinity"):
        if dice.coin():
            continue
        terms = dice.few(pod_term, 1, 2)
        if dice.coin():
            found[kind] = {REQUIRED: terms}
        else:
            found[kind] = {PREFERRED: [{"weight": dice.randint(1, 100), "podAffinityTerm": term} for term in terms]}
    return found


def default_constraint(dice: Dice) -> dict[str, Any]:
    return {
        "topologyKey": dice.choice([HOST, ZONE, RACK]),
        "maxSkew": dice.randint(1, 3),
        "whenUnsatisfiable": dice.choice(["DoNotSchedule", "ScheduleAnyway"]),
    }


def constraint(dice: Dice) -> dict[str, Any]:
    found = {**default_constraint(dice), "labelSelector": {"matchLabels": {"app": dice.choice("uv")}}}
    if dice.maybe() and found["whenUnsatisfiable"] == "DoNotSchedule":
        found["minDomains"] = dice.randint(1, 4)
    for policy in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
        if dice.maybe():
            found[policy] = dice.choice(["Honor", "Ignore"])
    if dice.maybe():
        found["matchLabelKeys"] = ["rev"]
    return found


def a_pod(dice: Dice, number: int) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if dice.maybe():
        more["nodeSelector"] = {"kind": dice.choice("ab")}
    if dice.coin():
        more["tolerations"] = dice.few(toleration, 0, 2)
    affinity: dict[str, Any] = {"nodeAffinity": node_affinity(dice)} if dice.maybe() else {}
    affinity |= pod_affinity(dice) if dice.maybe() else {}
    if affinity:
        more["affinity"] = affinity
    if dice.maybe():
        more["topologySpreadConstraints"] = dice.few(constraint, 1, 2)
    if dice.maybe():
        names = dice.sample(DEVICE_CLAIMS, dice.randint(1, 2))
        more["resourceClaims"] = [{"name": name, "resourceClaimName": name} for name in names]
    one = pod(
        f"p{number}",
        cpu=dice.choice(["", "250m", "1", "1500m"]),
        memory=dice.choice(["", "256Mi", "1Gi"]),
        labels=dice.choice(LABELS),
        namespace=dice.choice(["default", "default", "other"]),
        requests={"x.io/y": "1"} if dice.maybe() else {},
        host_port=dice.choice([0, 0, 0, 80, 81]),
        claims=tuple(dice.sample(CLAIMS, dice.randint(0, 3))) if dice.maybe() else (),
        priority=dice.randint(0, 2),
        **more,
    )
    one["spec"]["containers"][0]["image"] = dice.choice(["small:1", "big"])
    if dice.maybe():
        action = dice.choice(["Restart", "RestartAllContainers"])
        one["spec"]["containers"][0]["restartPolicyRules"] = [{"action": action}]
    return one


def pods(dice: Dice, count: int) -> list[dict[str, Any]]:
    return [a_pod(dice, number) for number in range(count)]


def ways(dice: Dice) -> Ways:
    found = Ways(strategy=dice.choice([s.value for s in Strategy]))
    if found.strategy == Strategy.REQUESTED_TO_CAPACITY_RATIO.value:
        found.shape = dice.choice([((0, 0), (100, 10)), ((0, 10), (40, 3), (100, 0)), ((20, 5),)])
    found.resources = dice.choice(
        [(("cpu", 1), ("memory", 1)), (("cpu", 3), ("memory", 1), ("x.io/y", 5)), (("memory", 1),)]
    )
    if dice.maybe():
        found.ignored = frozenset(["x.io/y"])
    if dice.maybe():
        found.added = node_affinity(dice)
    found.hard_weight = dice.choice([0, 1, 50])
    found.ignore_preferred = dice.coin()
    if dice.coin():
        found.constraints = dice.few(default_constraint, 0, 2)
    found.storage = dice.choice([((0, 10), (100, 0)), ((0, 0), (100, 10)), ((10, 1), (60, 9), (90, 2))])
    if dice.coin():
        # Who binds volumes also promises them.
        found.off = frozenset(name for name in DEFAULT_FILTERS if dice.maybe()) - {"VolumeBinding"}
    found.weights = {name: dice.randint(0, 5) for name in WEIGHTS if dice.random() < 0.8}
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


def pair(dice: Dice, cluster: list[dict[str, Any]], of: Ways) -> tuple[World, Reference]:
    """The same cluster for both: nodes, namespaces, a Service, claims, what drivers attach, and devices."""
    world, twin = World(*cluster, profiles=(profile(of),)), Reference(cluster, of)
    twin.namespaces = {"default": {}, "other": {"team": "x"}}
    for name, labels in twin.namespaces.items():
        world.snapshot.set_namespace(name, labels)
    world.cluster.owners.set("Service", SERVICE)
    with_bound_claims(world, twin)
    with_waiting_claims(world, twin)
    twin.limits = {"n0": 1, "n1": 2}
    for name, count in twin.limits.items():
        drivers = [{"name": "csi.x", "nodeID": name, "allocatable": {"count": count}}, {"name": "csi.z"}]
        world.volumes.use.set_csi_node({"metadata": {"name": name}, "spec": {"drivers": drivers}})
    twin.strict = {"csi.z"}  # and other nodes do not have it
    world.volumes.set_driver({"metadata": {"name": "csi.z"}, "spec": {"preventPodSchedulingIfMissing": True}})
    for at in twin.places:
        at.drivers = {"csi.x", "csi.z"} if at.name in twin.limits else set()
    with_devices(dice, world, twin)
    return world, twin


def with_bound_claims(world: World, twin: Reference) -> None:
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


def with_devices(dice: Dice, world: World, twin: Reference) -> None:
    """Devices on half of the nodes, and claims that may have them."""
    index = world.cluster.devices
    index.set_class({"metadata": {"name": "gpu"}, "spec": {}})
    rules = random_devices.rules(dice)
    for one in rules:
        index.set_rule(one)
    for at in twin.places:
        if dice.coin():
            found, amount = random_devices.devices(dice, 3), dice.randint(1, 4)
            twin.devices.nodes[at.name] = Devices(found, {"c": amount * 10**9}, rules)
            counters = [{"name": "s", "counters": {"c": {"value": str(amount)}}}]
            index.set_slice(offered(at.name, *found, sharedCounters=counters))
    for name in DEVICE_CLAIMS:
        for namespace in twin.namespaces:
            one = random_devices.claim(dice, name)
            one["metadata"] |= {"namespace": namespace, "uid": f"uid-{namespace}-{name}"}
            twin.devices.claims[f"{namespace}/{name}"] = one
            index.set_claim(one)
