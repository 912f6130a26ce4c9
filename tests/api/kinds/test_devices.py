"""Devices, the claims to them and what drivers say of both: what is refused, in Kubernetes' words."""

from copy import deepcopy
from typing import Any

import pytest

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.registry import rules_of
from rayplane.control_plane.api.kinds.strategy import prepare_for_create, prepare_for_status_update
from rayplane.control_plane.api.kinds.validation import validate_create, validate_status_update, validate_update
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.api.machinery.tables import to_table
from rayplane.control_plane.api.meta import parse_time

Body = dict[str, Any]
CREATED = "2026-01-01T00:00:00Z"


def info_of(kind: str) -> ResourceInfo:
    info = builtin_registry().by_kind("resource.k8s.io/v1", kind)
    assert info is not None
    return info


def made(kind: str, spec: Body, **rest: Any) -> Body:
    """An object as it would be stored."""
    info = info_of(kind)
    meta = {"name": "a", "uid": "u", "creationTimestamp": CREATED} | ({"namespace": "n"} if info.namespaced else {})
    obj = {"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": meta, "spec": deepcopy(spec)}
    default(obj)
    prepare_for_create(obj, info)
    return {**obj, **rest}


def wrong(kind: str, spec: Body) -> list[str]:
    return [str(error) for error in validate_create(made(kind, spec), info_of(kind))]


REQUEST: Body = {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}
CLAIM: Body = {"devices": {"requests": [REQUEST]}}
EITHER: Body = {
    "name": "gpu",
    "firstAvailable": [
        {"name": "big", "deviceClassName": "big.example.com"},
        {"name": "small", "deviceClassName": "small.example.com", "count": 2},
    ],
}
SLICE: Body = {
    "driver": "gpu.example.com",
    "pool": {"name": "node-0", "generation": 1, "resourceSliceCount": 1},
    "nodeName": "node-0",
    "devices": [
        {"name": "gpu-0", "attributes": {"model": {"string": "a100"}}, "capacity": {"memory": {"value": "8Gi"}}}
    ],
}


def test_a_claim_asks_for_one_device_where_it_does_not_say_how_many() -> None:
    claim = made("ResourceClaim", {"devices": {"requests": [REQUEST, EITHER]}})
    exact, either = claim["spec"]["devices"]["requests"]
    assert exact["exactly"] == {"deviceClassName": "gpu.example.com", "allocationMode": "ExactCount", "count": 1}
    assert [one["count"] for one in either["firstAvailable"]] == [1, 2]
    assert claim["status"] == {}
    template = made("ResourceClaimTemplate", {"spec": CLAIM})
    assert template["spec"]["spec"]["devices"]["requests"][0]["exactly"]["count"] == 1


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ({"requests": [REQUEST]}, []),
        ({"requests": [EITHER], "constraints": [{"requests": ["gpu/big"], "matchAttribute": "a.b/c"}]}, []),
        (
            {"requests": [{"name": "gpu"}]},
            ["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"],
        ),
        (
            {"requests": [{**REQUEST, **EITHER}]},
            [
                "spec.devices.requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is "
                "required, but multiple fields are set"
            ],
        ),
        ({"requests": [REQUEST, REQUEST]}, ['spec.devices.requests[1]: Duplicate value: "gpu"']),
        ({"requests": [REQUEST] * 33}, ["spec.devices.requests: Too many: 33: must have at most 32 items"]),
        (
            {"requests": [{"name": "gpu", "exactly": {"deviceClassName": ""}}]},
            ["spec.devices.requests[0].exactly.deviceClassName: Required value"],
        ),
        (
            {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "a", "allocationMode": "All", "count": 1}}]},
            [
                "spec.devices.requests[0].exactly.count: Invalid value: 1: must not be specified when "
                "allocationMode is 'All'"
            ],
        ),
        (
            {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "a", "allocationMode": "Some"}}]},
            [
                'spec.devices.requests[0].exactly.allocationMode: Unsupported value: "Some": supported values: '
                '"All", "ExactCount"'
            ],
        ),
        (
            {"requests": [EITHER], "config": [{"requests": ["gpu/huge"], "opaque": {"driver": "a", "parameters": {}}}]},
            [
                'spec.devices.config[0].requests[0]: Invalid value: "gpu/huge": must be the name of a request in the '
                "claim or the name of a request and a subrequest separated by '/'"
            ],
        ),
        (
            {"requests": [REQUEST], "constraints": [{"matchAttribute": "model"}]},
            [
                'spec.devices.constraints[0].matchAttribute: Invalid value: "model": a fully qualified name must be a '
                "domain and a name separated by a slash"
            ],
        ),
        (
            {"requests": [REQUEST], "config": [{"opaque": {"driver": "a", "parameters": "text"}}]},
            ['spec.devices.config[0].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object'],
        ),
    ],
)
def test_what_a_claim_asks_for(devices: Body, said: list[str]) -> None:
    assert wrong("ResourceClaim", {"devices": devices}) == said
    within = [line.replace("spec.devices", "spec.spec.devices", 1) for line in said]
    assert wrong("ResourceClaimTemplate", {"spec": {"devices": devices}}) == within


