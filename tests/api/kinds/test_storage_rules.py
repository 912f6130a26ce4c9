"""Rules of what keeps data and bounds its use: config, volumes, claims, drivers, quotas, nodes, namespaces."""

import base64
from typing import Any

import pytest

from rayplane.control_plane.api.kinds.registry import rules_of
from tests.api.kinds.changes import GONE, Case, Changes, created, info_of, status_refused, updated

STORAGE = "storage.k8s.io/v1"
VOLUME: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "PersistentVolume",
    "spec": {
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"},
        "csi": {"driver": "d.io", "volumeHandle": "h"},
    },
}
CLAIM: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
}
GOOD: dict[str, dict[str, Any]] = {
    "ConfigMap": {"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"}},
    "Secret": {"apiVersion": "v1", "kind": "Secret", "data": {"k": "dg=="}},
    "Namespace": {"apiVersion": "v1", "kind": "Namespace"},
    "Node": {"apiVersion": "v1", "kind": "Node", "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}},
    "ServiceAccount": {"apiVersion": "v1", "kind": "ServiceAccount"},
    "PersistentVolume": VOLUME,
    "PersistentVolumeClaim": CLAIM,
    "ResourceQuota": {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": {"pods": "5", "cpu": "2"}}},
    "LimitRange": {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "100m"}}]},
    },
    "StorageClass": {"apiVersion": STORAGE, "kind": "StorageClass", "provisioner": "d.io"},
    "VolumeAttributesClass": {
        "apiVersion": STORAGE,
        "kind": "VolumeAttributesClass",
        "driverName": "d.io",
        "parameters": {"a": "b"},
    },
    "CSIDriver": {"apiVersion": STORAGE, "kind": "CSIDriver", "spec": {}},
    "CSINode": {"apiVersion": STORAGE, "kind": "CSINode", "spec": {"drivers": [{"name": "d.io", "nodeID": "n"}]}},
    "CSIStorageCapacity": {"apiVersion": STORAGE, "kind": "CSIStorageCapacity", "storageClassName": "s"},
    "VolumeAttachment": {
        "apiVersion": STORAGE,
        "kind": "VolumeAttachment",
        "spec": {"attacher": "d.io", "nodeName": "n", "source": {"persistentVolumeName": "v"}},
    },
}
NEGATIVE = "must be greater than or equal to 0"
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
NO_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
MODES = 'supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"'
NO_SOURCE = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
INLINE = "in the context of inline volumes"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret(kind: str, **data: str) -> Changes:
    return {"type": kind, "data": {key.replace("_", "."): encoded(text) for key, text in data.items()}}


