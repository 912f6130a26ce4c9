"""Statuses of pods: what nodes, schedulers and controllers may report."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.pod_template.status import validate_pod_status_update
from rayplane.control_plane.api.kinds.strategy import prepare_for_status_update
from tests.api.kinds.changes import Changes, created, info_of, status_refused, with_changes

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "spec": {
        "containers": [{"name": "c", "image": "nginx", "resources": {"requests": {"cpu": "1", "example.com/x": "1"},
            "limits": {"example.com/x": "1"}, "claims": [{"name": "g"}]}}],
        "initContainers": [{"name": "i", "image": "nginx"}, {"name": "s", "image": "nginx", "restartPolicy": "Always"}],
        "resourceClaims": [{"name": "g", "resourceClaimName": "gpu"}],
    },
}  # fmt: skip
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
KEY = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
FAMILIES = "may specify no more than one IP for each IP family"
BOTH = "podIP and podIPs must either both be set or both be unset"
CLASS = {"qosClass": "Burstable"}
X = {"containerName": "c", "resourceName": "example.com/x", "requestName": "r"}
EXTENDED: dict[str, Any] = {"resourceClaimName": "made", "requestMappings": [X]}
MAPPED = "status.extendedResourceClaimStatus.requestMappings"
OF_NODE = "status.nodeAllocatableResourceClaimStatuses[0]"
ONE_OF = "must match one of the container's resource requests"


def ips(*addresses: str) -> list[dict[str, str]]:
    return [{"ip": address} for address in addresses]


def printed(*addresses: str) -> str:
    return "[" + ",".join(f'{{"ip":"{address}"}}' for address in addresses) + "]"


def told(kind: str, value: Any, name: str = "c") -> dict[str, Any]:
    return {"containerStatuses": [{"name": name, kind: value}]}


def health(*resources: Any, name: str = "example.com/x") -> dict[str, Any]:
    return told("allocatedResourcesStatus", [{"name": name, "resources": list(resources)}])


def of_node(claim: str = "gpu", **more: Any) -> dict[str, Any]:
    return {"nodeAllocatableResourceClaimStatuses": [{"resourceClaimName": claim, "containers": ["c"], **more}]}


REPORTS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, []),
    ({"conditions": [{"type": "a/b", "status": "True"}, {"type": "ContainersReady", "status": "False"}]}, []),
    ({"conditions": [{"type": "_", "status": "True"}]}, [f'status.conditions[0].Type: Invalid value: "_": {KEY}']),
    ({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": -1}]}, [
        "status.conditions[0].observedGeneration: Invalid value: -1: must be a non-negative integer"]),
    ({"observedGeneration": 4}, []),
    ({"observedGeneration": -1}, ["status.observedGeneration: Invalid value: -1: must be a non-negative integer"]),
    ({"nominatedNodeName": "n"}, []),
    ({"nominatedNodeName": "N"}, [f'status.nominatedNodeName: Invalid value: "N": {SUBDOMAIN}']),
    ({"qosClass": "Guaranteed"}, ['status.qosClass: Invalid value: "Guaranteed": field is immutable']),
    # Addresses.
    ({"podIP": "10.0.0.1", "podIPs": ips("10.0.0.1")}, []),
    ({"podIP": "10.0.0.1", "podIPs": ips("10.0.0.1", "fd00::1")}, []),
    ({"podIP": "fd00::1", "podIPs": ips("fd00::1", "10.0.0.1")}, []),
    ({"podIP": "x", "podIPs": ips("x")}, [f'status.podIPs[0]: Invalid value: "x": {ADDRESS}']),
    ({"podIP": "10.0.0.1", "podIPs": ips("10.0.0.1", "10.0.0.2")}, [
        f"status.podIPs: Invalid value: {printed('10.0.0.1', '10.0.0.2')}: {FAMILIES}"]),
    ({"podIP": "10.0.0.1", "podIPs": ips("10.0.0.1", "fd00::1", "fd00::2")}, [
        f"status.podIPs: Invalid value: {printed('10.0.0.1', 'fd00::1', 'fd00::2')}: {FAMILIES}"]),
    ({"hostIP": "10.0.0.1"}, []),
    ({"hostIP": "10.0.0.1", "hostIPs": ips("10.0.0.1", "fd00::1")}, []),
    ({"hostIPs": ips("10.0.0.1")}, ['status.hostIPs[0].ip: Invalid value: "10.0.0.1": must be equal to `hostIP`']),
    ({"hostIP": "x", "hostIPs": ips("x")}, [f'status.hostIPs[0]: Invalid value: "x": {ADDRESS}']),
    ({"hostIP": "10.0.0.1", "hostIPs": ips("10.0.0.1", "10.0.0.2")}, [
        f"status.hostIPs: Invalid value: {printed('10.0.0.1', '10.0.0.2')}: {FAMILIES}"]),
    # Claims.
    ({"resourceClaimStatuses": [{"name": "g"}]}, []),
    ({"resourceClaimStatuses": [{"name": "g", "resourceClaimName": "gpu-1"}]}, []),
    ({"resourceClaimStatuses": [{"name": "h"}]}, [
        'status.resourceClaimStatuses[0].name: Invalid value: "h": must match the name of an entry in '
        "`spec.resourceClaims`"]),
    ({"resourceClaimStatuses": [{"name": "g"}, {"name": "g"}]}, [
        'status.resourceClaimStatuses[1].name: Duplicate value: "g"']),
    ({"resourceClaimStatuses": [{"name": "g", "resourceClaimName": "_"}]}, [
        f'status.resourceClaimStatuses[0].resourceClaimName: Invalid value: "_": {SUBDOMAIN}']),
    ({"extendedResourceClaimStatus": EXTENDED}, []),
    ({"extendedResourceClaimStatus": {}}, [
        "status.extendedResourceClaimStatus.requestMappings: Required value: at least one request mapping is required",
        "status.extendedResourceClaimStatus.resourceClaimName: Required value"]),
    ({"extendedResourceClaimStatus": {**EXTENDED, "requestMappings": [X, {**X, "resourceName": "example.com/y"}]}}, [
        f'{MAPPED}[1].resourceName: Invalid value: "example.com/y": must match the extended resource name of an entry '
        "in spec.initContainers.resources.requests or spec.containers.resources.requests"]),
    ({"extendedResourceClaimStatus": {**EXTENDED, "requestMappings": [{**X, "containerName": "z"}]}}, [
        f'{MAPPED}[0].containerName: Invalid value: "z": must match the name of an entry in spec.initContainers.name '
        "or spec.containers.name"]),
    ({"extendedResourceClaimStatus": {**EXTENDED, "requestMappings": [X, X]}}, [
        f'{MAPPED}[1].{field}: Duplicate value: "{X[field]}"' for field in X]),
    ({"extendedResourceClaimStatus": {**EXTENDED, "resourceClaimName": "_"}}, [
        f'status.extendedResourceClaimStatus.resourceClaimName: Invalid value: "_": {SUBDOMAIN}']),
    (of_node(mapping=[{"name": "cpu", "quantity": "1"}], overhead=[{"name": "hugepages-2Mi", "perPod": "2Mi"}]), []),
    (of_node("other"), [f'{OF_NODE}.resourceClaimName: Invalid value: "other": no mapping found in pod reference']),
    (of_node(mapping=[{"name": "x", "quantity": "-1"}]), [
        f'{OF_NODE}.mapping[0].name: Invalid value: "x": must be a node allocatable resource name',
        f'{OF_NODE}.mapping[0].quantity: Invalid value: "-1": must be non-negative']),
    (of_node(overhead=[{"name": "cpu"}, {"name": "cpu", "perPod": "-1", "perContainer": "-2"}]), [
        f'{OF_NODE}.overhead[0]: Invalid value: "": at least one of perPod or perContainer must be set',
        f'{OF_NODE}.overhead[1].perPod: Invalid value: "-1": must be non-negative',
        f'{OF_NODE}.overhead[1].perContainer: Invalid value: "-2": must be non-negative']),
    # Users.
    (told("user", {"linux": {"uid": 0, "gid": 0, "supplementalGroups": [1, 2]}}), []),
    (told("user", {"linux": {"uid": -1, "gid": 0}}), [
        "status.containerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 4294967295, inclusive"]),
    (told("user", {"linux": {"uid": 0, "gid": -1, "supplementalGroups": [-1]}}), [
        f"status.containerStatuses[0].user.linux.{field}: Invalid value: -1: must be between 0 and 2147483647, "
        f"inclusive"
        for field in ("gid", "supplementalGroups[0]")]),
    # Health of devices.
    (health({"resourceID": "a", "health": "Healthy"}, {"resourceID": "b", "health": "Unknown"}), []),
    (health(name="claim:g"), []),
    (health(name="cpu"), []),
    (health(name="memory"), [
        f'status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: "memory": {ONE_OF}']),
    (health(name="claim:h"), [
        'status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: "claim:h": must match one of the '
        "container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request "
        "is set or 'claim:<claimName>' when it is empty"]),
    (health({"resourceID": "a", "health": "x"}), [
        "status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health: Unsupported value: \"x\": "
        'supported values: "Healthy", "Unhealthy", "Unknown"']),
    (health({"resourceID": "a", "health": "Unknown"}, {"resourceID": "a", "health": "Unknown"}), [
        "status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID: Duplicate value: \"a\""]),
    ({"ephemeralContainerStatuses": [{"name": "e", "allocatedResourcesStatus": [{"name": "cpu"}]}]}, [
        "status.ephemeralContainerStatuses[0].allocatedResourcesStatus: Forbidden: must not be specified in container "
        "status"]),
]  # fmt: skip


@pytest.mark.parametrize(("report", "findings"), REPORTS)
def test_reports(report: dict[str, Any], findings: list[str]) -> None:
    assert status_refused(POD, CLASS, CLASS | report) == findings


def ended(kind: str, name: str, code: int = 0) -> dict[str, Any]:
    return {kind: [{"name": name, "state": {"terminated": {"exitCode": code}}}]}


def runs(kind: str, name: str) -> dict[str, Any]:
    return {kind: [{"name": name, "state": {"running": {}}}]}


CS, IS, ES = "containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"
NEVER: Changes = {"spec.restartPolicy": "Never"}
FAILED: Changes = {"spec.restartPolicy": "OnFailure"}
RULED: Changes = NEVER | {
    "spec.containers.0.restartPolicy": "Never",
    "spec.containers.0.restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [7]}}],
}
STAYS = "Forbidden: may not be transitioned to non-terminated state"
ENDINGS: list[tuple[Changes, str, str, int, list[str]]] = [
    ({}, CS, "c", 0, []),
    (NEVER, CS, "c", 0, [f"status.{CS}[0].state: {STAYS}"]),
    (NEVER, CS, "c", 1, [f"status.{CS}[0].state: {STAYS}"]),
    (FAILED, CS, "c", 0, [f"status.{CS}[0].state: {STAYS}"]),
    (FAILED, CS, "c", 1, []),
    (NEVER, IS, "i", 1, [f"status.{IS}[0].state: {STAYS}"]),
    (NEVER, IS, "s", 0, []),
    (FAILED, IS, "i", 1, []),
    (NEVER, CS, "z", 0, [f"status.{CS}[0].state: {STAYS}"]),
    ({}, ES, "e", 0, [f"status.{ES}[0].state: {STAYS}"]),
    (RULED, CS, "c", 7, []),
    (RULED, CS, "c", 8, [f"status.{CS}[0].state: {STAYS}"]),
    (NEVER | {"spec.containers.0.restartPolicy": "Always"}, CS, "c", 0, []),
    ({"spec.containers.0.restartPolicy": "Never"}, CS, "c", 0, [f"status.{CS}[0].state: {STAYS}"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "name", "code", "findings"), ENDINGS)
def test_what_has_ended_stays_so(changes: Changes, kind: str, name: str, code: int, findings: list[str]) -> None:
    pod = with_changes(POD, changes)
    assert status_refused(pod, CLASS | ended(kind, name, code), CLASS | runs(kind, name)) == findings
    assert status_refused(pod, CLASS | ended(kind, name, code), CLASS | ended(kind, name, code)) == []
    assert status_refused(pod, CLASS | ended(kind, name, code), CLASS | {kind: []}) == []
    assert status_refused(pod, CLASS | runs(kind, name), CLASS | ended(kind, name, code)) == []


def test_a_node_may_not_be_nominated_for_a_pod_that_has_one() -> None:
    pod = with_changes(POD, {"spec.nodeName": "n"})
    assert status_refused(pod, CLASS, CLASS | {"nominatedNodeName": "m"}) == [
        "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"
    ]
    assert status_refused(pod, CLASS | {"nominatedNodeName": "m"}, CLASS | {"nominatedNodeName": "m"}) == []


def test_pods_of_windows_have_no_users_of_linux() -> None:
    pod = with_changes(POD, {"spec.os": {"name": "windows"}})
    assert status_refused(pod, CLASS, CLASS | told("user", {"linux": {"uid": 0, "gid": 0}})) == [
        "status.containerStatuses[0].user.linux: Forbidden: cannot be set for a windows pod"
    ]


def test_addresses_that_are_there_may_stay() -> None:
    odd = CLASS | {"podIP": "010.0.0.1", "podIPs": ips("010.0.0.1"), "hostIP": "x", "hostIPs": ips("x")}
    assert status_refused(POD, odd, odd | {"phase": "Running"}) == []


@pytest.mark.parametrize(
    ("said", "own", "all_"),
    [
        ({"podIP": "10.0.0.1"}, "10.0.0.1", ips("10.0.0.1")),
        ({"podIPs": ips("10.0.0.1", "fd00::1")}, "10.0.0.1", ips("10.0.0.1", "fd00::1")),
        ({"podIP": "10.0.0.2", "podIPs": ips("10.0.0.1", "fd00::1")}, "10.0.0.2", ips("10.0.0.2")),
        ({}, None, None),
    ],
)
def test_one_address_is_the_first_of_all(said: Any, own: str | None, all_: Any) -> None:
    old, _ = created(POD, {})
    new = with_changes(old, {"status": CLASS | said})
    prepare_for_status_update(new, old, info_of(POD))
    assert (new["status"].get("podIP"), new["status"].get("podIPs")) == (own, all_)


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        ({"podIP": "10.0.0.1"}, f"status.podIPs: Invalid value: null: {BOTH}"),
        ({"podIPs": ips("10.0.0.1")}, f"status.podIPs: Invalid value: {printed('10.0.0.1')}: {BOTH}"),
        (
            {"podIP": "10.0.0.2", "podIPs": ips("10.0.0.1")},
            'status.podIPs[0].ip: Invalid value: "10.0.0.1": must be equal to `podIP`',
        ),
    ],
)
def test_addresses_agree(said: Any, finding: str) -> None:
    old, _ = created(POD, {})
    new = with_changes(old, {"status": meta.status(old) | said})
    assert [str(error) for error in validate_pod_status_update(new, old)] == [finding]


def test_who_leaves_the_class_out_leaves_it() -> None:
    assert status_refused(POD, CLASS, {"phase": "Running"}) == []


def test_annotations_come_with_a_status_and_are_judged() -> None:
    old, _ = created(POD, {})
    new = with_changes(old, {"metadata.annotations": {"kubernetes.io/config.mirror": "x"}})
    assert [str(error) for error in validate_pod_status_update(new, old)] == [
        "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
        'metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod '
        "annotation is set",
    ]
