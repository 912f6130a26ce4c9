"""Which events wake a pod, by the plug-in that refused it: what can help does, what cannot does not."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api.pods.declared_features import DECLARED
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.events import Action, Event, Resource, node_actions, pod_actions
from rayplane.control_plane.scheduler.hints import CLAIM_MISSING, CLAIM_UNNAMED, HINTS, Hint, Hints
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.snapshot import Snapshot
from tests.scheduler.build import claim, info, node, on, pod, storage_class, volume
from tests.scheduler.test_dynamic_resources import user, wanted

ZONE = "topology.kubernetes.io/zone"
NO_EXECUTE = [{"key": "k", "value": "v", "effect": "NoExecute"}]
SOFT = [{"key": "k", "value": "v", "effect": "PreferNoSchedule"}]
WEB = {"matchLabels": {"app": "web"}}
TOKEN = {"name": "kube-api-access", "projected": {"sources": []}}


def spread(**more: Any) -> dict[str, Any]:
    rule = {"topologyKey": ZONE, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": WEB, **more}
    return pod("p", topologySpreadConstraints=[rule])


def near(kind: str, **term: Any) -> dict[str, Any]:
    found = {"topologyKey": ZONE, "labelSelector": WEB, **term}
    return pod("p", affinity={kind: {"requiredDuringSchedulingIgnoredDuringExecution": [found]}})


def node_event(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Event:
    before, after = (None if one is None else NodeInfo.of(one) for one in (old, new))
    if before is None or after is None:
        return Event(Resource.NODE, Action.ADD if before is None else Action.DELETE, before, after)
    return Event(Resource.NODE, node_actions(before, after), before, after)


def pod_event(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Event:
    before, after = (None if one is None else info(on("n", one)) for one in (old, new))
    if before is None or after is None:
        return Event(Resource.ASSIGNED_POD, Action.ADD if before is None else Action.DELETE, before, after)
    return Event(Resource.ASSIGNED_POD, pod_actions(before, after), before, after)


def own(old: dict[str, Any], new: dict[str, Any]) -> Event:
    before, after = info(old), info(new)
    return Event(Resource.PENDING_POD, pod_actions(before, after), before, after)


def made(resource: Resource, new: Any) -> Event:
    return Event(resource, Action.ADD, None, new)


def devices_event(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Event:
    action = Action.ADD if old is None else Action.DELETE if new is None else Action.UPDATE
    return Event(Resource.RESOURCE_CLAIM, action, old, new)


def with_devices(name: str, *devices: str) -> dict[str, Any]:
    return {**wanted(name), "status": {"allocation": {"devices": {"results": [{"device": d} for d in devices]}}}}


def web(name: str = "w", **more: Any) -> dict[str, Any]:
    return pod(name, labels={"app": "web"}, **more)


def spec(one: dict[str, Any], **more: Any) -> dict[str, Any]:
    return one | {"spec": one["spec"] | more}


BIG, SMALL = pod("p", cpu="2"), pod("p", cpu="1")
LABELLED = pod("p", nodeSelector={"disk": "ssd"})
TOLERANT = [{"operator": "Exists"}]
N, Z = node("n"), node("n", labels={ZONE: "z"})
DECLARING = N | {"status": N["status"] | {"declaredFeatures": [*DECLARED]}}
DEMANDING = spec(BIG, containers=[{"restartPolicyRules": [{"action": "RestartAllContainers"}]}])
SPACE = node("n", cpu="8", annotations={"rayplane.io/volume-capacity": "1000"})
GPUS = pod("p", requests={"example.com/gpu": "1"})
LEFT_OVER = wanted(DeviceIndex.key_of_resources(info(GPUS)).partition("/")[2])
TO_BE_NAMED = pod("p", resourceClaims=[{"name": "c", "resourceClaimTemplateName": "t"}])
NAMED = TO_BE_NAMED | {"status": {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "x"}]}}
CASES = [
    ("NodeResourcesFit", BIG, node_event(None, node("n", cpu="2")), True),
    ("NodeResourcesFit", BIG, node_event(None, node("n", cpu="1")), False),
    ("NodeResourcesFit", BIG, node_event(node("n", cpu="1"), node("n", cpu="3")), True),
    ("NodeResourcesFit", BIG, node_event(node("n", cpu="1"), node("n", cpu="1500m")), False),
    ("NodeResourcesFit", BIG, node_event(node("n", memory="1Gi"), node("n", memory="2Gi")), False),
    ("NodeResourcesFit", BIG, node_event(node("n", pods=1), node("n", pods=2)), True),
    ("NodeResourcesFit", BIG, node_event(N, node("n", labels={"a": "b"})), False),
    ("NodeResourcesFit", BIG, pod_event(web(), None), True),
    ("NodeResourcesFit", BIG, pod_event(None, web()), False),
    ("NodeResourcesFit", BIG, pod_event(web(cpu="2"), web(cpu="1")), True),
    ("NodeResourcesFit", BIG, pod_event(web(cpu="1"), web(cpu="2")), False),
    ("NodeResourcesFit", BIG, own(BIG, SMALL), True),
    ("NodeResourcesFit", BIG, own(pod("q", cpu="2"), pod("q", cpu="1")), False),
    ("NodeUnschedulable", BIG, node_event(node("n", unschedulable=True), N), True),
    ("NodeUnschedulable", BIG, node_event(N, node("n", unschedulable=True)), False),
    ("NodeUnschedulable", BIG, node_event(None, node("n", unschedulable=True)), False),
    ("NodeUnschedulable", BIG, own(BIG, spec(BIG, tolerations=TOLERANT)), True),
    ("TaintToleration", BIG, node_event(node("n", taints=NO_EXECUTE), node("n", taints=SOFT)), True),
    ("TaintToleration", BIG, node_event(None, node("n", taints=NO_EXECUTE)), False),
    ("TaintToleration", BIG, node_event(node("n", taints=SOFT), N), False),
    ("NodeAffinity", LABELLED, node_event(N, node("n", labels={"disk": "ssd"})), True),
    ("NodeAffinity", LABELLED, node_event(N, node("n", labels={"disk": "slow"})), False),
    ("NodeAffinity", LABELLED, node_event(None, N), False),
    ("NodePorts", pod("p", host_port=80), pod_event(pod("q", host_port=80), None), True),
    ("NodePorts", pod("p", host_port=80), pod_event(pod("q", host_port=81), None), False),
    ("PodTopologySpread", spread(), pod_event(None, web()), True),
    ("PodTopologySpread", spread(), pod_event(None, pod("db")), False),
    ("PodTopologySpread", spread(), pod_event(None, web(namespace="other")), False),
    ("PodTopologySpread", spread(), pod_event(pod("w"), web()), True),
    ("PodTopologySpread", spread(), pod_event(web(), pod("w", labels={"app": "web", "x": "y"})), False),
    ("PodTopologySpread", spread(), node_event(None, Z), True),
    ("PodTopologySpread", spread(), node_event(None, N), False),
    ("PodTopologySpread", spread(), node_event(Z, None), True),
    ("PodTopologySpread", spread(), node_event(Z, node("n", labels={ZONE: "y"})), True),
    ("PodTopologySpread", spread(), node_event(Z, node("n", labels={ZONE: "z", "a": "b"})), False),
    ("PodTopologySpread", spread(nodeTaintsPolicy="Honor"), node_event(node("n", taints=NO_EXECUTE), N), True),
    ("PodTopologySpread", spread(), node_event(node("n", taints=NO_EXECUTE), N), False),
    ("PodTopologySpread", pod("ruled-by-default"), pod_event(web(), None), True),
    ("PodTopologySpread", pod("ruled-by-default"), pod_event(None, web(namespace="other")), False),
    ("PodTopologySpread", pod("ruled-by-default"), node_event(Z, node("n", labels={ZONE: "y"})), True),
    ("InterPodAffinity", near("podAffinity"), pod_event(None, web()), True),
    ("InterPodAffinity", near("podAffinity"), pod_event(None, pod("db")), False),
    ("InterPodAffinity", near("podAffinity"), pod_event(pod("w"), web()), True),
    ("InterPodAffinity", near("podAffinity"), pod_event(web(), None), False),
    ("InterPodAffinity", near("podAntiAffinity"), pod_event(web(), None), True),
    ("InterPodAffinity", near("podAntiAffinity"), pod_event(web(), pod("w")), True),
    ("InterPodAffinity", near("podAntiAffinity"), pod_event(None, web()), False),
    ("InterPodAffinity", web("other"), pod_event(near("podAntiAffinity"), None), True),
    ("InterPodAffinity", near("podAffinity", namespaceSelector={}), made(Resource.NAMESPACE, {}), True),
    ("InterPodAffinity", near("podAffinity"), made(Resource.NAMESPACE, {}), False),
    ("InterPodAffinity", near("podAffinity"), node_event(N, Z), True),
    ("NodeDeclaredFeatures", DEMANDING, node_event(N, DECLARING), True),
    ("NodeDeclaredFeatures", DEMANDING, node_event(None, N), False),
    ("NodeDeclaredFeatures", DEMANDING, node_event(DECLARING, N), False),
    ("VolumeBinding", pod("p", claims=("data",)), node_event(N, SPACE), True),
    ("VolumeBinding", pod("p", claims=("data",)), made(Resource.CLAIM, claim("data")), True),
    ("VolumeBinding", pod("p", claims=("data",)), made(Resource.CLAIM, claim("other")), False),
    ("VolumeBinding", pod("p", claims=("data",)), made(Resource.VOLUME, volume("v")), True),
    ("VolumeBinding", pod("p", claims=("data",)), made(Resource.STORAGE_CLASS, storage_class("s")), True),
    ("VolumeRestrictions", pod("p", claims=("data",)), pod_event(pod("q", claims=("data",)), None), True),
    ("VolumeRestrictions", pod("p", claims=("data",)), pod_event(pod("q", claims=("other",)), None), False),
    ("NodeVolumeLimits", pod("p", claims=("data",)), pod_event(pod("q", claims=("other",)), None), True),
    ("NodeVolumeLimits", pod("p", claims=("data",)), pod_event(pod("q"), None), False),
    ("NodeVolumeLimits", pod("p", claims=("data",)), pod_event(pod("q", volumes=[TOKEN]), None), False),
    ("VolumeBinding", pod("p", claims=("data",)), pod_event(pod("q", volumes=[TOKEN]), None), False),
    ("VolumeBinding", pod("p", claims=("data",)), pod_event(pod("q", claims=("other",)), None), True),
    ("DynamicResources", user("p", "x"), devices_event(None, wanted("x")), True),
    ("DynamicResources", user("p", "x"), devices_event(None, wanted("y")), False),
    ("DynamicResources", user("p", "x"), devices_event(wanted("y"), with_devices("y", "g0")), False),
    ("DynamicResources", user("p", "x"), devices_event(with_devices("y", "g0"), wanted("y")), True),
    ("DynamicResources", user("p", "x"), devices_event(with_devices("y", "g0"), with_devices("y", "g1")), True),
    ("DynamicResources", user("p", "x"), devices_event(with_devices("y", "g0"), None), True),
    ("DynamicResources", user("p", "x"), devices_event(wanted("y"), None), False),
    ("DynamicResources", GPUS, devices_event(LEFT_OVER, None), True),
    ("DynamicResources", user("p", "x"), pod_event(user("q", "y"), None), True),
    ("DynamicResources", GPUS, pod_event(spec(GPUS) | {"metadata": pod("q")["metadata"]}, None), True),
    ("DynamicResources", user("p", "x"), pod_event(web(cpu="1"), None), False),
    ("DynamicResources", user("p", "x"), node_event(None, N), True),
    (CLAIM_UNNAMED, TO_BE_NAMED, own(TO_BE_NAMED, NAMED), True),
    (CLAIM_UNNAMED, TO_BE_NAMED, devices_event(None, wanted("x")), False),
    (CLAIM_MISSING, NAMED, devices_event(None, wanted("x")), True),
    (CLAIM_MISSING, NAMED, devices_event(None, wanted("y")), False),
    (CLAIM_MISSING, NAMED, devices_event(wanted("x"), None), True),
    (CLAIM_MISSING, NAMED, devices_event(with_devices("y", "g0"), None), False),
    (CLAIM_MISSING, NAMED, node_event(None, N), False),
    ("SchedulingGates", pod("p"), own(spec(pod("p"), schedulingGates=[{"name": "g"}]), pod("p")), True),
    ("SchedulingGates", pod("p"), pod_event(web(), None), False),
    ("Unheard", pod("p"), made(Resource.CSI_DRIVER, {}), True),
]


@pytest.mark.parametrize(("plugin", "one", "event", "wakes"), CASES)
def test_hint(plugin: str, one: dict[str, Any], event: Event, wakes: bool) -> None:
    hints = Hints(Snapshot())
    concerned = hints.concerned(frozenset((plugin,)), event)
    assert bool(concerned and hints.help(concerned, info(one), event)) is wakes


def test_every_plugin_of_the_table_has_both_answers_or_says_whom_it_trusts() -> None:
    """A table entry that no case reads is one that nobody would miss."""
    read = {plugin for plugin, *_ in CASES}
    coarse = {"", "NodeName", "VolumeZone", "GangScheduling"}
    assert read >= {name for name, hints in HINTS.items() if hints} - coarse


def test_a_hint_that_fails_wakes_the_pod() -> None:
    def broken(*_: Any) -> bool:
        raise RuntimeError("hint")

    hints = Hints(Snapshot(), {"Mine": (Hint(Resource.NODE, Action.ADD, broken),)})
    event = node_event(None, N)
    assert hints.help(hints.concerned(frozenset(("Mine",)), event), info(BIG), event)