def test_tolerations_of_a_request_compare_for_equality_where_they_do_not_say() -> None:
    exact = {"deviceClassName": "a", "tolerations": [{"key": "k", "value": "v"}, {"operator": "Exists", "value": "v"}]}
    spec = {"devices": {"requests": [{"name": "gpu", "exactly": exact}]}}
    at = "spec.devices.requests[0].exactly.tolerations[1].value"
    assert wrong("ResourceClaim", spec) == [f'{at}: Invalid value: "v": must be empty for operator `Exists`']


def test_what_a_claim_asks_for_never_changes() -> None:
    claim, info = made("ResourceClaim", CLAIM), info_of("ResourceClaim")
    changed = {**claim, "spec": {"devices": {"requests": [EITHER]}}}
    assert [e.field for e in validate_update(changed, claim, info)] == ["spec"]
    assert validate_update(claim, claim, info) == []


RESULT = {"request": "gpu", "driver": "gpu.example.com", "pool": "node-0", "device": "gpu-0"}
ALLOCATION = {"devices": {"results": [RESULT]}}
USER = {"resource": "pods", "name": "p", "uid": "1"}


def status_errors(new: Body, old: Body, **metadata: Any) -> list[str]:
    claim = made("ResourceClaim", CLAIM)
    claim["metadata"].update(metadata)
    found = validate_status_update({**claim, "status": new}, {**claim, "status": old}, info_of("ResourceClaim"))
    return [str(error) for error in found]


def test_a_pod_reserves_only_what_is_allocated() -> None:
    assert status_errors({"allocation": ALLOCATION, "reservedFor": [USER]}, {}) == []
    text = "status.reservedFor: Forbidden: may not be specified when `allocated` is not set"
    assert status_errors({"reservedFor": [USER]}, {}) == [text]
    late = status_errors({"allocation": ALLOCATION, "reservedFor": [USER]}, {}, deletionTimestamp=CREATED)
    assert [line.partition(":")[0] for line in late] == ["status.reservedFor"]


def test_an_allocation_names_a_request_and_stays_as_it_is() -> None:
    other = {"devices": {"results": [{**RESULT, "request": "nic"}]}}
    assert [line.partition(":")[0] for line in status_errors({"allocation": other}, {})] == [
        "status.allocation.devices.results[0].request"
    ]
    changed = {"devices": {"results": [{**RESULT, "device": "gpu-1"}]}}
    assert [line.partition(":")[0] for line in status_errors({"allocation": changed}, {"allocation": ALLOCATION})] == [
        "status.allocation"
    ]


def test_a_driver_speaks_of_the_devices_that_the_claim_got() -> None:
    device = {"driver": "gpu.example.com", "pool": "node-0", "device": "gpu-0"}
    network = {"networkData": {"ips": ["10.0.0.1/24", "10.0.0.01/24"]}}
    assert status_errors({"allocation": ALLOCATION, "devices": [device]}, {}) == []
    assert status_errors({"devices": [device]}, {}) == [
        'status.devices[0]: Invalid value: "gpu.example.com/node-0/gpu-0": must be an allocated device in the claim'
    ]
    assert [
        e.partition(":")[0] for e in status_errors({"allocation": ALLOCATION, "devices": [device | network]}, {})
    ] == ["status.devices[0].networkData.ips[1]"]
    claim = made("ResourceClaim", CLAIM)
    old = {**claim, "status": {"allocation": ALLOCATION, "devices": [device]}}
    new = {**claim, "status": {"devices": [device]}}
    prepare_for_status_update(new, old, info_of("ResourceClaim"))
    assert new["status"] == {}, "what was said of devices goes with them"


