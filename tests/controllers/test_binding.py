"""Binding of claims and volumes: what is reserved, named or wrong, what a claim waits for, what comes after its end."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Action, Provision
from rayplane.control_plane.controllers.claims import ClaimController
from rayplane.control_plane.controllers.manager.provisioner import Provisioner
from rayplane.control_plane.controllers.persistentvolumes import VolumeController
from rayplane.proto.csi import csi_pb2 as csi
from tests.controllers.cluster import Cluster
from tests.controllers.test_volumes import CLAIMS, CLASSES, VOLUMES, Backend, bound_to, claim, phase, volume

ATTRIBUTES = "volumeattributesclasses.storage.k8s.io"


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(ClaimController(), VolumeController())
    notes = {"rayplane.io/host-address": "127.0.0.1:7000"}
    found.node("n0", metadata={"annotations": notes})
    found.add(CLASSES, "fast", provisioner="rayplane.io/local", volumeBindingMode="Immediate")
    found.add(CLASSES, "manual", provisioner="kubernetes.io/no-provisioner", volumeBindingMode="Immediate")
    found.add(CLASSES, "later", provisioner="rayplane.io/local", volumeBindingMode="WaitForFirstConsumer")
    found.settle()
    return found


def told(cluster: Cluster, name: str = "c") -> list[tuple[str, str]]:
    return [(reason, text) for about, reason, text in cluster.events if about == name]


def ref(name: str = "c", **fields: str) -> Object:
    return {"namespace": "default", "name": name, **fields}


# --- what is reserved or named --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"capacity": {"storage": "1Gi"}}, "requested PV is too small"),
        ({"storageClassName": "other"}, "storageClassName does not match"),
        ({"volumeAttributesClassName": "gold"}, "volumeAttributesClassName does not match"),
        ({"volumeMode": "Block"}, "incompatible volumeMode"),
        ({"accessModes": ["ReadWriteMany", "ReadOnlyMany"]}, "incompatible accessMode"),
        ({}, ""),
        ({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}, ""),
    ],
)
def test_a_claim_that_names_a_volume_gets_it_if_it_is_what_it_asks_for(
    cluster: Cluster, spec: dict[str, Any], why: str
) -> None:
    volume(cluster, "v", **spec)
    claim(cluster, cls="", volumeName="v")
    cluster.settle()
    assert phase(cluster, CLAIMS, "c") == ("Pending" if why else "Bound")
    assert told(cluster) == ([("VolumeMismatch", f'Cannot bind to requested volume "v": {why}')] if why else [])


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"])
def test_a_claim_gets_a_volume_that_offers_its_access_mode(cluster: Cluster, mode: str) -> None:
    for one in ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"):
        volume(cluster, one.lower(), accessModes=[one])
    claim(cluster, cls="", accessModes=[mode])
    cluster.settle()
    assert bound_to(cluster) == mode.lower()


def test_a_volume_reserved_for_a_claim_need_not_be_of_its_class_or_bear_its_labels(cluster: Cluster) -> None:
    volume(cluster, "mine", cls="other", claimRef=ref())
    volume(cluster, "fitting")
    claim(cluster, cls="", selector={"matchLabels": {"a": "b"}})
    cluster.settle()
    assert bound_to(cluster) == "mine"


def test_a_volume_reserved_for_a_claim_of_another_uid_is_nobodys(cluster: Cluster) -> None:
    volume(cluster, "old", claimRef=ref(uid="earlier"))
    claim(cluster, cls="")
    cluster.settle()
    assert (bound_to(cluster), phase(cluster, CLAIMS, "c")) == ("", "Pending")
    assert phase(cluster, VOLUMES, "old") == "Released"


def test_a_claim_whose_volume_is_somebody_elses_waits_until_it_is_free(cluster: Cluster) -> None:
    volume(cluster, "v")
    first = claim(cluster, "first", cls="", volumeName="v")
    cluster.settle()
    claim(cluster, cls="", volumeName="v")
    claim(cluster, "d", cls="", volumeName="to-come")
    cluster.settle()
    assert [phase(cluster, CLAIMS, name) for name in ("c", "d")] == ["Pending", "Pending"]
    assert told(cluster) == told(cluster, "d") == []  # whoever names a volume knows what to wait for
    cluster.remove_object(CLAIMS, first)
    cluster.settle()
    cluster.change(VOLUMES, "v", spec={"claimRef": None})
    volume(cluster, "to-come")
    cluster.settle()
    assert [phase(cluster, CLAIMS, name) for name in ("c", "d")] == ["Bound", "Bound"]


def test_modes_that_differ_are_told_on_both_sides(cluster: Cluster) -> None:
    made = claim(cluster, cls="")
    volume(cluster, "v", volumeMode="Block", claimRef=ref(uid=meta.uid(made)))
    cluster.settle()
    tail = 'requested PersistentVolumeClaim "c" due to incompatible volumeMode.'
    assert ("v", "VolumeMismatch", f"Cannot bind PersistentVolume to {tail}") in cluster.events
    assert ("c", "VolumeMismatch", f'Cannot bind PersistentVolume "v" to {tail}') in cluster.events


def test_a_volume_whose_claim_got_another_one_is_free_or_reserved_as_before(cluster: Cluster) -> None:
    volume(cluster, "used")
    made = claim(cluster, cls="", volumeName="used")
    cluster.settle()
    both = ref(uid=meta.uid(made))
    cluster.add(VOLUMES, "ours", metadata={"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}, spec={
        "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "claimRef": both,
    })  # fmt: skip
    volume(cluster, "theirs", claimRef=both, persistentVolumeReclaimPolicy="Delete")
    cluster.settle()
    assert "claimRef" not in cluster.require(VOLUMES, "", "ours")["spec"]
    assert cluster.require(VOLUMES, "", "theirs")["spec"]["claimRef"] == ref()
    assert [phase(cluster, VOLUMES, name) for name in ("used", "ours", "theirs")] == ["Bound", "Available", "Available"]


# --- classes, waiting -----------------------------------------------------------------------------


def test_a_claim_without_class_takes_a_volume_without_one_before_the_default(cluster: Cluster) -> None:
    mark = {"annotations": {"storageclass.beta.kubernetes.io/is-default-class": "true"}}
    cluster.change(CLASSES, "fast", metadata=mark)
    volume(cluster, "v")
    claim(cluster, cls=None)
    cluster.settle()
    assert bound_to(cluster) == "v"
    claim(cluster, "d", cls=None)
    claim(cluster, "e", cls="")
    cluster.settle()
    assert meta.spec(cluster.require(CLAIMS, "default", "d"))["storageClassName"] == "fast"
    text = "no persistent volumes available for this claim and no storage class is set"
    assert set(told(cluster, "e")) == {("FailedBinding", text)}


def test_a_default_that_comes_later_is_given_to_claims_that_wait(cluster: Cluster) -> None:
    claim(cluster, cls=None)
    cluster.settle()
    mark = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
    cluster.change(CLASSES, "manual", metadata=mark)
    cluster.settle()
    assert meta.spec(cluster.require(CLAIMS, "default", "c"))["storageClassName"] == "manual"
    assert told(cluster)[-1] == ("ProvisioningFailed", "no volume plugin matched name: kubernetes.io/no-provisioner")


def test_a_waiting_claim_says_for_which_pods_it_waits(cluster: Cluster) -> None:
    claim(cluster, cls="later")
    cluster.settle()
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]
    cluster.add("pods", "a", spec={"volumes": volumes})
    cluster.settle()
    cluster.add("pods", "b", spec={"volumes": volumes})
    cluster.settle()
    texts = list(dict.fromkeys(told(cluster)))
    assert texts == [
        ("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        ("WaitForPodScheduled", "waiting for pod a to be scheduled"),
        ("WaitForPodScheduled", "waiting for pods a,b to be scheduled"),
    ]


def test_provisioning_tells_who_is_asked_and_what_is_missing(cluster: Cluster) -> None:
    claim(cluster, volumeAttributesClassName="gold")
    cluster.settle()
    notes = meta.annotations(cluster.require(CLAIMS, "default", "c"))
    assert {k: v for k, v in notes.items() if "storage-provisioner" in k} == {
        "volume.kubernetes.io/storage-provisioner": "rayplane.io/local",
        "volume.beta.kubernetes.io/storage-provisioner": "rayplane.io/local",
    }
    reason, text = told(cluster)[-1]
    assert (reason, text.partition(": ")[2]) == (
        "ProvisioningFailed", 'volumeattributesclass.storage.k8s.io "gold" not found'
    )  # fmt: skip

    def backend(action: Action) -> bool:
        assert isinstance(action, Provision)
        cluster.create(VOLUMES, action.volume)
        return True

    cluster.on_special = backend
    cluster.add(ATTRIBUTES, "gold", driverName="rayplane.io/local")
    cluster.advance(6)
    assert phase(cluster, CLAIMS, "c") == "Bound"
    assert meta.status(cluster.require(CLAIMS, "default", "c"))["currentVolumeAttributesClassName"] == "gold"


async def test_a_block_volume_is_asked_for_as_one(cluster: Cluster) -> None:
    claim(cluster, volumeMode="Block")
    cluster.settle()
    hosts = Backend()
    await Provisioner(hosts, timeout_s=1).provision(cluster.specials[-1])  # type: ignore[arg-type]
    ((_, _, _, request),) = hosts.calls
    assert isinstance(request, csi.CreateVolumeRequest)
    assert [c.WhichOneof("access_type") for c in request.volume_capabilities] == ["block"]


# --- what comes after -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected", "event"),
    [
        ("Retain", "Released", None),
        ("Recycle", "Failed", ("VolumeFailedRecycle", "No recycler plugin found for the volume!")),
        ("Other", "Failed", ("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy")),
        ("Delete", "Failed", ("VolumeFailedDelete", 'error getting deleter volume plugin for volume "v": no deletable '
                              "volume plugin matched")),
    ],
)  # fmt: skip
def test_what_becomes_of_a_volume_that_users_made_when_its_claim_goes(
    cluster: Cluster, policy: str, expected: str, event: tuple[str, str] | None
) -> None:
    volume(cluster, "v", persistentVolumeReclaimPolicy=policy)
    made = claim(cluster, cls="")
    cluster.settle()
    cluster.remove_object(CLAIMS, made)
    cluster.settle()
    assert phase(cluster, VOLUMES, "v") == expected
    assert told(cluster, "v") == ([event] if event else [])
    assert meta.status(cluster.require(VOLUMES, "", "v")).get("message") == (event[1] if event else None)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/srv/x", "host_path deleter only supports /tmp/.+ but received provided /srv/x"),
        ("/tmp/x", "/tmp/x is the machine's own: delete its files there, and this PersistentVolume"),
    ],
)
def test_directories_of_machines_are_their_users_to_delete(cluster: Cluster, path: str, said: str) -> None:
    made = volume(cluster, "v", persistentVolumeReclaimPolicy="Delete")
    spec = {key: value for key, value in meta.spec(made).items() if key not in ("csi", "local", "nodeAffinity")}
    cluster.put(VOLUMES, {**made, "spec": {**spec, "hostPath": {"path": path}}})
    claimed = claim(cluster, cls="")
    cluster.settle()
    cluster.remove_object(CLAIMS, claimed)
    cluster.settle()
    assert told(cluster, "v") == [("VolumeFailedDelete", said)]


def test_a_lost_claim_says_what_it_lost(cluster: Cluster) -> None:
    for name in ("a", "b"):
        volume(cluster, f"v{name}")
        claim(cluster, name, cls="", volumeName=f"v{name}")
    cluster.settle()
    cluster.remove_object(VOLUMES, cluster.require(VOLUMES, "", "va"))
    cluster.put(CLAIMS, {**(b := cluster.require(CLAIMS, "default", "b")), "spec": {**b["spec"], "volumeName": ""}})
    cluster.settle()
    assert [phase(cluster, CLAIMS, name) for name in "ab"] == ["Lost", "Lost"]
    assert "capacity" not in meta.status(cluster.require(CLAIMS, "default", "a"))
    assert told(cluster, "a") == [
        ("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
    ]
    assert told(cluster, "b") == [
        ("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
    ]
