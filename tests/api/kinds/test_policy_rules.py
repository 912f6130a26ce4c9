"""Rules of autoscaling, budgets, roles, priorities, leases, certificates and flow control, in Kubernetes' words."""

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rayplane.control_plane.api.bootstrap_flow import mandatory_levels, mandatory_schemas
from rayplane.control_plane.api.kinds.registry import rules_of
from tests.api.kinds.changes import GONE, Case, Changes, created, refused, status_refused, updated

RBAC, FLOW, CERTIFICATES = "rbac.authorization.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1", "certificates.k8s.io/v1"
KEY = ec.generate_private_key(ec.SECP256R1())
DER = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(KEY, hashes.SHA256())


def pem(kind: str, der: bytes) -> str:
    return f"-----BEGIN {kind}-----\n{base64.encodebytes(der).decode()}-----END {kind}-----\n"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


BYTES = DER.public_bytes(serialization.Encoding.DER)
REQUEST = encoded(pem("CERTIFICATE REQUEST", BYTES))
METRIC = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
GOOD: dict[str, dict[str, Any]] = {
    "HorizontalPodAutoscaler": {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "spec": {
            "maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [METRIC],
        },
    },
    "PodDisruptionBudget": {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"minAvailable": 1}},
    "Role": {
        "apiVersion": RBAC,
        "kind": "Role",
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
    },
    "ClusterRole": {
        "apiVersion": RBAC,
        "kind": "ClusterRole",
        "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}],
    },
    "RoleBinding": {
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}],
    },
    "ClusterRoleBinding": {
        "apiVersion": RBAC,
        "kind": "ClusterRoleBinding",
        "roleRef": {"kind": "ClusterRole", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "n"}],
    },
    "PriorityClass": {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 5},
    "RuntimeClass": {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "runc"},
    "Lease": {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"leaseDurationSeconds": 1}},
    "CertificateSigningRequest": {
        "apiVersion": CERTIFICATES,
        "kind": "CertificateSigningRequest",
        "spec": {"request": REQUEST, "signerName": "a.io/b", "usages": ["client auth"]},
    },
    "FlowSchema": {
        "apiVersion": FLOW,
        "kind": "FlowSchema",
        "spec": {
            "priorityLevelConfiguration": {"name": "l"},
            "rules": [
                {
                    "subjects": [{"kind": "User", "user": {"name": "u"}}],
                    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True}],
                }
            ],
        },
    },
    "PriorityLevelConfiguration": {
        "apiVersion": FLOW,
        "kind": "PriorityLevelConfiguration",
        "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}},
    },
}
NEGATIVE = "must be greater than or equal to 0"
NO_GROUP = "apiVersion must specify API group"
BOTH = "may not set both a target raw value and a target utilization"
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
TYPES = '"ContainerResource", "External", "Object", "Pods", "Resource"'
M, RULE = "spec.metrics[0]", "spec.rules[0]"


def metric(value: Any) -> Changes:
    return {"spec.metrics.0": value}


def target(**fields: Any) -> Changes:
    return {"spec.metrics.0.resource.target": fields}


def scale_up(**fields: Any) -> Changes:
    return {"spec.behavior": {"scaleUp": fields}}


def subject(**fields: Any) -> Changes:
    return {"subjects.0": fields}


def flow(**fields: Any) -> Changes:
    return {f"spec.rules.0.{name}": value for name, value in fields.items()}