@pytest.mark.parametrize(
    ("status", "deleting", "state"),
    [
        ({}, False, "pending"),
        ({}, True, "deleted"),
        ({"allocation": ALLOCATION}, False, "allocated"),
        ({"allocation": ALLOCATION, "reservedFor": [USER]}, False, "allocated,reserved"),
        ({"allocation": ALLOCATION, "reservedFor": [USER]}, True, "deleted,allocated,reserved"),
    ],
)
def test_the_state_of_a_claim_in_tables(status: Body, deleting: bool, state: str) -> None:
    claim = made("ResourceClaim", CLAIM, status=status)
    if deleting:
        claim["metadata"]["deletionTimestamp"] = CREATED
    printer = rules_of("resource.k8s.io", "ResourceClaim").printer
    table = to_table(printer, [claim], now=parse_time("2026-01-01T00:05:00Z"))
    assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "State", "Age"]
    assert table["rows"][0]["cells"] == ["a", state, "5m"]


DEVICE = SLICE["devices"][0]
STEPS = {"default": "2", "validRange": {"min": "1", "step": "2"}}


def with_device(**fields: Any) -> Body:
    return {**SLICE, "devices": [{**DEVICE, **fields}]}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (SLICE, []),
        (
            {**SLICE, "allNodes": True},
            [
                'spec: Invalid value: "{`nodeName`, `allNodes`}": exactly one of `nodeName`, `nodeSelector`, '
                "`allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"
            ],
        ),
        ({**SLICE, "driver": ""}, ["spec.driver: Required value"]),
        (
            {**SLICE, "pool": {"name": "p", "generation": 0, "resourceSliceCount": 0}},
            ["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero"],
        ),
        ({**SLICE, "devices": [DEVICE, DEVICE]}, ['spec.devices[1]: Duplicate value: "gpu-0"']),
        (
            {**SLICE, "devices": [{"name": f"gpu-{i}"} for i in range(129)]},
            ["spec.devices: Too many: 129: must have at most 128 items"],
        ),
        (
            {**SLICE, "devices": [{"name": f"gpu-{i}", "taints": [{"key": "k", "effect": "None"}]} for i in range(65)]},
            ["spec.devices: Too many: 65: must have at most 64 items"],
        ),
        (
            with_device(attributes={"a": {"int": 1, "bool": True}}),
            [
                'spec.devices[0].attributes[a]: Invalid value: {"bool":true,"int":1}: exactly one value must be '
                "specified"
            ],
        ),
        (
            with_device(attributes={"v": {"version": "1.0"}}),
            [
                'spec.devices[0].attributes[v].version: Invalid value: "1.0": must be a string compatible with '
                "semver.org spec 2.0.0"
            ],
        ),
        (
            with_device(capacity={"memory": {"value": "8Gi", "requestPolicy": {"default": "1Gi"}}}),
            ["spec.devices[0].capacity[memory].requestPolicy: Forbidden: allowMultipleAllocations must be true"],
        ),
        (
            with_device(
                allowMultipleAllocations=True,
                capacity={"memory": {"value": "8", "requestPolicy": STEPS}},
            ),
            [
                'spec.devices[0].capacity[memory].requestPolicy.validRange.step: Invalid value: "2": value is not a '
                "multiple of a given step (2) from (1)"
            ],
        ),
        (
            with_device(taints=[{"key": "k", "effect": "Sometimes"}]),
            [
                'spec.devices[0].taints[0].effect: Unsupported value: "Sometimes": supported values: "NoExecute", '
                '"NoSchedule", "None"'
            ],
        ),
        (
            with_device(allNodes=True),
            [
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if "
                "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
            ],
        ),
        (
            with_device(bindingConditions=["a"]),
            [
                "spec.devices[0].bindingFailureConditions: Invalid value: []: bindingFailureConditions are required "
                "to use bindingConditions"
            ],
        ),
    ],
)
def test_what_a_driver_publishes(spec: Body, said: list[str]) -> None:
    assert wrong("ResourceSlice", spec) == said


