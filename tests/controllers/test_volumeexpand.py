"""Claims that ask for more: what their status and events say until they have it, or why they have not."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.actions import (
    Action,
    Expand,
    Patch,
    UpdateStatus,
)
from rayplane.control_plane.controllers.manager.executor import with_error
from rayplane.control_plane.controllers.manager.provisioner import Provisioner
from rayplane.control_plane.controllers.volumeexpand import RETRY_S, VolumeExpandController
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.csi import csi_pb2 as csi
from tests.controllers.cluster import Cluster

CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
GI = 1024**3


class Growing(Cluster):
    """A claim of 1Gi that is bound, and a driver that has `room`."""

    def __init__(self, *, driver: str = "rayplane.io/local") -> None:
        super().__init__(VolumeExpandController())
        self.room = 10 * GI
        self.asked: list[Any] = []
        self.on_special = self._drive
        for name in ("n1", "n2", "n3"):
            self.node(name, metadata={"annotations": {"rayplane.io/host-address": f"host-{name}:1"}})
        size = {"storage": "1Gi"}
        requests = {"resources": {"requests": size}, "volumeName": "pv"}
        note = {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}
        claim = self.add(CLAIMS, "c", metadata=note, spec=requests)
        term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}
        self.change(CLAIMS, "c", status={"phase": "Bound", "capacity": size})
        spec: dict[str, Any] = {
            "capacity": size,
            "claimRef": {"namespace": "default", "name": "c", "uid": meta.uid(claim)},
            "csi": {"driver": driver, "volumeHandle": "h", "volumeAttributes": {}},
        }
        if driver == "rayplane.io/local":
            spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [term]}}
        self.add(VOLUMES, "pv", spec=spec)

    def _drive(self, action: Action) -> bool:
        assert isinstance(action, Expand)
        self.asked.append(action)
        if action.capacity_bytes > self.room:
            return self.act(with_error(action.failed, "n2: too little"))
        body = {"spec": {"capacity": {"storage": action.storage}}}
        return self.act(Patch(VOLUMES, "", "pv", body))

    def ask(self, size: str) -> None:
        self.change(CLAIMS, "c", spec={"resources": {"requests": {"storage": size}}})
        self.settle()

    @property
    def status(self) -> dict[str, Any]:
        return meta.status(self.require(CLAIMS, "default", "c"))

    def condition(self, kind: str) -> Any:
        return meta.get_condition(self.status.get("conditions"), kind)


def test_a_claim_that_has_what_it_asks_for_is_left_alone() -> None:
    cluster = Growing()
    before = cluster.version
    cluster.settle()
    assert cluster.version == before


def test_a_claim_grows() -> None:
    cluster = Growing()
    cluster.ask("3Gi")
    assert cluster.require(VOLUMES, "", "pv")["spec"]["capacity"] == {"storage": "3Gi"}
    assert cluster.status["capacity"] == {"storage": "3Gi"}
    assert cluster.status["allocatedResources"] == {"storage": "3Gi"}
    assert "allocatedResourceStatuses" not in cluster.status and "conditions" not in cluster.status
    assert cluster.events == [
        ("c", "Resizing", "External resizer is resizing volume pv"),
        ("c", "VolumeResizeSuccessful", "Resize volume succeeded"),
    ]
    (asked,) = cluster.asked
    assert asked.targets == (("n2", "host-n2:1"),)


def test_any_node_can_be_asked_to_let_a_replicated_volume_grow() -> None:
    cluster = Growing(driver="rayplane.io/replicated")
    cluster.ask("3Gi")
    assert [node for node, _ in cluster.asked[0].targets] == ["n1", "n2", "n3"]


def test_a_failure_is_told_and_tried_again() -> None:
    cluster = Growing()
    cluster.room = 2 * GI
    cluster.ask("3Gi")
    assert cluster.status["allocatedResourceStatuses"] == {"storage": "ControllerResizeInfeasible"}
    assert cluster.condition("Resizing")["status"] == "True"
    assert cluster.condition("ControllerResizeError")["message"] == "failed to expand pvc with: n2: too little"
    failed = ("c", "VolumeResizeFailed", 'resize volume "pv" by resizer "rayplane.io/local" failed: n2: too little')
    assert failed in cluster.events
    assert cluster.status["capacity"] == {"storage": "1Gi"}
    cluster.room = 10 * GI
    cluster.advance(RETRY_S + 1)
    assert cluster.status["capacity"] == {"storage": "3Gi"}
    assert "conditions" not in cluster.status


def test_whoever_asks_for_less_after_a_failure_gets_that() -> None:
    cluster = Growing()
    cluster.room = 2 * GI
    cluster.ask("3Gi")
    cluster.ask("2Gi")
    assert cluster.status["capacity"] == {"storage": "2Gi"}
    assert "conditions" not in cluster.status
    assert cluster.events[-1][1] == "VolumeResizeSuccessful"


def test_whoever_asks_for_what_it_has_again_has_got_nothing() -> None:
    cluster = Growing()
    cluster.room = GI
    cluster.ask("3Gi")
    cluster.ask("1Gi")
    assert "allocatedResourceStatuses" not in cluster.status and "conditions" not in cluster.status
    assert "VolumeResizeSuccessful" not in cluster.reasons()


@pytest.mark.parametrize("what", ["another driver", "being deleted", "no node"])
def test_what_is_not_grown(what: str) -> None:
    cluster = Growing(driver="ebs.csi.aws.com" if what == "another driver" else "rayplane.io/local")
    if what == "being deleted":
        held = cluster.require(CLAIMS, "default", "c")
        cluster.put(CLAIMS, {**held, "metadata": {**held["metadata"], "deletionTimestamp": cluster.now.stamp}})
    elif what == "no node":
        cluster.remove("nodes", "n2")
    cluster.ask("3Gi")
    assert not cluster.asked


class Host:
    """The CSI controller of node hosts; some fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.calls: list[tuple[str, str, int]] = []

    def channel(self, address: str) -> Any:
        return address

    async def grow(self, address: str, request: csi.ControllerExpandVolumeRequest) -> None:
        self.calls.append((address, request.volume_id, request.capacity_range.required_bytes))
        if address in self.failing:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "away")


