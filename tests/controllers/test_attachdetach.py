"""Attachments of volumes: asked for where a driver wants that, told to pods and nodes, and given back."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.attachdetach import ATTACHMENTS, DRIVERS, AttachDetachController
from tests.controllers.cluster import Cluster

DRIVER = "ebs.csi.aws.com"
UNIQUE = f"kubernetes.io/csi/{DRIVER}^vol-1"


class Attached(Cluster):
    """Two nodes, and a claim that is bound to a volume of somebody's driver."""

    def __init__(self, *, driver: str = DRIVER, mode: str = "ReadWriteOnce") -> None:
        super().__init__(AttachDetachController())
        for name in ("n1", "n2"):
            self.add("nodes", name)
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
