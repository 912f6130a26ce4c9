"""What the scheduler watches: what the plug-ins in use look at, no more; and that its events reach who waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.scheduling.fields import GROUPS
from rayplane.control_plane.scheduler.config import DEFAULT_FILTERS, DEFAULT_SCORES, Profile
from rayplane.control_plane.scheduler.owners import OWNERS
from rayplane.control_plane.scheduler.queue import Place
from tests.fakes import FakeClient
from tests.scheduler.build import claim, node, pod, volume
from tests.scheduler.harness import make, node_of, quiet, until
from tests.scheduler.test_dynamic_resources import exactly, gpu, offered, user, wanted

ALWAYS = {"nodes", "pods"}
BUDGETS = "poddisruptionbudgets.policy"
CSI_NODES = "csinodes.storage.k8s.io"
ATTACHMENTS = "volumeattachments.storage.k8s.io"
CLAIMS, VOLUMES, CLASSES = "persistentvolumeclaims", "persistentvolumes", "storageclasses.storage.k8s.io"
LIMITS = {CLAIMS, VOLUMES, CLASSES, CSI_NODES, ATTACHMENTS, "csidrivers.storage.k8s.io"}
KINDS = ("deviceclasses", "devicetaintrules", "resourceclaims", "resourceslices")
DEVICES = {f"{kind}.resource.k8s.io" for kind in KINDS}
OF_PROFILES: list[tuple[Sequence[str], dict[str, Any], set[str]]] = [
    (["NodeResourcesFit"], {"preempts": False}, set()),
    (["NodeResourcesFit"], {}, {BUDGETS}),
    (["NodeResourcesFit"], {"preempts": False, "gangs": True}, {GROUPS}),
    (["InterPodAffinity"], {"preempts": False}, {"namespaces"}),
    (["NodeVolumeLimits"], {"preempts": False}, LIMITS),
    (["VolumeBinding"], {"preempts": False}, LIMITS - {ATTACHMENTS} | {"csistoragecapacities.storage.k8s.io"}),
    (["DynamicResources"], {"preempts": False}, DEVICES),
    ([], {"preempts": False, "scores": (("ImageLocality", 1),)}, set()),
    (
        DEFAULT_FILTERS,
        {"scores": DEFAULT_SCORES},
        {BUDGETS, "namespaces", "csistoragecapacities.storage.k8s.io", *OWNERS} | LIMITS | DEVICES,
    ),
]


@pytest.mark.parametrize(("filters", "more", "expected"), OF_PROFILES)
async def test_what_is_watched(filters: Sequence[str], more: dict[str, Any], expected: set[str]) -> None:
    api = FakeClient()
    profile = Profile(name="default-scheduler", filters=tuple(filters), **{"scores": (), "gangs": False, **more})
    scheduler = make(api, profiles=(profile,))
    await scheduler.start()
    try:
        api.put("nodes", node("n1"))
        api.put("pods", pod("p"))
        await until(lambda: node_of(api, "p"))
        await quiet(api)
        assert set(api.watched) == expected | ALWAYS
    finally:
        await scheduler.stop()


async def test_a_volume_that_is_detached_wakes_a_pod_that_met_a_limit() -> None:
    api = FakeClient()
    scheduler = make(api)
    await scheduler.start()
    try:
        made = volume("pv")
        made["spec"]["csi"] = {"driver": "d", "volumeHandle": "h"}
        drivers = [{"name": "d", "nodeID": "n1", "allocatable": {"count": 0}}]
        api.put(CSI_NODES, {"metadata": {"name": "n1"}, "spec": {"drivers": drivers}})
        api.put(ATTACHMENTS, {"metadata": {"name": "old"}, "spec": {"attacher": "d", "nodeName": "n1", "source": {}}})
        api.put("nodes", node("n1"))
        api.put(VOLUMES, made)
        api.put(CLAIMS, claim("data", volume="pv"))
        api.put("pods", pod("p", claims=("data",)))
        await until(lambda: any("exceed max volume count" in said for said in api.events("FailedScheduling")))
        await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 1)
        api.remove(ATTACHMENTS, "old")
        incoming = "scheduler_queue_incoming_pods_total"
        await until(
            lambda: any(
                labels[1] == "VolumeAttachmentDelete"
                for family in scheduler.collect()
                if family.name == incoming
                for labels in family.samples
            )
        )
    finally:
        await scheduler.stop()


async def test_devices_that_are_offered_wake_a_pod_that_found_none() -> None:
    api = FakeClient()
    scheduler = make(api)
    await scheduler.start()
    try:
        api.put("nodes", node("n1"))
        api.put("resourceclaims.resource.k8s.io", wanted("x", exactly()))
        api.put("pods", user("p", "x"))
        await until(lambda: any("device class gpu does not exist" in said for said in api.events("FailedScheduling")))
        api.put("deviceclasses.resource.k8s.io", {"metadata": {"name": "gpu"}, "spec": {}})
        await until(lambda: any("cannot allocate all claims" in said for said in api.events("FailedScheduling")))
        rule = {"metadata": {"name": "r"}, "spec": {"taint": {"key": "k", "effect": "NoSchedule"}}}
        api.put("devicetaintrules.resource.k8s.io", rule)
        api.put("resourceslices.resource.k8s.io", offered("n1", gpu("g0")))
        await quiet(api)
        assert not node_of(api, "p")
        api.remove("devicetaintrules.resource.k8s.io", meta.key(rule))
        await until(lambda: node_of(api, "p") == "n1")
    finally:
        await scheduler.stop()


async def test_without_the_plugin_for_devices_a_pod_does_not_wait_for_any() -> None:
    api = FakeClient()
    scheduler = make(api, profiles=(Profile(name="default-scheduler", filters=("NodeResourcesFit",)),))
    await scheduler.start()
    try:
        api.put("nodes", node("n1"))
        api.put("pods", user("p", "x"))
        await until(lambda: node_of(api, "p") == "n1")
    finally:
        await scheduler.stop()