UP = "spec.behavior.scaleUp"
CASES: dict[str, list[Case]] = {
    "HorizontalPodAutoscaler": [
        ({"spec.metrics": GONE}, []),
        ({"spec.minReplicas": 0}, [
          "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero "
          "replicas"]),
        ({"spec.minReplicas": 0, "spec.metrics": [{"type": "External", "external": {
            "metric": {"name": "jobs"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]}, []),
        ({"spec.minReplicas": -1}, ["spec.minReplicas: Invalid value: -1: must be greater than or equal to 0"]),
        ({"spec.minReplicas": 5},
         ["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"]),
        ({"spec.maxReplicas": 0},
         ["spec.maxReplicas: Invalid value: 0: must be greater than 0",
          "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"]),
        ({"spec.scaleTargetRef": {"name": "a/b"}},
         ["spec.scaleTargetRef.kind: Required value",
          "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
          f'spec.scaleTargetRef.apiVersion: Invalid value: "": {NO_GROUP}']),
        ({"spec.scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "v1"}},
         [f'spec.scaleTargetRef.apiVersion: Invalid value: "v1": {NO_GROUP}']),
        ({"spec.scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "a/b/c"}},
         ['spec.scaleTargetRef.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c']),
        ({"spec.scaleTargetRef": {"kind": "ReplicationController", "name": "d", "apiVersion": "v1"}}, []),
        (metric({"type": "Moon"}), [f'{M}.type: Unsupported value: "Moon": supported values: {TYPES}'] * 2),
        (metric({"type": "Resource"}),
         [f"{M}.resource: Required value: must populate information for the given metric source"]),
        (metric({**METRIC, "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}}),
         [f"{M}.pods: Forbidden: must populate the given metric source only"]),
        (target(type="Utilization"),
         [f"{M}.resource.target.averageUtilization: Required value: must set either a target raw value or a target "
          "utilization"]),
        (target(type="Utilization", averageUtilization=0),
         [f"{M}.resource.target.averageUtilization: Invalid value: 0: must be greater than 0"]),
        (target(type="Some", averageUtilization=5, averageValue="1"),
         [f'{M}.resource.target.type: Invalid value: "Some": must be either Utilization, Value, or AverageValue',
          f"{M}.resource.target.averageValue: Forbidden: {BOTH}"]),
        (target(type="AverageValue", averageValue="0"),
         [f'{M}.resource.target.averageValue: Invalid value: "0": must be positive']),
        (metric({"type": "External", "external": {"metric": {"name": ""}, "target": {"type": "Value", "value": "1",
                                                                                   "averageValue": "1"}}}),
         [f"{M}.external.metric.name: Required value: must specify a metric name",
          f"{M}.external.target.value: Forbidden: may not set both a target value for metric and a per-pod target"]),
        (metric({"type": "Object", "object": {"describedObject": {"kind": "K", "name": "n"}, "metric": {"name": "m"},
                                              "target": {"type": "Value"}}}),
         [f"{M}.object.target.averageValue: Required value: must set either a target value or averageValue"]),
        (metric({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}),
         [f"{M}.pods.target.averageValue: Required value: must specify a positive target averageValue"]),
        (metric({"type": "ContainerResource", "containerResource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 5}}}),
         [f"{M}.containerResource.container: Required value: must specify a container"]),
        (scale_up(stabilizationWindowSeconds=3601),
         [f"{UP}.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600"]),
        (scale_up(selectPolicy="Some"),
         [f'{UP}.selectPolicy: Unsupported value: "Some": supported values: "Disabled", "Max", "Min"']),
        (scale_up(policies=[{"type": "Odd", "value": 0, "periodSeconds": 1801}]),
         [f'{UP}.policies[0].type: Unsupported value: "Odd": supported values: "Percent", "Pods"',
          f"{UP}.policies[0].value: Invalid value: 0: must be greater than zero",
          f"{UP}.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800"]),
        (scale_up(tolerance="-0.1"), [f'{UP}.tolerance: Invalid value: "-100m": {NEGATIVE}']),
        (scale_up(), []),
    ],
    "PodDisruptionBudget": [
        ({"spec.maxUnavailable": 1},
         ['spec: Invalid value: {"maxUnavailable":1,"minAvailable":1}: minAvailable and maxUnavailable cannot be both '
          "set"]),
        ({"spec.minAvailable": "101%"}, ['spec.minAvailable: Invalid value: "101%": must not be greater than 100%']),
        ({"spec.minAvailable": -1}, [f"spec.minAvailable: Invalid value: -1: {NEGATIVE}"]),
        ({"spec.unhealthyPodEvictionPolicy": "Maybe"},
         ['spec.unhealthyPodEvictionPolicy: Unsupported value: "Maybe": supported values: "AlwaysAllow", '
          '"IfHealthyBudget"']),
        ({"spec.selector": {}}, []),
    ],
    "Role": [
        ({"metadata.name": "a:b%"}, ["metadata.name: Invalid value: \"a:b%\": may not contain '%'"]),
        ({"rules.0.verbs": []}, ["rules[0].verbs: Required value: verbs must contain at least one value"]),
        ({"rules.0.apiGroups": [], "rules.0.resources": []},
         ["rules[0].apiGroups: Required value: resource rules must supply at least one api group",
          "rules[0].resources: Required value: resource rules must supply at least one resource"]),
        ({"rules.0": {"verbs": ["get"], "nonResourceURLs": ["/x"]}},
         ['rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs']),
    ],
    "ClusterRole": [
        ({"rules.0.resources": ["pods"]},
         ['rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and '
          "non-resource URLs"]),
        ({"aggregationRule": {}},
         ["aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if "
          "aggregationRule is non-nil"]),
        ({"aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "Near"}]}]}},
         ["aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator: Invalid value: \"Near\": not a valid "
          "selector operator",
          'aggregationRule.clusterRoleSelectors[0]: Invalid value: {"matchExpressions":[{"key":"a","operator":"Near"}]}'
          ": invalid label selector."]),
    ],
    "RoleBinding": [
        ({"roleRef": {"kind": "ClusterRole", "name": "system:a", "apiGroup": RBAC.partition("/")[0]}}, []),
        ({"roleRef": {"kind": "Role", "name": "a/b", "apiGroup": "x"}},
         ['roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"',
          "roleRef.name: Invalid value: \"a/b\": may not contain '/'"]),
        ({"roleRef": GONE},
         ['roleRef.kind: Unsupported value: "": supported values: "Role", "ClusterRole"',
          "roleRef.name: Required value"]),
        (subject(kind="Robot", name="r"),
         ['subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"']),
        (subject(kind="ServiceAccount", name="a", apiGroup="x"),
         ['subjects[0].apiGroup: Unsupported value: "x": supported values: ""']),
        (subject(kind="Group", name="", apiGroup="x"),
         ["subjects[0].name: Required value",
          'subjects[0].apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"']),
        ({"subjects": []}, []),
    ],
    "ClusterRoleBinding": [
        ({"roleRef.kind": "Role"}, ['roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"']),
        (subject(kind="ServiceAccount", name="a"), ["subjects[0].namespace: Required value"]),
    ],
    "PriorityClass": [
        ({"metadata.name": "system-x"},
         ["metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. "
          "error: system-x is not a known system priority class"]),
        ({"metadata.name": "system-node-critical"},
         ["metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. "
          "error: value of system-node-critical PriorityClass must be 2000001000"]),
        ({"value": 1_000_000_001},
         ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]),
        ({"value": -2_000_000_000}, []),
        ({"preemptionPolicy": "Always"},
         ['preemptionPolicy: Unsupported value: "Always": supported values: "PreemptLowerPriority", "Never"']),
    ],
    "RuntimeClass": [
        ({"handler": "A"}, [f'handler: Invalid value: "A": {LABEL}']),
        ({"overhead": {"podFixed": {"cpu": "-1"}}},
         [f'overhead.limits[cpu]: Invalid value: "-1": {NEGATIVE}']),
        ({"scheduling": {"tolerations": [{"operator": "Exists"}, {"operator": "Exists"}]}},
         ['scheduling.tolerations[1]: Duplicate value: {"operator":"Exists"}']),
        ({"overhead": {"podFixed": {"cpu": "1", "memory": "1Gi"}}}, []),
    ],
    "Lease": [
        ({"spec.leaseDurationSeconds": 0}, ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]),
        ({"spec.leaseTransitions": -1}, [f"spec.leaseTransitions: Invalid value: -1: {NEGATIVE}"]),
        ({"spec.preferredHolder": "a"},
         ["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"]),
        ({"spec.strategy": "Best"},
         ['spec.strategy.strategy: Unsupported value: "Best": supported values: "OldestEmulationVersion"']),
        ({"spec.strategy": "a.io/best", "spec.preferredHolder": "a"}, []),
    ],
    "CertificateSigningRequest": [
        ({"spec.request": encoded("x")},
         [f'spec.request: Invalid value: "{encoded("x")}": PEM block type must be CERTIFICATE REQUEST']),
        ({"spec.request": GONE}, ['spec.request: Invalid value: "": PEM block type must be CERTIFICATE REQUEST']),
        ({"spec.request": encoded(pem("CERTIFICATE", BYTES))},
         [f'spec.request: Invalid value: "{encoded(pem("CERTIFICATE", BYTES))}": PEM block type must be CERTIFICATE '
          "REQUEST"]),
        ({"spec.request": encoded(pem("CERTIFICATE REQUEST", BYTES[:-9]))},
         [f'spec.request: Invalid value: "{encoded(pem("CERTIFICATE REQUEST", BYTES[:-9]))}": x509: malformed '
          "certificate request"]),
        ({"spec.usages": []}, ["spec.usages: Required value"]),
        ({"spec.usages": ["client auth", "client auth"]}, ['spec.usages[1]: Duplicate value: "client auth"']),
        ({"spec.signerName": GONE}, ["spec.signerName: Required value"]),
        ({"spec.signerName": "a"},
         ['spec.signerName: Invalid value: "a": must be a fully qualified domain and path of the form '
          "'example.com/signer-name'"]),
        ({"spec.signerName": "a/b"},
         ['spec.signerName: Invalid value: "a": should be a domain with at least two segments separated by dots']),
        ({"spec.signerName": "A.io/b"},
         [f'spec.signerName: Invalid value: "A.io": validating label "A": {LABEL}']),
        ({"spec.signerName": "kubernetes.io/legacy-unknown"},
         ['spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via '
          "this API version"]),
        ({"spec.expirationSeconds": 599},
         ["spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 "
          "minutes)"]),
    ],
    "FlowSchema": [
        ({"spec.matchingPrecedence": 10_001},
         ["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"]),
        ({"spec.matchingPrecedence": 1},
         ["spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"]),
        (flow(subjects=[]), [f"{RULE}.subjects: Required value: subjects must contain at least one value"]),
        (flow(subjects=[{"kind": "User"}]),
         [f"{RULE}.subjects[0].user: Required value: user is required when subject kind is 'User'"]),
        (flow(subjects=[{"kind": "User", "user": {"name": ""}, "group": {"name": "g"}}]),
         [f"{RULE}.subjects[0].user.name: Required value",
          f"{RULE}.subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'"]),
        (flow(subjects=[{"kind": "ServiceAccount", "serviceAccount": {"name": "*"}}]),
         [f"{RULE}.subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account"]),
        (flow(resourceRules=[]),
         [f"{RULE}: Required value: at least one of resourceRules and nonResourceRules has to be non-empty"]),
        (flow(resourceRules=[{"verbs": ["get", "*"], "apiGroups": ["*", "a"], "resources": ["*", "b"],
                              "namespaces": ["*", "c"]}]),
         [f'{RULE}.resourceRules[0].verbs: Invalid value: ["get","*"]: if \'*\' is present, must not specify other '
          "verbs",
          f'{RULE}.resourceRules[0].apiGroups: Invalid value: ["*","a"]: if \'*\' is present, must not specify other '
          "api groups",
          f'{RULE}.resourceRules[0].resources: Invalid value: ["*","b"]: if \'*\' is present, must not specify other '
          "resources",
          f'{RULE}.resourceRules[0].namespaces: Invalid value: ["*","c"]: if \'*\' is present, must not specify other '
          "namespaces"]),
        (flow(resourceRules=[{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"]}]),
         [f"{RULE}.resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply "
          "at least one namespace"]),
        (flow(nonResourceRules=[{"verbs": ["get"], "nonResourceURLs": ["/a/*", "x", "/a*", "/a//b", "/"]}]),
         [f'{RULE}.nonResourceRules[0].nonResourceURLs[1]: Invalid value: "x": must start with slash',
          f'{RULE}.nonResourceRules[0].nonResourceURLs[2]: Invalid value: "/a*": wildcard can only do suffix matching',
          f'{RULE}.nonResourceRules[0].nonResourceURLs[3]: Invalid value: "/a//b": must not contain double slash']),
    ],
    "PriorityLevelConfiguration": [
        ({"spec.type": "Exempt", "spec.limited": GONE},
         ["spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"]),
        ({"spec.limited": GONE}, ["spec.limited: Required value: must not be empty when type is Limited"]),
        ({"spec.exempt": {}}, ["spec.exempt: Forbidden: must be nil if the type is Limited"]),
        ({"spec.limited.nominalConcurrencyShares": -1},
         ["spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer"]),
        ({"spec.limited.nominalConcurrencyShares": 0}, []),
        ({"spec.limited.borrowingLimitPercent": -1},
         ["spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer"]),
        ({"spec.limited.limitResponse.queuing": {"queues": 4, "handSize": 5}},
         ["spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater than queues (4)"]),
        ({"spec.limited.limitResponse.queuing": {"queues": 512, "handSize": 8}},
         ["spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and "
          "handSize 8 should not be greater than 60"]),
        ({"spec.limited.limitResponse.queuing": {"queues": 2**31 - 1, "handSize": 2**31 - 1}},
         ["spec.limited.limitResponse.queuing.queues: Invalid value: 2147483647: must not be greater than 10000000",
          "spec.limited.limitResponse.queuing.handSize: Invalid value: 2147483647: required entropy bits of deckSize "
          "2147483647 and handSize 2147483647 should not be greater than 60"]),
    ],
}  # fmt: skip
UPDATES: list[tuple[str, Changes, list[str]]] = [
    ("RoleBinding", {"roleRef.name": "s"},
     ['roleRef: Invalid value: {"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"s"}: cannot change '
      "roleRef"]),
    ("RoleBinding", {"subjects": []}, []),
    ("PriorityClass", {"value": 6}, ["value: Forbidden: may not be changed in an update."]),
    ("PriorityClass", {"globalDefault": True, "description": "d"}, []),
    ("RuntimeClass", {"handler": "other"}, ['handler: Invalid value: "other": field is immutable']),
    ("PodDisruptionBudget", {"spec.minAvailable": "50%"}, []),
    ("HorizontalPodAutoscaler", {"spec.maxReplicas": 0, "spec.minReplicas": 0}, [
        "spec.maxReplicas: Invalid value: 0: must be greater than 0",
        "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero "
        "replicas"]),
    ("CertificateSigningRequest", {"spec.usages": []}, []),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "found"), UPDATES)
def test_what_is_wrong_with_changes(kind: str, changes: Changes, found: list[str]) -> None:
    assert updated(GOOD[kind], {}, changes)[1] == found


def approved(*types: str, status: str = "True") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status} for kind in types]}


STAMP = {"lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "R", "message": ""}
STATUSES: list[tuple[str, Any, Any, list[str]]] = [
    ("HorizontalPodAutoscaler", {}, {"currentReplicas": -1, "desiredReplicas": 0},
     [f"status.currentReplicas: Invalid value: -1: {NEGATIVE}"]),
    ("PodDisruptionBudget", {}, {"disruptionsAllowed": -1, "conditions": [{"type": "A b", "status": "True", **STAMP}]},
     ["status.conditions[0].type: Invalid value: \"A b\": name part must consist of alphanumeric characters, '-', '_' "
      "or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', "
      "regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
      f"status.disruptionsAllowed: Invalid value: -1: {NEGATIVE}"]),
    ("CertificateSigningRequest", {}, approved("Approved"),
     ['status.conditions: Forbidden: updates may not add a condition of type "Approved"']),
    ("CertificateSigningRequest", approved("Approved"), {},
     ['status.conditions: Forbidden: updates may not remove a condition of type "Approved"']),
    ("CertificateSigningRequest", approved("Failed"), approved("Failed", "Failed"),
     ['status.conditions[1].type: Duplicate value: "Failed"']),
    ("CertificateSigningRequest", {}, approved("Failed", status="False"),
     ['status.conditions[0].status: Unsupported value: "False": supported values: "True"']),
    ("CertificateSigningRequest", {}, {"certificate": encoded("x")},
     ['status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block']),
    ("CertificateSigningRequest", {}, {"certificate": encoded(pem("CERTIFICATE REQUEST", BYTES))},
     ['status.certificate: Invalid value: "<certificate data>": only CERTIFICATE PEM blocks are allowed, found '
      '"CERTIFICATE REQUEST"']),
    ("FlowSchema", {}, {"conditions": [{"type": ""}, {"type": "A"}, {"type": "A"}]},
     ["status.conditions[0].type: Required value: must not be empty",
      'status.conditions[2].type: Duplicate value: "A"']),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "after", "found"), STATUSES)
def test_what_is_wrong_with_statuses(kind: str, before: Any, after: Any, found: list[str]) -> None:
    assert status_refused(GOOD[kind], before, after) == found


def test_who_approves_may_not_also_deny() -> None:
    check = rules_of("certificates.k8s.io", "CertificateSigningRequest").validate_parts["approval"]
    old = created(GOOD["CertificateSigningRequest"], {})[0]
    assert check({**old, "status": approved("Approved")}, old) == []
    [found] = check({**old, "status": approved("Approved", "Denied")}, old)
    assert str(found) == (
        'status.conditions: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive'
    )


def test_a_request_that_its_key_did_not_sign() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    forged = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(other, hashes.SHA256())
    point = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    bytes_ = forged.public_bytes(serialization.Encoding.DER).replace(
        other.public_key().public_bytes(*point), KEY.public_key().public_bytes(*point)
    )
    request = encoded(pem("CERTIFICATE REQUEST", bytes_))
    [found] = refused(GOOD["CertificateSigningRequest"], {"spec.request": request})
    assert found.endswith(": x509: ECDSA verification failure")


@pytest.mark.parametrize("o", [*mandatory_schemas(), *mandatory_levels()], ids=lambda o: o["metadata"]["name"])
def test_what_is_mandatory_stays_as_it_is_but_for_the_seats_of_what_is_exempt(o: dict[str, Any]) -> None:
    validate = rules_of("flowcontrol.apiserver.k8s.io", o["kind"]).validate
    assert validate(o) == []
    name, spec = o["metadata"]["name"], o["spec"]
    if "exempt" in spec:
        spec["exempt"]["nominalConcurrencyShares"] = 7
        assert validate(o) == []
        return
    spec.get("limited", spec)["nominalConcurrencyShares" if "limited" in spec else "matchingPrecedence"] = 77
    assert f"spec of '{name}' must equal the fixed value" in [e.detail for e in validate(o)]