def docker(text: str) -> Changes:
    return {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": encoded(text)}}


def limits(**parts: Any) -> Changes:
    return {"spec.limits.0": {"type": "Container", **parts}}


LIMIT, DOCKER = "spec.limits[0]", "data[.dockerconfigjson]"
REDACTED = f'{DOCKER}: Invalid value: "<secret contents redacted>"'
CASES: dict[str, list[Case]] = {
    "ConfigMap": [
        ({"binaryData": {"k": "dg=="}}, ['data[k]: Invalid value: "k": duplicate of key present in binaryData']),
        ({"data": {"..": "v"}}, ['data[..]: Invalid value: "..": must not be \'..\'']),
        ({"data": {"k": "v" * (1 << 20)}}, []),
        ({"data": {"k": "é" * (1 << 20)}}, ["[]: Too long: may not be more than 1048576 bytes"]),
        ({"immutable": True}, []),
    ],
    "Secret": [
        ({"data": {"k": "v" * 1_500_000}}, ["data: Too long: may not be more than 1048576 bytes"]),
        (secret("kubernetes.io/tls"), ["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
        (secret("kubernetes.io/tls", tls_crt="", tls_key=""), []),
        (secret("kubernetes.io/basic-auth"), ["data[username]: Required value", "data[password]: Required value"]),
        (secret("kubernetes.io/basic-auth", username=""), []),
        ({"type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": ""}}, ["data[ssh-privatekey]: Required value"]),
        ({"type": "kubernetes.io/service-account-token"},
         ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]),
        (docker("{}"), []),
        (docker(""), [f"{REDACTED}: unexpected end of JSON input"]),
        (docker("x"), [f'{REDACTED}: invalid character "x" looking for beginning of value']),
        (docker("[1]"),
         [f"{REDACTED}: json: cannot unmarshal array into Go value of type map[string]interface {{}}"]),
        ({"type": "kubernetes.io/dockercfg"}, ["data[.dockercfg]: Required value"]),
        ({"type": "example.com/mine", "stringData": {"a": "b"}}, []),
    ],
    "Namespace": [
        ({"metadata.name": "a.b"}, ['metadata.name: Invalid value: "a.b": must not contain dots']),
        ({"spec": {"finalizers": ["mine"]}},
         ['spec.finalizers: Invalid value: "mine": name is neither a standard finalizer name nor is it fully '
          "qualified"]),
        ({"spec": {"finalizers": ["a.io/mine", "orphan"]}}, []),
    ],
    "Node": [
        ({"spec.taints.0.effect": ""}, ["metadata.taints[0].effect: Required value"]),
        ({"spec.taints.0.effect": "NoWay"},
         ['metadata.taints[0].effect: Unsupported value: "NoWay": supported values: "NoSchedule", "PreferNoSchedule", '
          '"NoExecute"']),
        ({"spec.taints.1": {"key": "k", "effect": "NoSchedule", "value": "v"}},
         ['metadata.taints[1]: Duplicate value: {"effect":"NoSchedule","key":"k","value":"v"}: taints must be unique '
          "by key and effect pair"]),
        ({"spec.podCIDRs": ["10.0.0.0/24", "fd00::/64"]}, []),
        ({"spec.podCIDRs": ["x", "x"]},
         [f'spec.podCIDRs[0]: Invalid value: "x": {NO_CIDR}', f'spec.podCIDRs[1]: Invalid value: "x": {NO_CIDR}',
          'spec.podCIDRs: Invalid value: ["x","x"]: may specify no more than one CIDR for each IP family',
          'spec.podCIDRs[1]: Duplicate value: "x"']),
        ({"spec.podCIDRs": ["10.0.0.1/24"]},
         ['spec.podCIDRs[0]: Invalid value: "10.0.0.1/24": must not have bits set beyond the prefix length']),
        ({"status": {"capacity": {"cpu": "-1", "pods": "1.5", "a.io/gpu": "500m"}}},
         [f'status.capacity.cpu: Invalid value: "-1": {NEGATIVE}',
          'status.capacity.pods: Invalid value: "1500m": must be an integer',
          'status.capacity.a.io/gpu: Invalid value: "500m": must be an integer',
          f'status.allocatable.cpu: Invalid value: "-1": {NEGATIVE}',
          'status.allocatable.pods: Invalid value: "1500m": must be an integer',
          'status.allocatable.a.io/gpu: Invalid value: "500m": must be an integer']),
    ],
    "PersistentVolume": [
        ({"spec.accessModes": []}, ["spec.accessModes: Required value"]),
        ({"spec.accessModes": ["Once"]}, [f'spec.accessModes: Unsupported value: "Once": {MODES}']),
        ({"spec.accessModes": ["ReadWriteOncePod", "ReadOnlyMany"]},
         ["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"]),
        ({"spec.capacity": {}},
         ["spec.capacity: Required value", 'spec.capacity: Unsupported value: {}: supported values: "storage"']),
        ({"spec.capacity": {"storage": "0"}},
         ['spec.capacity[storage]: Invalid value: "0": must be greater than zero']),
        ({"spec.capacity": {"storage": "-1"}},
         ["spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
          'spec.capacity[storage]: Invalid value: "-1": must be greater than zero']),
        ({"spec.persistentVolumeReclaimPolicy": "Burn"},
         ['spec.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle", '
          '"Retain"']),
        ({"spec.csi": GONE}, ["spec: Required value: must specify a volume type"]),
        ({"spec.csi.volumeHandle": GONE}, ["spec.csi.volumeHandle: Required value"]),
        ({"spec.csi.driver": "Disks.example.com"}, []),
        ({"spec.csi.driver": "rayplane.io/local"}, []),
        ({"spec.csi.driver": "a_b"}, [f'spec.csi.driver: Invalid value: "a_b": {SUBDOMAIN}']),
        ({"spec.csi.driver": "a" * 64}, ["spec.csi.driver: Too long: may not be more than 63 bytes"]),
        ({"spec.csi.driver": GONE}, ["spec.csi.driver: Required value"]),
        ({"spec.csi.nodePublishSecretRef": {"name": "a"}},
         ["spec.csi.nodePublishSecretRef.namespace: Required value"]),
        ({"spec.nodeAffinity": {}},
         ["spec.nodeAffinity.required: Required value: must specify required node constraints"]),
        ({"spec.csi": GONE, "spec.local": {"path": "/x"}},
         ["spec.nodeAffinity: Required value: Local volume requires node affinity"]),
        ({"spec.csi": GONE, "spec.hostPath": {"path": "/"}, "spec.persistentVolumeReclaimPolicy": "Recycle"},
         ["spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"]),
        ({"spec.storageClassName": "A"}, [f'spec.storageClassName: Invalid value: "A": {SUBDOMAIN}']),
        ({"spec.volumeMode": "Tape"},
         ['spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem"']),
        ({"spec.volumeAttributesClassName": ""},
         ["spec.volumeAttributesClassName: Required value: an empty string is disallowed"]),
        ({"spec.csi": GONE, "spec.hostPath": {"path": "/x"}, "spec.volumeAttributesClassName": "gold"},
         ["spec.csi: Required value: has to be specified when using volumeAttributesClassName"]),
    ],
    "PersistentVolumeClaim": [
        ({"spec.resources": {}}, ["spec.resources[storage]: Required value"]),
        ({"spec.resources.requests.storage": "0"},
         ['spec.resources[storage]: Invalid value: "0": must be greater than zero']),
        ({"spec.accessModes": []}, ["spec.accessModes: Required value: at least 1 access mode is required"]),
        ({"spec.accessModes": ["ReadWriteOncePod", "Odd"]}, [f'spec.accessModes: Unsupported value: "Odd": {MODES}']),
        ({"spec.dataSource": {"kind": "VolumeSnapshot", "name": "s", "apiGroup": "snapshot.storage.k8s.io"}}, []),
        ({"spec.dataSource": {"kind": "PersistentVolumeClaim", "name": "s"}}, []),
        ({"spec.dataSourceRef": {"kind": "Pod", "name": ""}},
         ["spec.dataSource.name: Required value", f'spec.dataSource: Invalid value: "Pod": {NO_SOURCE}',
          "spec.dataSourceRef.name: Required value", f'spec.dataSourceRef: Invalid value: "Pod": {NO_SOURCE}']),
        ({"spec.dataSource": {"kind": "PersistentVolumeClaim", "name": "a"},
          "spec.dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "b"}},
         ['spec: Invalid value: "spec.dataSource": must match dataSourceRef']),
        ({"spec.volumeAttributesClassName": "A"},
         [f'spec.volumeAttributesClassName: Invalid value: "A": {SUBDOMAIN}']),
        ({"spec.volumeAttributesClassName": "", "spec.storageClassName": ""}, []),
    ],
    "ResourceQuota": [
        ({"spec.hard": {"widgets": "1"}},
         ['spec.hard[widgets]: Invalid value: "widgets": must be a standard resource type or fully qualified',
          'spec.hard[widgets]: Invalid value: "widgets": must be a standard resource for quota']),
        ({"spec.hard": {"count/widgets.a.io": "1", "requests.a.io/gpu": "1", "hugepages-2Mi": "2Mi"}}, []),
        ({"spec.hard": {"pods": "1500m"}}, ['spec.hard[pods]: Invalid value: "1500m": must be an integer']),
        ({"spec.hard": {"cpu": "-1"}}, [f'spec.hard[cpu]: Invalid value: "-1": {NEGATIVE}']),
    ],
    "LimitRange": [
        (limits(type="Box"),
         [f'{LIMIT}.type: Invalid value: "Box": must be a standard limit type or fully qualified']),
        ({"spec.limits.1": {"type": "Container"}}, ['spec.limits[1].type: Duplicate value: "Container"']),
        (limits(max={"cpu": "1"}, min={"cpu": "2"}, default={"cpu": "1"}, defaultRequest={"cpu": "1"}),
         [f'{LIMIT}.min[cpu]: Invalid value: "2": min value 2 is greater than max value 1',
          f'{LIMIT}.defaultRequest[cpu]: Invalid value: "1": min value 2 is greater than default request value 1',
          f'{LIMIT}.default[cpu]: Invalid value: "2": min value 2 is greater than default value 1']),
        (limits(max={"cpu": "1"}, default={"cpu": "2"}, defaultRequest={"cpu": "1"}),
         [f'{LIMIT}.default[cpu]: Invalid value: "1": default value 2 is greater than max value 1']),
        (limits(default={"cpu": "1"}, defaultRequest={"cpu": "2"}),
         [f'{LIMIT}.defaultRequest[cpu]: Invalid value: "2": default request value 2 is greater than default limit '
          "value 1"]),
        (limits(maxLimitRequestRatio={"cpu": "500m"}),
         [f'{LIMIT}.maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1']),
        (limits(maxLimitRequestRatio={"cpu": "3"}, max={"cpu": "2"}, min={"cpu": "1"}),
         [f'{LIMIT}.maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000']),
        (limits(default={"a.io/gpu": "2"}, defaultRequest={"a.io/gpu": "1"}),
         [f'{LIMIT}.defaultRequest[a.io/gpu]: Invalid value: "1": default value 2 must equal to defaultRequest value 1 '
          "in a.io/gpu"]),
        (limits(max={"pods": "1"}, defaultRequest={"pods": "1"}, default={"pods": "1"}),
         [f'{LIMIT}.{part}[pods]: Invalid value: "pods": must be a standard resource for containers'
          for part in ("max", "default", "defaultRequest")]),
        (limits(type="Pod", default={"cpu": "1"}),
         [f"{LIMIT}.default: Forbidden: may not be specified when `type` is 'Pod'"]),
        (limits(type="PersistentVolumeClaim"),
         [f"{LIMIT}.limits: Required value: either minimum or maximum storage value is required, but neither was "
          "provided"]),
        (limits(type="PersistentVolumeClaim", max={"storage": "1Gi"}), []),
    ],
    "StorageClass": [
        ({"provisioner": GONE}, ["provisioner: Required value"]),
        ({"parameters": {"": "a"}}, ['parameters: Invalid value: "": field can not be empty.']),
        ({"parameters": {"a": "b" * (256 * 1024)}}, ["parameters: Too long: may not be more than 262144 bytes"]),
        ({"parameters": {str(i): "" for i in range(513)}}, ["parameters: Too long: may not be more than 512 bytes"]),
        ({"reclaimPolicy": "Recycle"},
         ['reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"']),
        ({"volumeBindingMode": "Late"},
         ['volumeBindingMode: Unsupported value: "Late": supported values: "Immediate", "WaitForFirstConsumer"']),
        ({"allowedTopologies": [{"matchLabelExpressions": [{"key": "a", "values": ["b"]}]}]}, []),
        ({"allowedTopologies": [{"matchLabelExpressions": [{"key": "a", "values": ["b", "b"]}, {"key": "a"}]}]},
         ['allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "b"',
          "allowedTopologies[0].matchLabelExpressions[1].values: Required value",
          'allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: "a"']),
        ({"allowedTopologies": [{"matchLabelExpressions": [{"key": "a", "values": ["b"]}]}] * 2},
         ['allowedTopologies[1].matchLabelExpressions: Duplicate value: ""']),
    ],
    "VolumeAttributesClass": [
        ({"driverName": GONE, "parameters": {}},
         ["driverName: Required value", "parameters: Required value: must contain at least one key/value pair"]),
    ],
    "CSIDriver": [
        ({"spec.tokenRequests": [{"audience": "a", "expirationSeconds": 2**32 + 1}]},
         ["spec.tokenRequests[0].expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than "
          "2^32 seconds"]),
        ({"spec.fsGroupPolicy": "All"},
         ['spec.fsGroupPolicy: Unsupported value: "All": supported values: "File", "None", "ReadWriteOnceWithFSType"']),
    ],
    "CSINode": [
        ({"spec.drivers.0.name": "d" * 64}, ["spec.drivers[0].name: Too long: may not be more than 63 bytes"]),
        ({"spec.drivers.0.nodeID": ""}, ["spec.drivers[0].nodeID: Required value"]),
        ({"spec.drivers.0.topologyKeys": ["a", "a"]}, ['spec.drivers[0]: Duplicate value: "a"']),
        ({"spec.drivers.0.allocatable": {"count": -1}},
         [f"spec.drivers[0].allocatable.count: Invalid value: -1: {NEGATIVE}"]),
    ],
    "CSIStorageCapacity": [
        ({"capacity": "-1"}, [f'capacity: Invalid value: "-1": {NEGATIVE}']),
        ({"maximumVolumeSize": "-1"}, []),
        ({"nodeTopology": {"matchLabels": {"a": "b"}}}, []),
    ],
    "VolumeAttachment": [
        ({"spec.attacher": GONE}, ["spec.attacher: Required value", "spec.attacher: Required value"]),
        ({"spec.source": {}},
         ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]),
        ({"spec.source": {"persistentVolumeName": "v", "inlineVolumeSpec": {}}},
         ["spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]),
        ({"spec.source": {"inlineVolumeSpec": {"accessModes": ["ReadOnlyMany"],
                                               "csi": {"driver": "d.io", "volumeHandle": "h"}}}}, []),
        ({"spec.source": {"inlineVolumeSpec": {"capacity": {"storage": "1"}, "volumeMode": "Block"}}},
         [f"spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified {INLINE}",
          "spec.source.inlineVolumeSpec.accessModes: Required value",
          f"spec.source.inlineVolumeSpec.csi: Required value: has to be specified {INLINE}",
          f"spec.source.inlineVolumeSpec.volumeMode: Forbidden: may not specify volumeMode other than Filesystem "
          f"{INLINE}"]),
    ],
}  # fmt: skip
FIXED, IMMUTABLE = "Forbidden: field is immutable when `immutable` is set", "field is immutable"
CLAIMED = (
    "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for "
    "bound claims"
)
CIDRS = 'node updates may not change podCIDR except from "" to valid'
BLOCKS = {"spec.podCIDRs": ["10.0.0.0/24"]}
UPDATES: list[tuple[str, Changes, Changes, list[str]]] = [
    ("ConfigMap", {"immutable": True}, {"immutable": False, "data.k": "w", "binaryData": {"b": ""}},
     [f"immutable: {FIXED}", f"data: {FIXED}", f"binaryData: {FIXED}"]),
    ("ConfigMap", {"immutable": True}, {"metadata.labels": {"a": "b"}}, []),
    ("Secret", {"immutable": True}, {"data.k": "dw=="}, [f"data: {FIXED}"]),
    ("Secret", {}, {"type": "a/b"}, [f'type: Invalid value: "a/b": {IMMUTABLE}']),
    ("Node", BLOCKS, {"spec.podCIDRs": ["10.1.0.0/24"], "spec.podCIDR": "10.1.0.0/24"},
     [f"spec.podCIDRs: Forbidden: {CIDRS}"]),
    ("Node", {}, BLOCKS, []),
    ("Node", {"spec.providerID": "a"}, {"spec.providerID": "b"},
     ['spec.providerID: Forbidden: node updates may not change providerID except from "" to valid']),
    ("Node", {}, {"spec.unschedulable": True, "spec.taints": []}, []),
    ("PersistentVolume", {}, {"spec.csi.volumeHandle": "i"},
     ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]),
    ("PersistentVolume", {}, {"spec.csi.controllerExpandSecretRef": {"name": "a", "namespace": "b"}}, []),
    ("PersistentVolume", {}, {"spec.capacity.storage": "9Gi", "spec.claimRef": {"name": "c"}}, []),
    ("PersistentVolume", {}, {"spec.volumeMode": "Block"}, [f'volumeMode: Invalid value: "Block": {IMMUTABLE}']),
    ("PersistentVolume", {"spec.volumeAttributesClassName": "a"}, {"spec.volumeAttributesClassName": GONE},
     ["spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden"]),
    ("PersistentVolumeClaim", {}, {"spec.volumeName": "v"}, []),
    ("PersistentVolumeClaim", {"spec.volumeName": "v"}, {"spec.volumeName": "w"}, [CLAIMED]),
    ("PersistentVolumeClaim", {}, {"spec.resources.requests.storage": "3Gi"}, [CLAIMED]),
    ("PersistentVolumeClaim", {}, {"spec.volumeAttributesClassName": "gold"}, []),
    ("PersistentVolumeClaim", {}, {"spec.storageClassName": "a"}, []),
    ("PersistentVolumeClaim", {"spec.storageClassName": "a"}, {"spec.storageClassName": "b"}, [CLAIMED]),
    ("PersistentVolumeClaim", {}, {"spec.volumeMode": "Block"},
     [CLAIMED, f'volumeMode: Invalid value: "Block": {IMMUTABLE}']),
    ("ResourceQuota", {}, {"spec.scopes": ["BestEffort"], "spec.hard": {"pods": "1"}},
     [f'spec.scopes: Invalid value: ["BestEffort"]: {IMMUTABLE}']),
    ("StorageClass", {},
     {"provisioner": "e.io", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"},
     ["provisioner: Forbidden: updates to provisioner are forbidden.",
      "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
      f'volumeBindingMode: Invalid value: "WaitForFirstConsumer": {IMMUTABLE}']),
    ("StorageClass", {}, {"allowVolumeExpansion": True, "mountOptions": ["ro"]}, []),
    ("VolumeAttributesClass", {}, {"driverName": "", "parameters": {}},
     ["driverName: Forbidden: updates to driverName are forbidden.",
      "parameters: Forbidden: updates to parameters are forbidden.", "driverName: Required value",
      "parameters: Required value: must contain at least one key/value pair"]),
    ("CSIDriver", {}, {"spec.attachRequired": False}, [f"spec.attachedRequired: Invalid value: false: {IMMUTABLE}"]),
    ("CSIDriver", {}, {"spec.podInfoOnMount": True, "spec.storageCapacity": True}, []),
    ("CSINode", {}, {"spec.drivers.0.nodeID": "m"},
     [f'spec.drivers: Invalid value: {{"name":"d.io","nodeID":"m"}}: {IMMUTABLE}']),
    ("CSINode", {}, {"spec.drivers.0.allocatable": {"count": 5}}, []),
    ("CSIStorageCapacity", {}, {"storageClassName": "t"}, [f'storageClassName: Invalid value: "t": {IMMUTABLE}']),
    ("VolumeAttachment", {}, {"spec.nodeName": "m"},
     ['spec: Invalid value: {"attacher":"d.io","nodeName":"m","source":{"persistentVolumeName":"v"}}: field is '
      "immutable"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "changes", "found"), UPDATES)
def test_what_is_wrong_with_changes(kind: str, before: Changes, changes: Changes, found: list[str]) -> None:
    assert updated(GOOD[kind], before, changes)[1] == found


def test_a_volume_may_change_whose_drivers_name_was_taken_once() -> None:
    before = {"spec.csi.driver": "a/b"}
    assert updated(VOLUME, before, {"spec.capacity.storage": "9Gi"}, sound=False)[1] == []
    found = updated(VOLUME, before, {"spec.csi.driver": "b/c"}, sound=False)[1]
    assert found == ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]


@pytest.mark.parametrize(
    ("size", "has", "found"),
    [
        ("3Gi", "1Gi", []),
        ("1500Mi", "1Gi", []),
        ("1Gi", "1Gi", ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]),
    ],
)
def test_a_bound_claim_grows_and_gives_up_growing(size: str, has: str, found: list[str]) -> None:
    old = created(CLAIM, {"spec.volumeName": "v"})[0] | {"status": {"phase": "Bound", "capacity": {"storage": has}}}
    new = {**old, "spec": {**old["spec"], "resources": {"requests": {"storage": size}}}}
    assert [str(error) for error in rules_of("", "PersistentVolumeClaim").validate_update(new, old)] == found


def test_attributes_that_a_volume_has_are_not_taken_away() -> None:
    old = created(CLAIM, {"spec.volumeAttributesClassName": "gold"})[0]
    old["status"] = {"currentVolumeAttributesClassName": "gold"}
    for value, what in ((None, "nil"), ("", "an empty string")):
        new = {**old, "spec": {**old["spec"], "volumeAttributesClassName": value}}
        [found] = rules_of("", "PersistentVolumeClaim").validate_update(new, old)
        assert found.detail == f"update from non-nil value to {what} is forbidden"


STATUSES: list[tuple[str, Any, list[str]]] = [
    ("Namespace", {"phase": "Active"}, []),
    ("Namespace", {"phase": "Terminating"},
     ["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"]),
    ("Node", {"capacity": {"pods": "0.5"}, "allocatable": {}},
     ['status.capacity.pods: Invalid value: "500m": must be an integer']),
    ("Node", {"addresses": [{"type": "Hostname", "address": "a"}] * 2},
     ['status.addresses[1]: Duplicate value: {"address":"a","type":"Hostname"}']),
    ("PersistentVolumeClaim", {"capacity": {"storage": "-1"}},
     ["status.capacity[storage]: Invalid value: -1: must be a valid resource quantity"]),
    ("ResourceQuota", {"hard": {"pods": "1"}, "used": {"pods": "-1"}},
     [f'status.used[pods]: Invalid value: "-1": {NEGATIVE}']),
    ("VolumeAttachment", {"attached": True, "attachmentMetadata": {"a": "b" * (256 * 1024)}},
     ["status.attachmentMetadata: Too long: may not be more than 262144 bytes"]),
    ("VolumeAttachment", {"attached": False, "attachError": {"message": "m" * 1025, "errorCode": -1}},
     ["status.attachError.message: Too long: may not be more than 262144 bytes",
      "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "after", "found"), STATUSES)
def test_what_is_wrong_with_statuses(kind: str, after: Any, found: list[str]) -> None:
    assert status_refused(GOOD[kind], {}, after) == found


def test_finalizers_of_a_namespace_are_a_part_of_their_own() -> None:
    obj = created(GOOD["Namespace"], {})[0]
    new = {**obj, "spec": {"finalizers": ["mine"]}}
    check = rules_of("", "Namespace").validate_parts["finalize"]
    assert [error.field for error in check(new, obj)] == ["spec.finalizers[0]"]
    assert info_of(obj).name == "namespaces"
