"""Claims and volumes: matching, provisioning, binding, reclaiming, protection."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    DeleteVolume,
    Provision,
)
from rayplane.control_plane.controllers.claims import ClaimController
from rayplane.control_plane.controllers.manager.provisioner import Provisioner
from rayplane.control_plane.controllers.persistentvolumes import VolumeController
from rayplane.control_plane.controllers.volumeprotection import ProtectionController
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.csi import csi_pb2 as csi
from tests.controllers.cluster import Cluster
from tests.tiers import examples

CLAIMS, VOLUMES, CLASSES = "persistentvolumeclaims", "persistentvolumes", "storageclasses.storage.k8s.io"
GI = 1024**3


def make_cluster() -> Cluster:
    found = Cluster(
        ClaimController(),
        VolumeController(),
        ProtectionController(resource=CLAIMS),
        ProtectionController(resource=VOLUMES),
    )

    def backend(action: Action) -> bool:
        """A CSI backend that always succeeds."""
        if isinstance(action, Provision):
            found.create(VOLUMES, action.volume)
        elif isinstance(action, DeleteVolume):
            for resource, namespace, name, uid in action.absent:
                known = found.get(resource, namespace, name)
                assert known is None or meta.uid(known) != uid
            found.delete_object(VOLUMES, action.volume)
        return True

    found.on_special = backend
    for n, gi in enumerate((10, 20, 30)):
        notes = {
            "rayplane.io/volume-capacity": str(gi * GI),
            "rayplane.io/host-address": f"127.0.0.1:{7000 + n}",
        }
        found.node(f"n{n}", metadata={"annotations": notes})
    found.add(CLASSES, "fast", provisioner="rayplane.io/local", reclaimPolicy="Delete", volumeBindingMode="Immediate")
    found.add(
        CLASSES,
        "standard",
        metadata={"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        provisioner="rayplane.io/local",
        reclaimPolicy="Delete",
        volumeBindingMode="WaitForFirstConsumer",
    )
    found.add(CLASSES, "replicated", provisioner="rayplane.io/replicated", volumeBindingMode="Immediate")
    found.settle()
    return found


@pytest.fixture
def cluster() -> Cluster:
    return make_cluster()


def claim(cluster: Cluster, name: str = "c", *, size: str = "5Gi", cls: str | None = "fast", **spec: Any) -> Object:
    fields: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
        **spec,
    }
    if cls is not None:
        fields["storageClassName"] = cls
    return cluster.add(CLAIMS, name, spec=fields, status={"phase": "Pending"})


def volume(cluster: Cluster, name: str, *, size: str = "5Gi", cls: str = "", **spec: Any) -> Object:
    fields = {
        "capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": cls,
        "persistentVolumeReclaimPolicy": "Retain",
        **spec,
    }
    return cluster.add(VOLUMES, name, spec=fields)


def phase(cluster: Cluster, resource: str, name: str) -> str:
    space = "default" if resource == CLAIMS else ""
    found = cluster.get(resource, space, name)
    assert found is not None
    return str(meta.status(found).get("phase"))


def bound_to(cluster: Cluster, name: str = "c") -> str:
    found = cluster.get(CLAIMS, "default", name)
    assert found
    return meta.spec(found).get("volumeName") or ""


def test_immediate_class_makes_and_binds_a_volume_of_the_size_asked_for(cluster: Cluster) -> None:
    made = claim(cluster)
    cluster.settle()
    (pv,) = cluster.list(VOLUMES)
    assert meta.name(pv) == f"pvc-{meta.uid(made)}" == bound_to(cluster)
    spec = pv["spec"]
    assert spec["capacity"] == {"storage": "5Gi"}
    assert spec["csi"]["driver"] == "rayplane.io/local"
    assert spec["claimRef"]["uid"] == meta.uid(made)
    terms = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert terms[0]["matchExpressions"][0]["values"] == ["n2"]  # the emptiest
    assert (phase(cluster, CLAIMS, "c"), phase(cluster, VOLUMES, meta.name(pv))) == ("Bound", "Bound")
    found = cluster.get(CLAIMS, "default", "c")
    assert found and meta.status(found)["capacity"] == {"storage": "5Gi"}
    assert meta.annotations(found)["pv.kubernetes.io/bind-completed"] == "yes"
    (action,) = cluster.specials
    assert isinstance(action, Provision)
    assert (action.targets, action.capacity_bytes) == ((("n2", "127.0.0.1:7002"),), 5 * GI)
    assert {"ExternalProvisioning", "Provisioning"} <= set(cluster.reasons())


def test_waiting_class_waits_for_the_scheduler_and_takes_its_node(cluster: Cluster) -> None:
    claim(cluster, cls="standard")
    cluster.settle()
    assert phase(cluster, CLAIMS, "c") == "Pending"
    assert ("c", "WaitForFirstConsumer", "waiting for first consumer to be created before binding") in cluster.events
    note = {"annotations": {"volume.kubernetes.io/selected-node": "n0"}}
    cluster.change(CLAIMS, "c", metadata=note)
    cluster.settle()
    assert phase(cluster, CLAIMS, "c") == "Bound"
    action = cluster.specials[-1]
    assert isinstance(action, Provision) and action.targets == (("n0", "127.0.0.1:7000"),)


def test_claim_without_class_gets_the_default_one_if_there_is_any(cluster: Cluster) -> None:
    claim(cluster, cls=None)
    cluster.settle()
    found = cluster.get(CLAIMS, "default", "c")
    assert found and meta.spec(found)["storageClassName"] == "standard"
    cluster.delete_object(CLASSES, cluster.get(CLASSES, "", "standard") or {})
    claim(cluster, "d", cls=None)
    cluster.settle()
    text = "no persistent volumes available for this claim and no storage class is set"
    assert ("d", "FailedBinding", text) in cluster.events


def test_what_does_not_fit_stays_pending_until_there_is_room(cluster: Cluster) -> None:
    claim(cluster, size="40Gi")
    cluster.settle()
    assert phase(cluster, CLAIMS, "c") == "Pending"
    assert "ProvisioningFailed" in cluster.reasons()
    assert not cluster.list(VOLUMES)
    cluster.change("nodes", "n0", metadata={"annotations": {"rayplane.io/volume-capacity": str(50 * GI)}})
    cluster.advance(10, heartbeats=["n0", "n1", "n2"])
    assert phase(cluster, CLAIMS, "c") == "Bound"


def test_full_selected_node_is_given_back_to_the_scheduler(cluster: Cluster) -> None:
    claim(cluster, cls="standard", size="15Gi")
    note = {"annotations": {"volume.kubernetes.io/selected-node": "n0"}}
    cluster.change(CLAIMS, "c", metadata=note)
    cluster.settle()
    found = cluster.get(CLAIMS, "default", "c")
    assert found and "volume.kubernetes.io/selected-node" not in meta.annotations(found)
    assert "ProvisioningFailed" in cluster.reasons()


def test_replicated_volume_can_be_used_anywhere(cluster: Cluster) -> None:
    claim(cluster, cls="replicated")
    cluster.settle()
    (pv,) = cluster.list(VOLUMES)
    assert "nodeAffinity" not in pv["spec"]
    assert pv["spec"]["csi"]["driver"] == "rayplane.io/replicated"
    action = cluster.specials[-1]
    assert isinstance(action, Provision) and [node for node, _ in action.targets] == ["n2", "n1", "n0"]


def test_replicated_volume_needs_room_on_every_replica(cluster: Cluster) -> None:
    claim(cluster, cls="replicated", size="15Gi")
    cluster.settle()
    assert phase(cluster, CLAIMS, "c") == "Pending"
    text = next(message for _, reason, message in cluster.events if reason == "ProvisioningFailed")
    assert "3 nodes" in text


@pytest.mark.parametrize(
    ("address", "capacity"), [("edge.nodes.rayplane.internal@192.0.2.9:7000", "90Gi"), ("127.0.0.1:7009", "0")]
)
def test_a_node_without_volumes_is_not_asked_for_one_nor_counted(cluster: Cluster, address: str, capacity: str) -> None:
    notes = {"rayplane.io/volume-capacity": capacity, "rayplane.io/host-address": address}
    for n in (0, 1):
        cluster.remove_object("nodes", cluster.require("nodes", "", f"n{n}"))
    cluster.node("edge", metadata={"annotations": notes})
    claim(cluster, cls="replicated")
    cluster.settle()
    made = cluster.specials[-1]
    assert isinstance(made, Provision) and [node for node, _ in made.targets] == ["n2"]


def test_a_node_that_joined_is_not_asked_to_delete_a_volume(cluster: Cluster) -> None:
    notes = {"rayplane.io/host-address": "edge.nodes.rayplane.internal@192.0.2.9:7000"}
    cluster.node("edge", metadata={"annotations": notes})
    made = claim(cluster, cls="replicated")
    cluster.settle()
    cluster.delete_object(CLAIMS, made)
    cluster.settle()
    deleted = cluster.specials[-1]
    assert isinstance(deleted, DeleteVolume) and [node for node, _ in deleted.targets] == ["n0", "n1", "n2"]


@given(st.lists(st.integers(1, 12), max_size=25))
@settings(max_examples=examples(30), deadline=None)
def test_nodes_are_never_promised_more_than_they_have(sizes: list[int]) -> None:
    cluster = make_cluster()
    for n, size in enumerate(sizes):
        claim(cluster, f"c{n}", size=f"{size}Gi")
    cluster.settle()
    used: dict[str, int] = {}
    for pv in cluster.list(VOLUMES):
        node = pv["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"][0]
        used[node] = used.get(node, 0) + int(pv["spec"]["capacity"]["storage"][:-2])
    assert all(used[f"n{n}"] <= room for n, room in enumerate((10, 20, 30)) if f"n{n}" in used)


def test_static_volume_smallest_that_fits(cluster: Cluster) -> None:
    for name, size in (("big", "50Gi"), ("small", "1Gi"), ("right", "6Gi")):
        volume(cluster, name, size=size)
    volume(cluster, "otherclass", size="5Gi", cls="x")
    cluster.settle()
    assert phase(cluster, VOLUMES, "right") == "Available"
    claim(cluster, cls="")
    cluster.settle()
    assert bound_to(cluster) == "right"
    assert (phase(cluster, VOLUMES, "right"), phase(cluster, CLAIMS, "c")) == ("Bound", "Bound")
    claim(cluster, "d", cls="")
    cluster.settle()
    assert bound_to(cluster, "d") == "big"
    claim(cluster, "e", cls="")
    volume(cluster, "late", size="7Gi")
    cluster.settle()
    assert bound_to(cluster, "e") == "late"


@pytest.mark.parametrize(
    "spec",
    [
        {"accessModes": ["ReadWriteMany"]},
        {"volumeMode": "Block"},
        {"selector": {"matchLabels": {"disk": "ssd"}}},
        {"resources": {"requests": {"storage": "6Gi"}}},
    ],
)
def test_static_volume_that_is_not_what_was_asked_for(cluster: Cluster, spec: dict[str, Any]) -> None:
    volume(cluster, "v")
    claim(cluster, cls="", **spec)
    cluster.settle()
    assert (bound_to(cluster), phase(cluster, CLAIMS, "c")) == ("", "Pending")


def test_volume_reserved_for_a_claim_and_claim_that_names_a_volume(cluster: Cluster) -> None:
    volume(cluster, "a", size="5Gi")
    volume(cluster, "b", size="9Gi", claimRef={"namespace": "default", "name": "c"})
    claim(cluster, cls="")
    claim(cluster, "d", cls="", volumeName="a")
    claim(cluster, "e", cls="", volumeName="a")
    cluster.settle()
    assert (bound_to(cluster), phase(cluster, CLAIMS, "c")) == ("b", "Bound")
    assert phase(cluster, CLAIMS, "d") == "Bound"
    assert phase(cluster, CLAIMS, "e") == "Pending"


def test_deleting_the_claim_deletes_or_keeps_the_volume(cluster: Cluster) -> None:
    claim(cluster)
    volume(cluster, "kept")
    claim(cluster, "static", cls="")
    cluster.settle()
    for name in ("c", "static"):
        cluster.delete_object(CLAIMS, cluster.get(CLAIMS, "default", name) or {})
    cluster.settle()
    assert [meta.name(v) for v in cluster.list(VOLUMES)] == ["kept"]
    assert phase(cluster, VOLUMES, "kept") == "Released"
    deleted = [a for a in cluster.specials if isinstance(a, DeleteVolume)]
    assert [a.targets for a in deleted] == [(("n2", "127.0.0.1:7002"),)]


@pytest.mark.parametrize(
    "source", [{"csi": {"driver": "disks.example.com", "volumeHandle": "h"}}, {"nfs": {"path": "/"}}]
)
def test_a_volume_of_another_provisioner_is_left_to_it(cluster: Cluster, source: dict[str, Any]) -> None:
    made = volume(cluster, "theirs", persistentVolumeReclaimPolicy="Delete", **source)
    cluster.change(
        VOLUMES, "theirs", metadata={"annotations": {"pv.kubernetes.io/provisioned-by": "disks.example.com"}}
    )
    claim(cluster, cls="")
    cluster.settle()
    cluster.delete_object(CLAIMS, cluster.require(CLAIMS, "default", "c"))
    cluster.settle()
    assert phase(cluster, VOLUMES, meta.name(made)) == "Released"
    assert not cluster.specials


@pytest.mark.parametrize("text", ["much", "-", "9e99999"])
def test_a_node_whose_room_nobody_can_read_gets_no_volume_and_hinders_nobody(cluster: Cluster, text: str) -> None:
    cluster.change("nodes", "n2", metadata={"annotations": {"rayplane.io/volume-capacity": text}})
    claim(cluster)
    cluster.settle()
    made = cluster.specials[-1]
    assert isinstance(made, Provision)
    assert made.targets == (("n1", "127.0.0.1:7001"),)


def test_claim_is_protected_while_a_pod_uses_it(cluster: Cluster) -> None:
    made = claim(cluster)
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]
    pod = cluster.add("pods", "p", spec={"nodeName": "n2", "volumes": volumes})
    cluster.settle()
    cluster.delete_object(CLAIMS, made)
    cluster.settle()
    assert phase(cluster, CLAIMS, "c") == "Bound"
    cluster.remove_object("pods", pod)
    cluster.settle()
    assert cluster.get(CLAIMS, "default", "c") is None
    assert not cluster.list(VOLUMES)


def test_volume_is_protected_while_bound_and_its_loss_is_told(cluster: Cluster) -> None:
    claim(cluster)
    cluster.settle()
    (pv,) = cluster.list(VOLUMES)
    cluster.delete_object(VOLUMES, pv)
    cluster.settle()
    assert phase(cluster, VOLUMES, meta.name(pv)) == "Bound"
    cluster.remove_object(VOLUMES, pv)
    cluster.settle()
    assert phase(cluster, CLAIMS, "c") == "Lost"


# --- the CSI side -------------------------------------------------------------------------------


class Backend:
    """Node hosts by address; those in `down` cannot be reached."""

    def __init__(self, *down: str) -> None:
        self.down = down
        self.calls: list[tuple[str, str, dict[str, str], Any]] = []

    def channel(self, address: str) -> Any:
        class Channel:
            async def unary(_, method: Any, request: Any, timeout: float, metadata: Any) -> Any:
                if address in self.down:
                    raise RpcError(grpc.StatusCode.UNAVAILABLE, f"{address} cannot be reached")
                self.calls.append((address, method.name, dict(metadata), request))
                answer = method.response_type()
                if method.name == "CreateVolume":
                    made = csi.Volume(volume_id=request.name, volume_context={"replicas": "n2,n0"})
                    answer = csi.CreateVolumeResponse(volume=made)
                return answer

        return Channel()


async def test_csi_goes_to_the_next_node_when_one_does_not_answer(cluster: Cluster) -> None:
    claim(cluster, cls="replicated")
    cluster.settle()
    hosts = Backend("127.0.0.1:7002")
    (write,) = await Provisioner(hosts, timeout_s=1).provision(cluster.specials[-1])  # type: ignore[arg-type]
    assert isinstance(write, Create)
    assert write.obj["spec"]["csi"]["volumeAttributes"]["replicas"] == "n2,n0"
    ((address, method, metadata, request),) = hosts.calls
    assert (address, method) == ("127.0.0.1:7001", "CreateVolume")
    assert metadata == {"csi-driver": "rayplane.io/replicated", "csi-node": "n1"}
    assert request.capacity_range.required_bytes == 5 * GI
    assert request.volume_capabilities
