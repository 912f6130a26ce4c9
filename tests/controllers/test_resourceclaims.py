"""Claims to devices: made from templates for pods, reserved, freed, and taken away from pods with tainted devices."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLAIMS, FINALIZER
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.devicetainteviction import (
    RULES,
    SLICES,
    DeviceTaintEvictionController,
)
from rayplane.control_plane.controllers.resourceclaims import (
    MADE_FOR,
    TEMPLATES,
    ResourceClaimController,
)
from tests.controllers.cluster import Cluster

ENTRY = {"name": "gpu", "resourceClaimTemplateName": "t"}
RESULT = {"request": "r", "driver": "d", "pool": "p", "device": "dev-0"}
ALLOCATION = {"devices": {"results": [RESULT]}}


class Claiming(Cluster):
    """Pods with claims, and the template `t`."""

    def __init__(self, *, template: bool = True) -> None:
        super().__init__(ResourceClaimController(), DeviceTaintEvictionController())
        if template:
            self.template()

    def template(self) -> None:
        given = {"labels": {"a": "b"}, "annotations": {"c": "d"}}
        self.add(TEMPLATES, "t", spec={"metadata": given, "spec": {"devices": {"requests": []}}})

    def pod(self, name: str = "p", *entries: dict[str, Any], node: str = "") -> Object:
        pod = self.add("pods", name, spec={"resourceClaims": list(entries or (ENTRY,)), "containers": []})
        return self.place(pod, node) if node else pod

    def shared(self, *pods: Object, name: str = "shared", allocation: Any = ALLOCATION) -> Object:
        """A claim that nobody made from a template, which these pods use."""
        made = self.add(CLAIMS, name, metadata={"finalizers": [FINALIZER]}, spec={})
        reserved = [{"resource": "pods", "name": meta.name(pod), "uid": meta.uid(pod)} for pod in pods]
        status = {"allocation": allocation, "reservedFor": reserved}
        return self.update(CLAIMS, {**made, "status": status}, subresource="status")

    def claim(self, name: str = "shared") -> Object | None:
        return self.get(CLAIMS, "default", name)

    def statuses(self, name: str = "p") -> dict[str, str]:
        found = meta.status(self.require("pods", "default", name)).get("resourceClaimStatuses") or ()
        return {one["name"]: one["resourceClaimName"] for one in found}

    def of_pods(self) -> list[str]:
        return [one["name"] for one in meta.status(self.claim() or {}).get("reservedFor") or ()]


def test_a_claim_is_made_from_its_template_and_the_pod_told() -> None:
    cluster = Claiming()
    pod = cluster.pod("p", ENTRY, {"name": "nic", "resourceClaimTemplateName": "t"})
    cluster.settle()
    assert set(cluster.statuses()) == {"gpu", "nic"}
    made = cluster.claim(cluster.statuses()["gpu"])
    assert made is not None
    assert meta.name(made).startswith("p-gpu-")
    assert made["metadata"]["annotations"] == {"c": "d", MADE_FOR: "gpu"}
    assert made["metadata"]["labels"] == {"a": "b"}
    assert made["metadata"]["ownerReferences"] == [meta.owner_reference(pod)]
    assert made["spec"] == {"devices": {"requests": []}}
    assert len(cluster.list(CLAIMS)) == 2


def test_a_claim_whose_pod_was_not_told_is_found_again() -> None:
    cluster = Claiming()
    pod = cluster.pod()
    own = {"ownerReferences": [meta.owner_reference(pod)], "annotations": {MADE_FOR: "gpu"}}
    cluster.add(CLAIMS, "made", metadata=own, spec={})
    cluster.settle()
    assert cluster.statuses() == {"gpu": "made"}
    assert len(cluster.list(CLAIMS)) == 1


def test_a_claim_that_is_gone_is_made_again() -> None:
    cluster = Claiming()
    cluster.pod()
    cluster.settle()
    first = cluster.statuses()["gpu"]
    cluster.remove(CLAIMS, f"default/{first}")
    cluster.settle()
    assert cluster.claim(cluster.statuses()["gpu"]) is not None


def test_long_names_keep_a_part_of_both() -> None:
    cluster = Claiming()
    cluster.pod("p" * 60, {**ENTRY, "name": "g" * 40})
    cluster.settle()
    (made,) = cluster.list(CLAIMS)
    assert meta.metadata(made)["generateName"] == "p" * 33 + "-" + "g" * 22


def test_a_template_that_is_not_there_is_waited_for() -> None:
    cluster = Claiming(template=False)
    cluster.pod()
    cluster.settle()
    missing = 'resource claim template "t": resourceclaimtemplate.resource.k8s.io "t" not found'
    assert cluster.events == [("p", "FailedResourceClaimCreation", f"PodResourceClaim gpu: {missing}")]
    cluster.template()
    cluster.settle()
    assert "gpu" in cluster.statuses()


def test_claims_by_name_are_left_to_users() -> None:
    cluster = Claiming()
    cluster.pod("p", {"name": "gpu", "resourceClaimName": "shared"})
    cluster.settle()
    assert not cluster.list(CLAIMS) and not cluster.statuses()


def test_the_claim_for_the_extended_resources_of_a_pod_goes_when_the_pod_is_done() -> None:
    cluster = Claiming()
    pod = cluster.add("pods", "p", spec={"containers": []})
    pod = cluster.place(pod, "n1")
    made = cluster.shared(pod, name="made")
    owner = meta.owner_reference(pod)
    cluster.put(CLAIMS, {**made, "metadata": {**made["metadata"], "ownerReferences": [owner]}})
    told = {"extendedResourceClaimStatus": {"resourceClaimName": "made", "requestMappings": []}}
    pod = cluster.update("pods", {**pod, "status": {**meta.status(pod), **told}}, subresource="status")
    cluster.settle()
    assert cluster.claim("made") is not None
    cluster.update("pods", {**pod, "status": {**meta.status(pod), "phase": "Succeeded"}}, subresource="status")
    cluster.settle()
    assert cluster.claim("made") is None


NAMED = {"name": "gpu", "resourceClaimName": "shared"}


@pytest.mark.parametrize("how", ["Succeeded", "Failed", "gone", "replaced", "never placed"])
def test_consumers_that_are_over_are_forgotten(how: str) -> None:
    cluster = Claiming()
    pod, other = cluster.pod("p", NAMED, node="n1"), cluster.pod("q", NAMED, node="n1")
    if how == "never placed":
        cluster.remove("pods", "default/p")
        pod = cluster.pod("p", NAMED)
    cluster.shared(pod, other)
    cluster.settle()
    assert cluster.of_pods() == ["p", "q"]
    if how == "gone":
        cluster.remove("pods", "default/p")
    elif how == "replaced":
        cluster.remove("pods", "default/p")
        cluster.pod("p", NAMED)
    elif how == "never placed":
        held = cluster.require("pods", "default", "p")
        cluster.put("pods", {**held, "metadata": {**held["metadata"], "deletionTimestamp": cluster.now.stamp}})
    else:
        cluster.change("pods", "p", status={"phase": how})
    cluster.settle()
    assert cluster.of_pods() == ["q"]
    claim = cluster.claim()
    assert claim is not None and claim["status"]["allocation"] == ALLOCATION
    assert meta.finalizers(claim) == [FINALIZER]


def test_with_the_last_consumer_the_devices_are_free() -> None:
    cluster = Claiming()
    cluster.shared(cluster.pod("p", NAMED, node="n1"))
    cluster.settle()
    cluster.remove("pods", "default/p")
    cluster.settle()
    claim = cluster.claim()
    assert claim is not None
    assert not meta.status(claim).get("allocation") and not meta.status(claim).get("reservedFor")
    assert not meta.finalizers(claim)


def test_a_claim_that_nobody_used_keeps_its_devices() -> None:
    cluster = Claiming()
    cluster.shared()
    cluster.settle()
    claim = cluster.claim()
    assert claim is not None and claim["status"]["allocation"] == ALLOCATION


def test_a_deleted_claim_goes_when_nobody_uses_it() -> None:
    cluster = Claiming()
    pod = cluster.pod("p", NAMED, node="n1")
    cluster.delete_object(CLAIMS, cluster.shared(pod))
    cluster.settle()
    assert cluster.claim() is not None
    cluster.remove("pods", "default/p")
    cluster.settle()
    assert cluster.claim() is None


def test_a_deleted_claim_without_consumers_gives_its_devices_back_first() -> None:
    cluster = Claiming()
    cluster.delete_object(CLAIMS, cluster.shared())
    cluster.settle()
    assert cluster.claim() is None


def test_a_claim_made_for_a_pod_goes_when_that_is_over() -> None:
    cluster = Claiming()
    cluster.pod(node="n1")
    cluster.settle()
    name = cluster.statuses()["gpu"]
    cluster.change("pods", "p", status={"phase": "Succeeded"})
    cluster.settle()
    assert cluster.claim(name) is None


def test_a_pod_that_no_scheduler_placed_gets_its_reservation() -> None:
    cluster = Claiming()
    cluster.shared()
    cluster.pod("p", NAMED, node="n1")
    cluster.settle()
    assert cluster.of_pods() == ["p"]


def test_a_claim_that_is_being_deleted_is_reserved_for_nobody_new() -> None:
    cluster = Claiming()
    user = cluster.pod("user", NAMED, node="n1")
    cluster.delete_object(CLAIMS, cluster.shared(user))
    cluster.pod("late", NAMED, node="n1")
    cluster.settle()
    assert cluster.of_pods() == ["user"]


# --- taints of devices --------------------------------------------------------------------------


def tainted(**more: Any) -> dict[str, Any]:
    return {"key": "broken", "effect": "NoExecute", **more}


def devices(*taints: dict[str, Any]) -> dict[str, Any]:
    return {"driver": "d", "pool": {"name": "p"}, "devices": [{"name": "dev-0", "taints": list(taints)}]}


def tolerating(*tolerations: dict[str, Any]) -> dict[str, Any]:
    return {"devices": {"results": [{**RESULT, "tolerations": list(tolerations)}]}}


def is_going(cluster: Claiming) -> bool:
    pod = cluster.get("pods", "default", "p")
    return pod is None or meta.is_deleting(pod)


def test_a_tainted_device_ends_the_pods_that_use_it() -> None:
    cluster = Claiming()
    cluster.add(SLICES, "s", spec=devices())
    cluster.shared(cluster.pod("p", NAMED, node="n1"))
    cluster.settle()
    assert not is_going(cluster)
    cluster.change(SLICES, "s", spec=devices(tainted(timeAdded=cluster.now.stamp)))
    cluster.settle()
    assert is_going(cluster)
    assert ("p", "DeviceTaintManagerEviction", "Marking for deletion Pod default/p") in cluster.events
    condition = meta.get_condition(cluster.require("pods", "default", "p"), "DisruptionTarget")
    assert condition is not None
    assert (condition["reason"], condition["message"]) == (
        "DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint")  # fmt: skip


SELECTORS = {
    "everything": ({}, True),
    "the driver": ({"driver": "d"}, True),
    "the device": ({"driver": "d", "pool": "p", "device": "dev-0"}, True),
    "another device": ({"driver": "d", "pool": "p", "device": "dev-1"}, False),
    "another pool": ({"pool": "q"}, False),
}


@pytest.mark.parametrize("case", SELECTORS)
def test_rules_of_administrators(case: str) -> None:
    selector, goes = SELECTORS[case]
    cluster = Claiming()
    cluster.shared(cluster.pod("p", NAMED, node="n1"))
    cluster.add(RULES, "r", spec={"deviceSelector": selector, "taint": tainted(timeAdded=cluster.now.stamp)})
    cluster.settle()
    assert is_going(cluster) is goes


@pytest.mark.parametrize(
    ("tolerations", "seconds"),
    [([{"key": "broken", "operator": "Exists"}], None),
     ([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}], 60),
     ([{"operator": "Exists", "tolerationSeconds": 60}, {"key": "broken", "operator": "Exists",
                                                        "tolerationSeconds": 30}], 30),
     ([{"key": "other", "operator": "Exists"}], 0), ([{"operator": "Exists", "effect": "NoSchedule"}], 0)],
)  # fmt: skip
def test_tolerations_of_claims(tolerations: list[dict[str, Any]], seconds: int | None) -> None:
    cluster = Claiming()
    cluster.shared(cluster.pod("p", NAMED, node="n1"), allocation=tolerating(*tolerations))
    cluster.add(SLICES, "s", spec=devices(tainted(timeAdded=cluster.now.stamp)))
    cluster.settle()
    assert is_going(cluster) is (seconds == 0)
    if seconds:
        cluster.advance(seconds - 1)
        assert not is_going(cluster)
    cluster.advance(2 if seconds else 100)
    assert is_going(cluster) is (seconds is not None)


def test_effects_that_only_keep_others_away_end_nobody() -> None:
    cluster = Claiming()
    cluster.shared(cluster.pod("p", NAMED, node="n1"))
    cluster.add(SLICES, "s", spec=devices(tainted(effect="NoSchedule")))
    cluster.settle()
    assert not is_going(cluster)


def test_a_taint_that_goes_in_time_is_a_reprieve() -> None:
    cluster = Claiming()
    bearing = tolerating({"operator": "Exists", "tolerationSeconds": 60})
    cluster.shared(cluster.pod("p", NAMED, node="n1"), allocation=bearing)
    cluster.add(SLICES, "s", spec=devices(tainted(timeAdded=cluster.now.stamp)))
    cluster.advance(30)
    cluster.change(SLICES, "s", spec=devices())
    cluster.advance(100)
    assert not is_going(cluster)
    assert ("p", "DeviceTaintManagerEviction", "Cancelling deletion of Pod default/p") in cluster.events
