"""Attachments of volumes: asked for where a driver wants that, told to pods and nodes, and given back."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Delete, IfUnused
from rayplane.control_plane.controllers.attachdetach import ATTACHMENTS, DRIVERS, AttachDetachController
from rayplane.control_plane.controllers.config import Timing
from tests.controllers.cluster import Cluster

FORCE_S = 360.0
DRIVER = "ebs.csi.aws.com"
UNIQUE = f"kubernetes.io/csi/{DRIVER}^vol-1"


class Attached(Cluster):
    """Two nodes, and a claim that is bound to a volume of somebody's driver."""

    def __init__(self, *, driver: str = DRIVER, mode: str = "ReadWriteOnce") -> None:
        super().__init__(AttachDetachController(Timing(force_detach_s=FORCE_S)))
        for name in ("n1", "n2"):
            self.node(name)
        ref = {"namespace": "default", "name": "c"}
        csi = {"driver": driver, "volumeHandle": "vol-1"}
        self.add("persistentvolumes", "pv", spec={"claimRef": ref, "csi": csi, "accessModes": [mode]})
        self.add("persistentvolumeclaims", "c", spec={"volumeName": "pv"})

    def pod(self, name: str, node: str = "n1") -> Object:
        volume = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
        pod = self.place(self.add("pods", name, spec={"volumes": [volume], "containers": []}), node)
        self.settle()
        return pod

    @property
    def nodes(self) -> list[str]:
        """Where the volume is attached, or about to be."""
        return sorted(meta.spec(one)["nodeName"] for one in self.list(ATTACHMENTS))

    def answer(self, **status: Any) -> None:
        """What the driver's attacher says of every attachment."""
        for one in list(self.list(ATTACHMENTS)):
            self.update(ATTACHMENTS, {**one, "status": status}, subresource="status")
        self.settle()

    def listed(self, node: str = "n1") -> list[str]:
        return [one["name"] for one in meta.status(self.require("nodes", "", node)).get("volumesAttached") or ()]


def test_a_volume_is_attached_for_its_pod_and_both_are_told() -> None:
    cluster = Attached()
    cluster.pod("p")
    (one,) = cluster.list(ATTACHMENTS)
    assert one["spec"] == {"attacher": DRIVER, "nodeName": "n1", "source": {"persistentVolumeName": "pv"}}
    assert len(meta.name(one)) == 4 + 64
    assert not cluster.events and not cluster.listed()
    cluster.answer(attached=True)
    assert cluster.events == [("p", "SuccessfulAttachVolume", 'AttachVolume.Attach succeeded for volume "pv" ')]
    assert cluster.listed() == [UNIQUE]


def test_a_failure_is_told_once() -> None:
    cluster = Attached()
    cluster.pod("p")
    failed = {"message": "rpc error: code = NotFound", "time": cluster.now.stamp}
    cluster.answer(attached=False, attachError=failed)
    cluster.answer(attached=False, attachError={**failed, "time": "2026-01-01T00:01:00Z"})
    text = 'AttachVolume.Attach failed for volume "pv" : rpc error: code = NotFound'
    assert cluster.events == [("p", "FailedAttachVolume", text)]


@pytest.mark.parametrize("how", ["gone", "Succeeded"])
def test_a_volume_that_nobody_uses_is_given_back(how: str) -> None:
    cluster = Attached()
    cluster.pod("p")
    cluster.pod("q")
    cluster.answer(attached=True)
    for name in ("p", "q"):
        assert cluster.nodes == ["n1"]
        if how == "gone":
            cluster.remove("pods", f"default/{name}")
        else:
            cluster.change("pods", name, status={"phase": how})
        cluster.settle()
    assert cluster.nodes == [] and cluster.listed() == []


def test_a_node_that_still_uses_it_keeps_it() -> None:
    cluster = Attached()
    cluster.pod("p")
    cluster.answer(attached=True)
    cluster.change("nodes", "n1", status={"volumesInUse": [UNIQUE]})
    cluster.remove("pods", "default/p")
    cluster.settle()
    assert cluster.nodes == ["n1"]
    cluster.change("nodes", "n1", status={"volumesInUse": None})
    cluster.settle()
    assert cluster.nodes == []


def unused(cluster: Attached) -> None:
    """The pod is gone, and the node says that it still uses the volume."""
    cluster.pod("p")
    cluster.answer(attached=True)
    cluster.change("nodes", "n1", status={"volumesInUse": [UNIQUE]})
    cluster.remove("pods", "default/p")
    cluster.settle()