@pytest.mark.parametrize(("failing", "asked"), [((), 1), (("a:1",), 2), (("a:1", "b:1"), 2)])
async def test_nodes_are_asked_in_turn(failing: tuple[str, ...], asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(*failing)
    provisioner = Provisioner(host, timeout_s=1)  # type: ignore[arg-type]

    class Backend:
        def __init__(self, address: str) -> None:
            self.address = address

        async def ControllerExpandVolume(self, request: csi.ControllerExpandVolumeRequest) -> None:
            await host.grow(self.address, request)

    monkeypatch.setattr(provisioner, "call", lambda address, *_: Backend(address))
    volume = {"metadata": {"name": "pv", "uid": "u"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}}}
    claim = {"metadata": {"name": "c"}, "status": {"conditions": [{"type": "x", "message": "no: {error}"}]}}
    failed = UpdateStatus(CLAIMS, claim)
    action = Expand(volume, (("a", "a:1"), ("b", "b:1")), storage="2Gi", capacity_bytes=2 * GI, failed=failed)
    (write,) = await provisioner.expand(action)
    assert host.calls == [("a:1", "h", 2 * GI), ("b:1", "h", 2 * GI)][:asked]
    if len(failing) == 2:
        assert isinstance(write, UpdateStatus)
        assert meta.status(write.obj)["conditions"][0]["message"] == "no: a: away; b: away"
    else:
        assert isinstance(write, Patch)
        assert write.patch == {"metadata": {"uid": "u"}, "spec": {"capacity": {"storage": "2Gi"}}}
