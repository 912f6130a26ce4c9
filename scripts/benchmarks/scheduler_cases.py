"""Cases of kube-scheduler's own benchmark (scheduler_perf), rebuilt from their public configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rayplane.control_plane.api.meta import Object

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
NODES = 5000
Make = Callable[[int], Object]


@dataclass(frozen=True, slots=True)
class Case:
    """Nodes, pods that are there before, and pods whose rate counts. `threshold`: pods per second that Kubernetes' own
    scheduler must reach in its continuous integration; of pod groups it is groups per second."""

    name: str
    threshold: int
    measured: int
    pod: Make
    first: tuple[tuple[int, Make], ...] = ()
    nodes: int = NODES
    node: Make = field(default=lambda i: node(i))
    #: Something that happens once for each so many measured pods.
    churn: str = ""
    churn_every: int = 100
    #: Namespaces with labels.
    namespaces: tuple[tuple[str, dict[str, str]], ...] = ()
    volumes: str = ""
    """The driver of each pod's own bound volume; `limits` of it on each node."""
    limits: int = 0
    gang: int = 0
    """Pods of one pod group; 0 for pods that are decided one by one."""
    devices: int = 0
    """Devices of each node; each pod has a claim to one. `claimed` of all are taken before."""
    claimed: int = 0
    wave: int = 0
    """So many pods are there at the same time: when the next ones come, they are gone. 0: they stay."""
    has_service: bool = False


