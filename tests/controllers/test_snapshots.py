"""Volume snapshots: what a user sees of them from the claim to the volume that is made from one, and as they go."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    DeleteSnapshot,
    Provision,
    TakeSnapshot,
)
from rayplane.control_plane.controllers.claims import ClaimController
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.manager.snapshotter import Snapshotter
from rayplane.control_plane.controllers.persistentvolumes import VolumeController
from rayplane.control_plane.controllers.snapshot_sources import CLASSES, CONTENTS, SNAPSHOTS
from rayplane.control_plane.controllers.snapshots import (
    BEING_CREATED,
    BOUND_FINALIZER,
    CLAIM_FINALIZER,
    CONTENT_FINALIZER,
    RETRY_S,
    SOURCE_FINALIZER,
    SnapshotController,
)
from rayplane.control_plane.controllers.volumeprotection import ProtectionController
from rayplane.control_plane.rpc import RpcError
from tests.controllers.cluster import Cluster
from tests.controllers.snapping import GI, GROUP, Hosts, custom

CLAIMS, VOLUMES, STORAGE = "persistentvolumeclaims", "persistentvolumes", "storageclasses.storage.k8s.io"


class Snapping(Cluster):
    """Two nodes, a claim `data` of 1Gi that is bound on n2, and classes of snapshots."""

    def __init__(self, *, provisioner: str = "rayplane.io/local", driver: str = "rayplane.io/local") -> None:
        controllers = (SnapshotController(), ClaimController())
        for controller in controllers:
            for resource in (SNAPSHOTS, CONTENTS, CLASSES):
                controller.follow(resource, served=True)
        protection = [ProtectionController(resource=resource) for resource in (CLAIMS, VOLUMES)]
        super().__init__(*controllers, VolumeController(), *protection)
        self.hosts = Hosts()
        self.made: list[Provision] = []
        self.on_special = self._drive
        for name in ("n1", "n2"):
            notes = {"rayplane.io/host-address": f"host-{name}:1", "rayplane.io/volume-capacity": "10Gi"}
            self.node(name, metadata={"annotations": notes})
        self.add(STORAGE, "fast", provisioner=provisioner, reclaimPolicy="Delete", volumeBindingMode="Immediate")
        self.claim("data", node="n2")
        self.custom(CLASSES, "snap", "", driver=provisioner, deletionPolicy="Delete")
        self.custom(CLASSES, "other", "", driver="csi.example.com", deletionPolicy="Delete")
        if driver != "rayplane.io/local":
            volume = self.require(VOLUMES, "", self.volume_of("data"))
            volume["spec"]["csi"]["driver"] = driver
        self.settle()

    def _drive(self, action: Action) -> bool:
        snapshotter = Snapshotter(self.hosts)  # type: ignore[arg-type]
        if isinstance(action, Provision):
            self.made.append(action)
            self.create(VOLUMES, action.volume)
            return True
        if not isinstance(action, (TakeSnapshot, DeleteSnapshot)):
            return True
        do = snapshotter.take if isinstance(action, TakeSnapshot) else snapshotter.delete
        try:
            writes = asyncio.run(do(action))
        except ActionFailed as e:
            if e.event is not None:
                self._event(e.event)
            self.timers[0, f"content/{meta.name(action.content)}"] = self.seconds + RETRY_S
            return True
        return all([self.act(write) for write in writes])

    def claim(
        self, name: str, *, size: str = "1Gi", node: str = "", source: Any = None, storage: str = "fast"
    ) -> Object:
        notes = {"volume.kubernetes.io/selected-node": node} if node else {}
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage,
            "resources": {"requests": {"storage": size}},
        }
        if source:
            spec["dataSource"] = spec["dataSourceRef"] = source
        made = self.add(CLAIMS, name, metadata={"annotations": notes}, spec=spec, status={"phase": "Pending"})
        self.settle()
        return made

    def custom(self, resource: str, name: str, namespace: str = "default", **fields: Any) -> Object:
        return custom(self, resource, name, namespace, **fields)

    def snapshot(self, name: str = "s", *, kind: str | None = "snap", **source: Any) -> Object:
        spec: dict[str, Any] = {"source": source or {"persistentVolumeClaimName": "data"}}
        if kind is not None:
            spec["volumeSnapshotClassName"] = kind
        made = self.custom(SNAPSHOTS, name, spec=spec)
        self.settle()
        return made

    def volume_of(self, claim: str) -> str:
        return str(meta.spec(self.require(CLAIMS, "default", claim)).get("volumeName") or "")

    def status(self, name: str = "s") -> dict[str, Any]:
        return meta.status(self.require(SNAPSHOTS, "default", name))

    def content(self, snapshot: Object) -> Object | None:
        return self.get(CONTENTS, "", f"snapcontent-{meta.uid(snapshot)}")

    def remove(self, resource: str, name: str, namespace: str = "default") -> None:
        found = self.require(resource, namespace, name)
        self.delete_object(resource, found)
        self.settle()

    def finalizers(self, resource: str, name: str) -> list[str]:
        return meta.finalizers(self.require(resource, "default", name))


FROM_SNAPSHOT = {"apiGroup": GROUP, "kind": "VolumeSnapshot", "name": "s"}


def test_a_snapshot_is_taken_on_the_node_of_its_volume() -> None:
    cluster = Snapping()
    snapshot = cluster.snapshot()
    uid = meta.uid(snapshot)
    assert cluster.hosts.calls == [f"create snapshot-{uid} of {cluster.volume_of('data')} on n2"]
    content = cluster.content(snapshot)
    assert content is not None
    spec = meta.spec(content)
    assert (spec["driver"], spec["deletionPolicy"]) == ("rayplane.io/local", "Delete")
    assert spec["source"] == {"volumeHandle": cluster.volume_of("data")}
    assert (spec["volumeSnapshotRef"]["name"], spec["volumeSnapshotRef"]["uid"]) == ("s", uid)
    assert meta.status(content) == {
        "snapshotHandle": f"n2/snapshot-{uid}",
        "readyToUse": True,
        "restoreSize": GI,
        "creationTime": 1_700_000_000 * 10**9,
    }
    assert meta.finalizers(content) == [CONTENT_FINALIZER]
    assert BEING_CREATED not in meta.annotations(content)
    assert cluster.status() == {
        "boundVolumeSnapshotContentName": f"snapcontent-{uid}",
        "readyToUse": True,
        "restoreSize": "1Gi",
        "creationTime": "2023-11-14T22:13:20Z",
    }
    assert set(cluster.finalizers(SNAPSHOTS, "s")) == {SOURCE_FINALIZER, BOUND_FINALIZER}
    assert CLAIM_FINALIZER not in cluster.finalizers(CLAIMS, "data")
    assert [event for event in cluster.events if event[0] == "s"] == [
        ("s", "CreatingSnapshot", "Waiting for a snapshot default/s to be created by the CSI driver."),
        ("s", "SnapshotCreated", "Snapshot default/s was successfully created by the CSI driver."),
        ("s", "SnapshotReady", "Snapshot default/s is ready to use."),
    ]


def test_a_claim_stays_while_a_snapshot_is_taken_of_it() -> None:
    cluster = Snapping()
    cluster.hosts.broken = RpcError(grpc.StatusCode.UNAVAILABLE, "away")
    snapshot = cluster.snapshot()
    cluster.remove(CLAIMS, "data")
    assert cluster.finalizers(CLAIMS, "data") == [CLAIM_FINALIZER]
    volume = cluster.volume_of("data")
    message = f'Failed to create snapshot: failed to take snapshot of the volume {volume}: "n2: away"'
    assert cluster.status()["error"]["message"] == message
    assert cluster.status()["readyToUse"] is False
    content = cluster.content(snapshot)
    assert content is not None
    assert (meta.name(content), "SnapshotCreationFailed", message) in cluster.events
    cluster.hosts.broken = None
    cluster.advance(RETRY_S + 1)
    assert cluster.status()["readyToUse"] is True
    assert "error" not in cluster.status()
    assert cluster.get(CLAIMS, "default", "data") is None


def test_a_failure_is_told_once() -> None:
    cluster = Snapping()
    cluster.hosts.broken = RpcError(grpc.StatusCode.UNAVAILABLE, "away")
    cluster.snapshot()
    cluster.advance(RETRY_S * 3)
    before = cluster.version
    cluster.advance(RETRY_S * 10)
    assert cluster.version == before
    assert len(cluster.hosts.calls) > 10


@pytest.mark.parametrize(("policy", "kept"), [("Delete", False), ("Retain", True)])
def test_a_snapshot_goes_as_its_policy_says(policy: str, kept: bool) -> None:
    cluster = Snapping()
    cluster.patch(CLASSES, "snap", "", {"deletionPolicy": policy})
    snapshot = cluster.snapshot()
    cluster.remove(SNAPSHOTS, "s")
    assert cluster.get(SNAPSHOTS, "default", "s") is None
    assert (cluster.content(snapshot) is not None) == kept
    assert bool(cluster.hosts.kept) == kept


def test_the_bytes_go_before_the_content_and_that_before_the_snapshot() -> None:
    cluster = Snapping()
    snapshot = cluster.snapshot()
    cluster.hosts.broken = RpcError(grpc.StatusCode.UNAVAILABLE, "away")
    cluster.remove(SNAPSHOTS, "s")
    assert cluster.content(snapshot) is not None
    assert (f"snapcontent-{meta.uid(snapshot)}", "SnapshotDeleteError", "Failed to delete snapshot") in cluster.events
    assert cluster.finalizers(SNAPSHOTS, "s")
    cluster.hosts.broken = None
    cluster.advance(RETRY_S + 1)
    assert cluster.content(snapshot) is None
    assert cluster.get(SNAPSHOTS, "default", "s") is None


def test_a_content_outlives_nobody_while_its_snapshot_is_there() -> None:
    cluster = Snapping()
    snapshot = cluster.snapshot()
    cluster.remove(CONTENTS, f"snapcontent-{meta.uid(snapshot)}", "")
    assert cluster.content(snapshot) is not None
    assert cluster.hosts.kept
    cluster.remove(SNAPSHOTS, "s")
    assert cluster.content(snapshot) is None
    assert not cluster.hosts.kept


def test_the_default_class_of_the_driver_is_taken() -> None:
    cluster = Snapping()
    cluster.snapshot(kind=None)
    text = "Failed to set default snapshot class with error cannot find default snapshot class"
    assert cluster.status()["error"]["message"] == text
    for name in ("snap", "other"):
        note = {"snapshot.storage.kubernetes.io/is-default-class": "true"}
        cluster.patch(CLASSES, name, "", {"metadata": {"annotations": note}})
    cluster.advance(RETRY_S + 1)
    assert meta.spec(cluster.require(SNAPSHOTS, "default", "s"))["volumeSnapshotClassName"] == "snap"
    assert cluster.status()["readyToUse"] is True


def test_a_class_may_name_the_provisioner_in_whose_place_a_driver_stands() -> None:
    cluster = Snapping(provisioner="hostpath.csi.k8s.io")
    cluster.snapshot()
    assert cluster.status()["readyToUse"] is True


@pytest.mark.parametrize("case", ["class", "volume", "content"])
def test_snapshots_of_other_drivers_are_left_alone(case: str) -> None:
    cluster = Snapping(driver="csi.example.com" if case == "volume" else "rayplane.io/local")
    if case == "content":
        ref = {"name": "s", "namespace": "default"}
        spec = {"driver": "csi.example.com", "source": {"snapshotHandle": "h"}, "volumeSnapshotRef": ref}
        cluster.custom(CONTENTS, "c", "", spec=spec)
    before = cluster.version
    cluster.snapshot(
        kind="other" if case == "class" else "snap",
        **({"volumeSnapshotContentName": "c"} if case == "content" else {}),
    )
    cluster.advance(RETRY_S * 2)
    assert cluster.version == before + 1
    assert cluster.hosts.calls == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"persistentVolumeClaimName": "data", "volumeSnapshotContentName": "c"},
            "Exactly one of PersistentVolumeClaimName and VolumeSnapshotContentName should be specified",
        ),
        ({"volumeSnapshotContentName": "none"}, "VolumeSnapshotContent is missing"),
        (
            {"persistentVolumeClaimName": "none"},
            "Failed to create snapshot content with error failed to get input parameters to create snapshot s: "
            '"failed to retrieve PVC none from the lister: persistentvolumeclaim "none" not found"',
        ),
    ],
)
def test_what_cannot_be_is_told(source: dict[str, str], message: str) -> None:
    cluster = Snapping()
    cluster.snapshot(**source)
    assert cluster.status()["error"]["message"] == message
    assert cluster.status()["readyToUse"] is False
    cluster.remove(SNAPSHOTS, "s")
    assert cluster.get(SNAPSHOTS, "default", "s") is None


def beforehand(cluster: Snapping, handle: str, name: str = "s") -> None:
    spec = {
        "driver": "rayplane.io/local",
        "deletionPolicy": "Retain",
        "source": {"snapshotHandle": handle},
        "volumeSnapshotRef": {"name": name, "namespace": "default"},
    }
    cluster.custom(CONTENTS, "c", "", spec=spec)


def test_a_content_made_beforehand_is_bound() -> None:
    cluster = Snapping()
    taken = cluster.snapshot("first")
    (handle,) = cluster.hosts.kept
    beforehand(cluster, handle)
    snapshot = cluster.snapshot(volumeSnapshotContentName="c")
    content = cluster.require(CONTENTS, "", "c")
    assert meta.spec(content)["volumeSnapshotRef"]["uid"] == meta.uid(snapshot)
    assert cluster.status()["readyToUse"] is True
    assert cluster.status()["restoreSize"] == "1Gi"
    assert meta.uid(taken) != meta.uid(snapshot)
    cluster.remove(SNAPSHOTS, "s")
    assert cluster.get(SNAPSHOTS, "default", "s") is None
    cluster.remove(CONTENTS, "c", "")
    assert cluster.get(CONTENTS, "", "c") is None
    assert handle in cluster.hosts.kept


def test_a_content_made_beforehand_of_nothing_or_for_another_is_told() -> None:
    cluster = Snapping()
    beforehand(cluster, "n1/none")
    cluster.snapshot(volumeSnapshotContentName="c")
    text = "Failed to check and update snapshot content: n1: there is no snapshot n1/none"
    assert cluster.status()["error"]["message"] == text
    cluster.snapshot("thief", volumeSnapshotContentName="c")
    assert cluster.status("thief")["error"]["message"] == "VolumeSnapshotContent [c] is bound to a different snapshot"


# --- restoring ----------------------------------------------------------------------------------


def test_a_claim_is_made_from_a_snapshot_on_its_node_once_it_is_ready() -> None:
    cluster = Snapping()
    cluster.claim("restored", node="n1", source=FROM_SNAPSHOT)
    assert cluster.volume_of("restored") == ""
    assert any("snapshot s from api server" in text for _, _, text in cluster.events)
    snapshot = cluster.snapshot()
    cluster.advance(RETRY_S + 1)
    made = cluster.made[-1]
    assert made.snapshot_id == f"n2/snapshot-{meta.uid(snapshot)}"
    assert [node for node, _ in made.targets] == ["n2"]
    assert meta.status(cluster.require(CLAIMS, "default", "restored"))["phase"] == "Bound"


def test_a_claim_must_hold_its_snapshot() -> None:
    cluster = Snapping()
    cluster.snapshot()
    cluster.claim("small", size="1Mi", source=FROM_SNAPSHOT)
    assert cluster.volume_of("small") == ""
    assert any(
        f"requested volume size {1024**2} is less than the size {GI} for the source snapshot s" in text
        for _, _, text in cluster.events
    )


def test_a_snapshot_stays_while_a_claim_is_made_from_it() -> None:
    cluster = Snapping()
    cluster.snapshot()
    cluster.claim("small", size="1Mi", source=FROM_SNAPSHOT)
    cluster.remove(SNAPSHOTS, "s")
    assert ("s", "SnapshotDeletePending", "Snapshot is being used to restore a PVC") in cluster.events
    assert cluster.hosts.kept
    cluster.remove(CLAIMS, "small")
    cluster.advance(RETRY_S + 1)
    assert cluster.get(SNAPSHOTS, "default", "s") is None
    assert not cluster.hosts.kept


def test_a_claim_is_cloned_from_another() -> None:
    cluster = Snapping()
    cluster.claim("clone", node="n1", source={"kind": "PersistentVolumeClaim", "name": "data"})
    assert cluster.made[-1].source_volume_id == cluster.volume_of("data")
    assert [node for node, _ in cluster.made[-1].targets] == ["n2"]
    cluster.claim("none", source={"kind": "PersistentVolumeClaim", "name": "nobody"})
    assert cluster.volume_of("none") == ""


def test_a_claim_that_somebody_else_fills_waits_for_that() -> None:
    cluster = Snapping()
    made = len(cluster.made)
    cluster.claim("filled", source={"apiGroup": "example.com", "kind": "Image", "name": "i"})
    assert len(cluster.made) == made
    assert ("filled", "Provisioning", "Assuming an external populator will provision the volume") in cluster.events


def test_nothing_is_watched_until_the_kinds_are_served() -> None:
    controller = SnapshotController()
    assert not {SNAPSHOTS, CONTENTS, CLASSES} & {watch.resource for watch in controller.watches}
    assert controller.follow(SNAPSHOTS, served=True)
    assert not controller.follow(SNAPSHOTS, served=True)
    assert SNAPSHOTS in {watch.resource for watch in controller.watches}
    assert not controller.follow("widgets.example.com", served=True)
    assert controller.follow(SNAPSHOTS, served=False)
    assert SNAPSHOTS not in {watch.resource for watch in controller.watches}