def ready(cluster: Attached, status: str) -> None:
    cluster.change("nodes", "n1", status={"conditions": [{"type": "Ready", "status": status}]})
    cluster.settle()


def test_what_a_ready_node_uses_is_never_taken_from_it() -> None:
    cluster = Attached()
    unused(cluster)
    cluster.advance(10 * FORCE_S)
    assert cluster.nodes == ["n1"] and cluster.listed() == [UNIQUE]


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_node_that_is_not_ready_loses_it_after_some_time(status: str) -> None:
    cluster = Attached()
    unused(cluster)
    ready(cluster, status)
    cluster.advance(FORCE_S - 1)
    assert cluster.nodes == ["n1"]
    cluster.advance(1)
    assert cluster.nodes == [] and cluster.listed() == []


def test_a_pod_that_comes_back_begins_the_time_anew() -> None:
    cluster = Attached()
    unused(cluster)
    ready(cluster, "Unknown")
    cluster.advance(FORCE_S - 1)
    pod = cluster.pod("q")
    cluster.remove_object("pods", pod)
    cluster.settle()
    cluster.advance(FORCE_S - 1)
    assert cluster.nodes == ["n1"]


@pytest.mark.parametrize(("effect", "left"), [("NoExecute", []), ("NoSchedule", ["n1"])])
def test_a_node_out_of_service_loses_it_at_once(effect: str, left: list[str]) -> None:
    cluster = Attached()
    unused(cluster)
    taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": effect}
    cluster.change("nodes", "n1", spec={"taints": [taint]})
    cluster.settle()
    assert cluster.nodes == left


def test_a_node_that_is_gone_loses_everything() -> None:
    cluster = Attached()
    unused(cluster)
    cluster.remove("nodes", "n1")
    cluster.settle()
    assert cluster.nodes == []


def test_the_node_is_told_first_and_asked_at_the_last_moment() -> None:
    cluster = Attached()
    cluster.pod("p")
    cluster.answer(attached=True)
    cluster.remove("pods", "default/p")
    (one,) = cluster.list(ATTACHMENTS)
    told, asked = cluster.controllers[0].reconcile("volume/pv", cluster, cluster.now).stages
    assert [action.resource for action in told] == ["nodes"]  # type: ignore[union-attr]
    assert asked == (IfUnused("n1", UNIQUE, (Delete(ATTACHMENTS, one),)),)


def test_a_node_that_uses_it_before_the_caches_know_keeps_it() -> None:
    cluster = Attached()
    cluster.pod("p")
    cluster.answer(attached=True)
    cluster.remove("pods", "default/p")
    wanted = cluster.controllers[0].reconcile("volume/pv", cluster, cluster.now)
    cluster.change("nodes", "n1", status={"volumesInUse": [UNIQUE]})
    assert not cluster.apply(wanted)
    cluster.settle()
    assert cluster.nodes == ["n1"] and cluster.listed() == [UNIQUE]


def test_what_is_used_again_is_listed_again() -> None:
    cluster = Attached()
    unused(cluster)
    cluster.change("nodes", "n1", status={"volumesAttached": None})
    cluster.settle()
    cluster.pod("q")
    assert cluster.listed() == [UNIQUE]


def test_a_volume_of_one_node_waits_for_the_other_to_give_it_back() -> None:
    cluster = Attached()
    cluster.pod("p")
    cluster.answer(attached=True)
    cluster.pod("q", "n2")
    assert cluster.nodes == ["n1"]
    why = "Volume is already exclusively attached to one node and can't be attached to another"
    assert ("q", "FailedAttachVolume", f'Multi-Attach error for volume "pv" {why}') in cluster.events
    cluster.remove("pods", "default/p")
    cluster.settle()
    assert cluster.nodes == ["n2"]


def test_a_shared_volume_is_attached_to_many() -> None:
    cluster = Attached(mode="ReadWriteMany")
    cluster.pod("p")
    cluster.pod("q", "n2")
    assert cluster.nodes == ["n1", "n2"]


def test_drivers_that_do_not_want_to_be_asked() -> None:
    cluster = Attached()
    cluster.add(DRIVERS, DRIVER, spec={"attachRequired": False})
    cluster.pod("p")
    assert cluster.nodes == []


@pytest.mark.parametrize("driver", ["rayplane.io/local", "rayplane.io/replicated"])
def test_the_clusters_own_drivers_attach_nothing(driver: str) -> None:
    cluster = Attached(driver=driver)
    cluster.pod("p")
    assert cluster.nodes == []
