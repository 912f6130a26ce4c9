"""Validation: good objects pass, bad ones are refused in Kubernetes' words."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rayplane.control_plane.api.bootstrap import bootstrap_objects
from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.strategy import prepare_for_create, prepare_for_update
from rayplane.control_plane.api.kinds.validation import validate_create, validate_update
from rayplane.control_plane.api.machinery.resources import builtin_registry
from tests.api.pems import REQUEST

REGISTRY = builtin_registry()
Change = Callable[[dict[str, Any]], Any]


def template(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"a": "x"}},
        "spec": {"containers": [{"name": "c", "image": "nginx"}], **spec},
    }


SELECTOR = {"matchLabels": {"a": "x"}}
RULE = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}
PATH = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
GOOD: dict[str, dict[str, Any]] = {
    "Pod": {"apiVersion": "v1", "spec": template()["spec"]},
    "Deployment": {"apiVersion": "apps/v1", "spec": {"selector": SELECTOR, "template": template()}},
    "ReplicaSet": {"apiVersion": "apps/v1", "spec": {"selector": SELECTOR, "template": template()}},
    "DaemonSet": {"apiVersion": "apps/v1", "spec": {"selector": SELECTOR, "template": template()}},
    "StatefulSet": {
        "apiVersion": "apps/v1",
        "spec": {
            "selector": SELECTOR,
            "serviceName": "s",
            "template": template(
                containers=[
                    {
                        "name": "c",
                        "image": "i",
                        "volumeMounts": [{"name": "data", "mountPath": "/d"}],
                    }
                ]
            ),
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": CLAIM}],
        },
    },
    "ReplicationController": {"apiVersion": "v1", "spec": {"template": template()}},
    "Job": {"apiVersion": "batch/v1", "spec": {"template": template(restartPolicy="Never")}},
    "CronJob": {
        "apiVersion": "batch/v1",
        "spec": {
            "schedule": "*/5 * * * *",
            "jobTemplate": {"spec": {"template": template(restartPolicy="OnFailure")}},
        },
    },
    "Service": {"apiVersion": "v1", "spec": {"ports": [{"port": 80}]}},
    "Ingress": {
        "apiVersion": "networking.k8s.io/v1",
        "spec": {"rules": [{"host": "a.example.com", "http": {"paths": [PATH]}}]},
    },
    "NetworkPolicy": {"apiVersion": "networking.k8s.io/v1", "spec": {"podSelector": SELECTOR}},
    "PersistentVolumeClaim": {"apiVersion": "v1", "spec": CLAIM},
    "PersistentVolume": {
        "apiVersion": "v1",
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/x"},
        },
    },
    "StorageClass": {"apiVersion": "storage.k8s.io/v1", "provisioner": "rayplane.io/local"},
    "ConfigMap": {"apiVersion": "v1", "data": {"k": "v"}},
    "Secret": {"apiVersion": "v1", "data": {"k": "dg=="}},
    "Role": {"apiVersion": "rbac.authorization.k8s.io/v1", "rules": [RULE]},
    "RoleBinding": {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}],
    },
    "PodDisruptionBudget": {"apiVersion": "policy/v1", "spec": {"minAvailable": 1}},
    "HorizontalPodAutoscaler": {
        "apiVersion": "autoscaling/v2",
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}},
    },
    "Node": {"apiVersion": "v1", "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}},
    "Namespace": {"apiVersion": "v1"},
    "Lease": {"apiVersion": "coordination.k8s.io/v1", "spec": {"leaseDurationSeconds": 1}},
    "PriorityClass": {"apiVersion": "scheduling.k8s.io/v1", "value": 1000},
    "ResourceQuota": {"apiVersion": "v1", "spec": {"hard": {"pods": "5", "cpu": "2"}}},
    "LimitRange": {
        "apiVersion": "v1",
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1m"}}]},
    },
    "EndpointSlice": {
        "apiVersion": "discovery.k8s.io/v1",
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.1.0.2"]}],
    },
    "Endpoints": {
        "apiVersion": "v1",
        "subsets": [{"addresses": [{"ip": "127.1.0.2"}], "ports": [{"port": 80}]}],
    },
    "CertificateSigningRequest": {
        "apiVersion": "certificates.k8s.io/v1",
        "spec": {"request": REQUEST, "signerName": "x.io/y", "usages": ["client auth"]},
    },
}


def make(kind: str, change: Change | None = None) -> dict[str, Any]:
    obj = copy.deepcopy(GOOD[kind])
    info = REGISTRY.by_kind(obj["apiVersion"], kind)
    assert info is not None
    obj["kind"] = kind
    obj["metadata"] = {"name": "x", "uid": "u", **({"namespace": "ns"} if info.namespaced else {})}
    if change is not None:
        change(obj)
    default(obj)
    prepare_for_create(obj, info)
    return obj


def problems(kind: str, change: Change | None = None) -> list[str]:
    obj = make(kind, change)
    info = REGISTRY.by_kind(obj["apiVersion"], kind)
    assert info is not None
    return [str(error) for error in validate_create(obj, info)]


def updated(kind: str, change: Change, before: Change | None = None) -> list[str]:
    old = make(kind, before)
    info = REGISTRY.by_kind(old["apiVersion"], kind)
    assert info is not None
    new = copy.deepcopy(old)
    change(new)
    default(new)
    prepare_for_update(new, old, info)
    return [str(error) for error in validate_update(new, old, info)]


def put(path: str, value: Any) -> Change:
    """A change that sets one field; list indexes are numbers in the path."""

    def change(obj: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        at: Any = obj
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        if isinstance(at, list):
            at[int(last)] = value
        else:
            at[last] = value

    return change


def container(**fields: Any) -> Change:
    return lambda obj: obj["spec"]["containers"][0].update(fields)


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_good_objects_pass(kind: str) -> None:
    assert problems(kind) == []


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_an_update_that_changes_nothing_passes(kind: str) -> None:
    assert updated(kind, lambda obj: None) == []


@pytest.mark.parametrize("obj", bootstrap_objects(), ids=lambda obj: f"{obj['kind']}-{obj['metadata']['name']}")
def test_objects_of_a_new_cluster_pass(obj: dict[str, Any]) -> None:
    info = REGISTRY.by_kind(obj["apiVersion"], obj["kind"])
    assert info is not None
    default(obj)
    prepare_for_create(obj, info)
    assert validate_create(obj, info) == []


RANGE = "must be between 1 and 65535, inclusive"
CASES: list[tuple[str, Change, list[str]]] = [
    ("Pod", put("spec.containers", []), ["spec.containers: Required value"]),
    ("Pod", container(image=""), ["spec.containers[0].image: Required value"]),
    (
        "Pod",
        put("spec.restartPolicy", "Sometimes"),
        [
            'spec.restartPolicy: Unsupported value: "Sometimes": '
            'supported values: "Always", "OnFailure", "Never"'
        ],
    ),
    (
        "Pod",
        lambda o: o["spec"]["containers"].append({"name": "c", "image": "i"}),
        ['spec.containers[1].name: Duplicate value: "c"'],
    ),
    (
        "Pod",
        container(ports=[{"containerPort": 70000}]),
        [f"spec.containers[0].ports[0].containerPort: Invalid value: 70000: {RANGE}"],
    ),
    (
        "Pod",
        container(ports=[{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]),
        ['spec.containers[0].ports[1].name: Duplicate value: "a"'],
    ),
    (
        "Pod",
        container(volumeMounts=[{"name": "nope", "mountPath": "/x"}]),
        ['spec.containers[0].volumeMounts[0].name: Not found: "nope"'],
    ),
    (
        "Pod",
        container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
        [
            'spec.containers[0].resources.requests: Invalid value: "2": '
            "must be less than or equal to cpu limit of 1"
        ],
    ),
    (
        "Pod",
        container(resources={"requests": {"cpu": "-1"}}),
        [
            'spec.containers[0].resources.requests[cpu]: Invalid value: "-1": '
            "must be greater than or equal to 0"
        ],
    ),
    (
        "Pod",
        container(resources={"requests": {"x.io/gpu": "1"}}),
        [
            "spec.containers[0].resources.limits: Required value: "
            "Limit must be set for non overcommitable resources"
        ],
    ),
    (
        "Pod",
        container(livenessProbe={"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}),
        [
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: "
            "may not specify more than 1 handler type"
        ],
    ),
    (
        "Pod",
        container(livenessProbe={"exec": {"command": ["x"]}, "successThreshold": 2}),
        ["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
    ),
    (
        "Pod",
        put("spec.volumes", [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]),
        ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
    ),
    (
        "Pod",
        put("spec.tolerations", [{"operator": "Equal"}]),
        [
            'spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when '
            '`key` is empty, which means "match all values and all keys"'
        ],
    ),
    (
        "Pod",
        put("metadata.labels", {"a b": "c"}),
        [
            'metadata.labels: Invalid value: "a b": name part must consist of alphanumeric '
            "characters, '-', '_' or '.', and must start and end with an alphanumeric character "
            "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        ],
    ),
    (
        "Pod",
        put("metadata.name", "Bad_Name"),
        [
            'metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist '
            "of lower case alphanumeric characters, '-' or '.', and must start and end with an "
            "alphanumeric character (e.g. 'example.com', regex used for validation is "
            r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ],
    ),
    (
        "ConfigMap",
        put("metadata.name", ""),
        ["metadata.name: Required value: name or generateName is required"],
    ),
    (
        "ConfigMap",
        put("data", {"a b": "c"}),
        [
            'data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric '
            "characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex "
            "used for validation is '[-._a-zA-Z0-9]+')"
        ],
    ),
    (
        "Namespace",
        put("metadata.namespace", "x"),
        ["metadata.namespace: Forbidden: not allowed on this type"],
    ),
    (
        "Deployment",
        put("spec.replicas", -1),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
    ),
    (
        "Deployment",
        lambda o: o["spec"].pop("selector"),
        [
            "spec.selector: Required value",
            'spec.template.metadata.labels: Invalid value: {"a":"x"}: '
            "`selector` does not match template `labels`",
        ],
    ),
    (
        "Deployment",
        put("spec.selector", {}),
        ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    ),
    (
        "Deployment",
        put("spec.template.spec.restartPolicy", "Never"),
        [
            'spec.template.spec.restartPolicy: Unsupported value: "Never": '
            'supported values: "Always"'
        ],
    ),
    (
        "Deployment",
        put("spec.strategy", {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
        [
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: "
            "may not be 0 when `maxSurge` is 0"
        ],
    ),
    (
        "Job",
        put("spec.template.spec.restartPolicy", "Always"),
        ['spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'],
    ),
    (
        "CronJob",
        put("spec.schedule", "* * *"),
        ['spec.schedule: Invalid value: "* * *": expected exactly 5 fields, found 3: [* * *]'],
    ),
    ("Service", put("spec.ports", []), ["spec.ports: Required value"]),
    ("Service", put("spec.ports", [{"port": 0, "targetPort": 1}]),
     [f"spec.ports[0].port: Invalid value: 0: {RANGE}"]),
    (
        "Service",
        put("spec.ports", [{"port": 1}, {"port": 2, "name": "b"}]),
        ["spec.ports[0].name: Required value"],
    ),
    (
        "Service",
        put("spec.type", "Magic"),
        [
            'spec.type: Unsupported value: "Magic": supported values: '
            '"ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'
        ],
    ),
    (
        "Ingress",
        lambda o: o["spec"]["rules"][0]["http"]["paths"][0].pop("pathType"),
        ["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
    ),
    (
        "PersistentVolumeClaim",
        put("spec.resources", {}),
        ["spec.resources[storage]: Required value"],
    ),
    ("PersistentVolume", lambda o: o["spec"].pop("hostPath"),
     ["spec: Required value: must specify a volume type"]),
    (
        "RoleBinding",
        lambda o: o.pop("roleRef"),
        [
            'roleRef.kind: Unsupported value: "": supported values: "Role", "ClusterRole"',
            "roleRef.name: Required value",
        ],
    ),
    (
        "PriorityClass",
        put("metadata.name", "system-x"),
        [
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved "
            "for system use only. error: system-x is not a known system priority class"
        ],
    ),
    (
        "HorizontalPodAutoscaler",
        put("spec.minReplicas", 5),
        ["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
    ),
    ("Lease", put("spec.leaseDurationSeconds", 0),
     ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "expected"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_bad_objects(kind: str, change: Change, expected: list[str]) -> None:
    assert problems(kind, change) == expected


UPDATES: list[tuple[str, Change | None, Change, list[str]]] = [
    (
        "Deployment",
        None,
        put("spec.selector.matchLabels.z", "y"),
        [
            'spec.template.metadata.labels: Invalid value: {"a":"x"}: `selector` does not match template `labels`',
            'spec.selector: Invalid value: {"matchLabels":{"a":"x","z":"y"}}: field is immutable',
        ],
    ),
    (
        "Service",
        put("spec.clusterIP", "127.9.0.1"),
        put("spec.clusterIP", "127.9.0.2"),
        ['spec.clusterIPs[0]: Invalid value: ["127.9.0.2"]: may not change once set'],
    ),
    (
        "ConfigMap",
        put("immutable", True),
        put("data.k", "w"),
        ["data: Forbidden: field is immutable when `immutable` is set"],
    ),
    ("Secret", None, put("type", "x/y"), ['type: Invalid value: "x/y": field is immutable']),
    (
        "StorageClass",
        None,
        put("parameters", {"a": "b"}),
        ["parameters: Forbidden: updates to parameters are forbidden."],
    ),
    (
        "RoleBinding",
        None,
        put("roleRef.name", "other"),
        [
            'roleRef: Invalid value: {"apiGroup":"rbac.authorization.k8s.io","kind":"Role",'
            '"name":"other"}: cannot change roleRef'
        ],
    ),
]


@pytest.mark.parametrize(("kind", "before", "change", "expected"), UPDATES)
def test_refused_updates(kind: str, before: Change | None, change: Change, expected: list[str]) -> None:
    assert updated(kind, change, before) == expected


def test_pods_change_only_a_little() -> None:
    assert updated("Pod", container(image="other")) == []
    assert updated("Pod", put("spec.activeDeadlineSeconds", 5)) == []
    assert updated("Pod", put("spec.tolerations", [{"key": "k", "operator": "Exists"}])) == []
    (refused,) = updated("Pod", put("spec.nodeName", "n1"))
    assert refused.startswith("spec: Forbidden: pod updates may not change fields other than")
    assert refused.endswith("spec.nodeName")
    (refused,) = updated("Pod", put("spec.initContainers", [{"name": "i", "image": "i"}]))
    assert refused == "spec.initContainers: Forbidden: pod updates may not add or remove containers"


def test_stateful_sets_change_only_the_allowed_fields() -> None:
    assert updated("StatefulSet", put("spec.replicas", 3)) == []
    (refused,) = updated("StatefulSet", put("spec.serviceName", "other"))
    assert refused.startswith("spec: Forbidden: updates to statefulset spec for fields other than")


def test_jobs_keep_their_template() -> None:
    assert updated("Job", put("spec.parallelism", 3)) == []
    (refused,) = updated("Job", put("spec.template.spec.nodeSelector", {"a": "b"}))
    assert refused.startswith("spec.template: Invalid value:")
    assert refused.endswith("field is immutable")


def test_claims_are_bound_and_grow_but_nothing_else() -> None:
    def bound(obj: dict[str, Any]) -> None:
        obj["spec"]["volumeName"] = "v"

    assert updated("PersistentVolumeClaim", bound) == []
    (refused,) = updated("PersistentVolumeClaim", put("spec.accessModes", ["ReadWriteMany"]))
    assert refused.startswith("spec: Forbidden: spec is immutable after creation")


def test_no_finalizer_is_added_to_what_is_being_deleted() -> None:
    old = make("ConfigMap")
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    new = copy.deepcopy(old)
    new["metadata"]["finalizers"] = ["example.com/g"]
    info = REGISTRY.by_kind("v1", "ConfigMap")
    assert info is not None
    assert [str(error) for error in validate_update(new, old, info)] == [
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being "
        'deleted, found new finalizers []string{"example.com/g"}'
    ] * 2


def test_names_of_finalizers_tell_whose_they_are() -> None:
    configmaps, leases = REGISTRY.by_kind("v1", "ConfigMap"), REGISTRY.by_kind("coordination.k8s.io/v1", "Lease")
    assert configmaps is not None and leases is not None
    made, free = make("ConfigMap"), make("ConfigMap")
    made["metadata"]["finalizers"] = ["orphan", "example.com/a", "mine"]
    message = "name is neither a standard finalizer name nor is it fully qualified"
    expected = f'metadata.finalizers[2]: Invalid value: "mine": {message}'
    assert [str(error) for error in validate_create(made, configmaps)] == [expected]
    assert expected in [str(error) for error in validate_update(made, free, configmaps)]
    assert validate_update(made, copy.deepcopy(made), configmaps) == []  # what is there may stay
    lease = make("Lease")
    lease["metadata"]["finalizers"] = ["mine"]
    assert validate_create(lease, leases) == []
