"""Claims and volumes in use: they stay while somebody may have them."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.volumeprotection import ProtectionController
from tests.controllers.cluster import Cluster

CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
NAMED = {"persistentVolumeClaim": {"claimName": "p-v"}}
MADE: dict[str, Any] = {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}}


def cluster_with(volume: dict[str, Any], *, node: str = "n1", owned: bool = True, phase: str = "Running") -> Cluster:
    """A pod `p` with a claim `p-v`, of the pod's own where the volume is ephemeral."""
    found = Cluster(ProtectionController(resource=CLAIMS), ProtectionController(resource=VOLUMES))
    spec = {"volumes": [{"name": "v", **volume}], "containers": [], **({"nodeName": node} if node else {})}
    pod = found.add("pods", "p", metadata={"finalizers": ["x/kept"]}, spec=spec, status={"phase": phase})
    owners = [meta.owner_reference(pod)] if owned and volume is MADE else []
    found.add(CLAIMS, "p-v", metadata={"ownerReferences": owners}, spec={})
    found.settle()
    return found


def is_left(cluster: Cluster, resource: str = CLAIMS, name: str = "p-v") -> bool:
    space = "default" if resource == CLAIMS else ""
    cluster.delete_object(resource, cluster.require(resource, space, name))
    cluster.settle()
    return cluster.get(resource, space, name) is not None


USES: dict[str, tuple[dict[str, Any], bool]] = {
    "by name": ({"volume": NAMED}, True),
    "by name, ended": ({"volume": NAMED, "phase": "Succeeded"}, True),
    "by name, on no node": ({"volume": NAMED, "node": ""}, False),
    "made for it": ({"volume": MADE}, True),
    "made for it, ended": ({"volume": MADE, "phase": "Failed"}, True),
    "somebody else's of that name": ({"volume": MADE, "owned": False}, False),
}


@pytest.mark.parametrize("case", USES)
def test_a_claim_stays_while_a_pod_uses_it(case: str) -> None:
    how, stays = USES[case]
    cluster = cluster_with(**how)
    assert is_left(cluster) is stays
    cluster.remove("pods", "default/p")
    cluster.settle()
    assert cluster.get(CLAIMS, "default", "p-v") is None


@pytest.mark.parametrize(("volume", "stays"), [(NAMED, True), (MADE, False)])
def test_a_pod_that_is_only_waited_for_keeps_no_claim_of_its_own(volume: dict[str, Any], stays: bool) -> None:
    cluster = cluster_with(volume)
    cluster.delete("pods", "p", "default", grace_s=0)  # a finalizer keeps it
    assert is_left(cluster) is stays


def test_a_pod_that_no_cache_has_yet_keeps_its_claim() -> None:
    cluster = cluster_with(NAMED, node="")
    claim = cluster.require(CLAIMS, "default", "p-v")
    cluster.put(CLAIMS, {**claim, "metadata": {**claim["metadata"], "deletionTimestamp": cluster.now.stamp}})
    wanted = cluster.controllers[0].reconcile("default/p-v", cluster, cluster.now)
    cluster.place(cluster.require("pods", "default", "p"))
    assert not cluster.apply(wanted) and cluster.get(CLAIMS, "default", "p-v") is not None


@pytest.mark.parametrize(("phase", "stays"), [("Bound", True), ("Released", False)])
def test_a_volume_stays_while_it_is_bound(phase: str, stays: bool) -> None:
    cluster = Cluster(ProtectionController(resource=VOLUMES))
    cluster.add(VOLUMES, "pv", spec={}, status={"phase": phase})
    cluster.settle()
    assert is_left(cluster, VOLUMES, "pv") is stays