def node(i: int, *, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    name = f"node-{i:05}"
    return {
        "metadata": {"name": name, "labels": {HOST: name, **(labels or {})}},
        "spec": spec,
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
    }


def zoned(*zones: str) -> Make:
    return lambda i: node(i, labels={ZONE: zones[i % len(zones)]})


def tainted_last(count: int) -> Make:
    taint = {"key": "foo", "value": "", "effect": "NoSchedule"}
    return lambda i: node(i, taints=[taint]) if i >= NODES - count else node(i)


def pod(
    prefix: str,
    *,
    cpu: str = "100m",
    namespace: str = "sched-1",
    spaces: int = 0,
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Make:
    """Pods of one template; with `spaces`, spread over so many namespaces of that name."""

    def make(i: int) -> Object:
        own = f"{namespace}-{i % spaces}" if spaces else namespace
        requests = {"requests": {"cpu": cpu, "memory": "500Mi"}}
        return {
            "metadata": {"name": f"{prefix}-{i}", "namespace": own, "uid": f"{prefix}-{i}", "labels": labels or {}},
            "spec": {"containers": [{"name": "pause", "image": "pause:3", "resources": requests}], **spec},
        }

    return make


def term(key: str, color: str, **where: Any) -> dict[str, Any]:
    names = {"namespaces": ["sched-1", "sched-0"]}
    return {"topologyKey": key, "labelSelector": {"matchLabels": {"color": color}}, **(where or names)}


def required(kind: str, one: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [one]}}


def preferred(kind: str, one: dict[str, Any]) -> dict[str, Any]:
    wish = {"weight": 1, "podAffinityTerm": one}
    return {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}


def spread(key: str, skew: int, action: str, labels: dict[str, str], **more: Any) -> list[dict[str, Any]]:
    selector = {"matchLabels": labels}
    return [{"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": action, "labelSelector": selector, **more}]


def _named_affinity(name: str) -> dict[str, Any]:
    fields = [{"key": "metadata.name", "operator": "In", "values": [name]}]
    terms = {"nodeSelectorTerms": [{"matchFields": fields}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _zone_affinity() -> dict[str, Any]:
    rule = {"key": ZONE, "operator": "In", "values": ["zone1", "zone2"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


DEVOPS = {"namespaceSelector": {"matchLabels": {"team": "devops"}}}
_SPACES = (*((f"init-{i}", {"team": "devops"}) for i in range(100)), ("measure", {"team": "devops"}))
_COLORED = {"color": "green"}
APART = required("podAntiAffinity", term(HOST, "green"))
NEAR = required("podAffinity", term(ZONE, "blue"))
LIKES, DISLIKES = preferred("podAffinity", term(HOST, "red")), preferred("podAntiAffinity", term(HOST, "yellow"))
VIP = pod("vip", cpu="3", priority=10)
HUGE = pod("huge", cpu="9", priority=10)


def _both(
    name: str, threshold: int, first: int, measured: int, color: str, affinity: dict[str, Any], **more: Any
) -> Case:
    """The same pods before and in the measurement, in two namespaces."""
    labels = {"color": color}
    before = pod("init", namespace="sched-0", labels=labels, affinity=affinity)
    return Case(name, threshold, measured, pod("p", labels=labels, affinity=affinity), first=((first, before),), **more)


def _by_selector(name: str, threshold: int, each: int, measured: int, rule: dict[str, Any], **more: Any) -> Case:
    """Pods of 100 namespaces of a team, then of one more."""
    before = pod("init", namespace="init", spaces=100, labels=_COLORED, affinity=rule)
    after = pod("p", namespace="measure", labels=_COLORED, affinity=rule)
    return Case(name, threshold, measured, after, first=((100 * each, before),), namespaces=_SPACES, **more)


def cases() -> Iterator[Case]:
    basic, low = pod("p"), pod("low", cpu="900m")
    before = pod("init", namespace="sched-0")
    yield Case("SchedulingBasic", 680, 10_000, basic, first=((1000, before),))
    yield Case("SchedulingBasic 50000", 810, 50_000, basic, first=((5000, before),))
    named = pod("p", cpu="1m", affinity=_named_affinity("node-00000"))
    yield Case("SchedulingDaemonset", 1100, 30_000, named, nodes=15_001, node=_roomy)
    yield _both("SchedulingPodAntiAffinity", 60, 1000, 2000, "green", APART)
    matching = pod("p", labels=_COLORED)
    apart = pod("init", namespace="sched-0", labels=_COLORED, affinity=APART)
    yield Case("SchedulingPodMatchingAntiAffinity", 595, 5000, matching, first=((1000, apart),))
    zone = zoned("zone1")
    yield _both("SchedulingPodAffinity", 35, 5000, 5000, "blue", NEAR, node=zone)
    yield _both("SchedulingPreferredPodAffinity", 90, 5000, 5000, "red", LIKES)
    yield _both("SchedulingPreferredPodAntiAffinity", 90, 5000, 5000, "yellow", DISLIKES)
    yield _both("SchedulingNodeAffinity", 220, 5000, 10_000, "none", _zone_affinity(), node=zone)
    mixed = [("near", "blue", NEAR), ("apart", "green", APART), ("likes", "red", LIKES)]
    mixed += [("dislikes", "yellow", DISLIKES)]
    makes = [pod(n, namespace="sched-0", labels={"color": c}, affinity=a) for n, c, a in mixed]
    yield Case("MixedSchedulingBasePod", 140, 5000, basic, first=tuple((2000, m) for m in (before, *makes)), node=zone)
    anti, near = required("podAntiAffinity", term(HOST, "green", **DEVOPS)), term(ZONE, "green", **DEVOPS)
    yield _by_selector("SchedulingRequiredPodAntiAffinityWithNSSelector", 24, 40, 2000, anti, nodes=6000)
    dislikes = preferred("podAntiAffinity", term(HOST, "green", **DEVOPS))
    yield _by_selector("SchedulingPreferredAntiAffinityWithNSSelector", 55, 40, 2000, dislikes)
    yield _by_selector(
        "SchedulingRequiredPodAffinityWithNSSelector", 35, 50, 2000, required("podAffinity", near), node=zone
    )
    likes = preferred("podAffinity", term(HOST, "green", **DEVOPS))
    yield _by_selector("SchedulingPreferredAffinityWithNSSelector", 90, 50, 5000, likes)
    yield from _of_spreading(basic, before)
    yield Case("PreemptionAsync", 570, 5000, basic, first=((20_000, low),), churn="vip")
    yield Case("Unschedulable 20kInit", 600, 10_000, basic, first=((20_000, before),), churn="huge")
    yield Case("SchedulingWithMixedChurn", 710, 10_000, basic, churn="mixed")
    yield from _of_volumes(basic, before)
    yield from _of_groups()
    yield from _of_devices()


def _of_groups() -> Iterator[Case]:
    """scheduler_perf's threshold for these is the milliseconds that an attempt may take on average."""
    for groups, attempt_ms in ((1000, 8), (2000, 10), (3000, 12)):
        yield Case(f"GangScheduling {groups}", 1000 // attempt_ms, 3 * groups, pod("p"), gang=3)


def _of_devices() -> Iterator[Case]:
    """Of two thresholds, with queueing hints and without, the higher one."""
    base = Case("SchedulingWithResourceClaimTemplate", 56, 2500, pod("p", cpu="1m"), nodes=500, devices=10)
    yield replace(base, first=((2500, pod("init", cpu="1m")),))
    steady = replace(base, measured=1000, wave=10)
    for part, threshold, claimed in (("empty", 64, 0), ("half", 70, 2500), ("full", 60, 4990)):
        yield replace(steady, name=f"SteadyStateResourceClaims {part}", threshold=threshold, claimed=claimed)


def _roomy(i: int) -> Object:
    found = node(i)
    if i == 0:
        found["status"]["allocatable"] = {"cpu": "1000", "memory": "100Ti", "pods": "90000"}
    return found


def _of_spreading(basic: Make, before: Make) -> Iterator[Case]:
    moons, blue = zoned("moon-1", "moon-2", "moon-3"), {"color": "blue"}
    for name, threshold, action in (
        ("TopologySpreading", 460, "DoNotSchedule"),
        ("PreferredTopologySpreading", 340, "ScheduleAnyway"),
    ):
        rule = spread(ZONE, 5, action, blue)
        make = pod("p", labels=blue, topologySpreadConstraints=rule)
        yield Case(name, threshold, 5000, make, first=((5000, before),), node=moons)
    served = pod("p", namespace="service-ns", labels={"foo": ""})
    yield Case("DefaultTopologySpreading", 160, 50_000, served, first=((5000, before),), node=moons, has_service=True)
    honor = spread(HOST, 1, "DoNotSchedule", {"foo": ""}, nodeTaintsPolicy="Honor")
    make = pod("p", labels={"foo": ""}, topologySpreadConstraints=honor)
    yield Case("SchedulingWithNodeInclusionPolicy", 270, 4000, make, node=tainted_last(1000))


def _of_volumes(basic: Make, before: Make) -> Iterator[Case]:
    base = Case("SchedulingInTreePVs", 290, 2000, basic, first=((1000, before),), volumes="aws")
    yield base
    many = replace(base, threshold=100, measured=5000, first=((5000, before),), limits=39)
    yield replace(many, name="SchedulingMigratedInTreePVs")
    yield replace(many, name="SchedulingCSIPVs", volumes="ebs.csi.aws.com")