def test_a_slice_stays_of_its_driver_pool_and_node() -> None:
    info, old = info_of("ResourceSlice"), made("ResourceSlice", SLICE)
    spec = {**SLICE, "driver": "other", "nodeName": "node-1", "pool": {**SLICE["pool"], "name": "other"}}
    fields = [error.field for error in validate_update(made("ResourceSlice", spec), old, info)]
    assert fields == ["spec.pool.name", "spec.driver", "spec.nodeName"]


def test_a_taint_counts_from_when_it_was_added() -> None:
    taint = {"key": "k", "effect": "NoSchedule"}
    assert made("ResourceSlice", with_device(taints=[taint]))["spec"]["devices"][0]["taints"][0]["timeAdded"] == CREATED
    rule = made("DeviceTaintRule", {"deviceSelector": {"driver": "d"}, "taint": taint})
    assert rule["spec"]["taint"]["timeAdded"] == CREATED
    assert wrong("DeviceTaintRule", {"deviceSelector": {"driver": "D D"}, "taint": {"key": "k"}})[1:] == [
        "spec.taint.effect: Required value"
    ]


def test_a_class_may_stand_for_an_extended_resource() -> None:
    assert wrong("DeviceClass", {"extendedResourceName": "example.com/gpu"}) == []
    assert [line.partition(":")[0] for line in wrong("DeviceClass", {"extendedResourceName": "cpu"})] == [
        "spec.extendedResourceName"
    ]
    assert wrong("DeviceClass", {"selectors": [{}]}) == ["spec.selectors[0].cel: Required value"]


def test_a_migration_ends_once() -> None:
    rules = rules_of("storagemigration.k8s.io", "StorageVersionMigration")

    def status(*kinds: str, **rest: Any) -> Body:
        last = {"status": "True", "lastTransitionTime": CREATED, "reason": "R", "message": ""}
        return {"status": {"conditions": [{"type": kind, **last} for kind in kinds], **rest}}

    assert rules.validate({"spec": {}})[0].field == "spec.resource.resource"
    assert rules.validate_status_update(status("Running"), {}) == []
    assert len(rules.validate_status_update(status("Succeeded", "Failed"), {})) == 1
    assert len(rules.validate_status_update(status(), status("Succeeded"))) == 1
    changed = rules.validate_status_update(status(resourceVersion="2"), status(resourceVersion="1"))
    assert [error.detail for error in changed] == ["cannot be updated"]


@pytest.mark.parametrize(
    ("claims", "used", "said"),
    [
        ([{"name": "gpu", "resourceClaimName": "mine"}], ["gpu"], []),
        ([{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}], [], []),
        ([{"name": "gpu"}], [], ["must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"]),
        (
            [{"name": "gpu", "resourceClaimName": "a", "resourceClaimTemplateName": "b"}],
            [],
            ["at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"],
        ),
        (
            [{"name": "gpu", "resourceClaimName": "mine"}],
            ["nic"],
            ['spec.containers[0].resources.claims[0]: Not found: "nic": must be one of the names in '
             "pod.spec.resourceClaims: gpu"],
        ),
        ([], ["nic"], ["must be one of the names in pod.spec.resourceClaims which is empty"]),
        ([{"name": "a", "resourceClaimName": "x"}] * 2, ["a", "a"], ["[1].name: Duplicate", "claims[1]: Duplicate"]),
    ],
)  # fmt: skip
def test_containers_use_only_claims_of_their_pod(claims: list[Body], used: list[str], said: list[str]) -> None:
    container = {"name": "c", "image": "i", "resources": {"claims": [{"name": name} for name in used]}}
    pod: Body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}}
    pod["spec"] = {"containers": [container], "resourceClaims": claims}
    info = builtin_registry().by_kind("v1", "Pod")
    assert info is not None
    default(pod)
    found = [str(error) for error in validate_create(pod, info)]
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True)), found
