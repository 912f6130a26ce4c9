"""Good objects of many kinds, where they are served, and bodies of them that are not so good."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import random
from pathlib import Path
from typing import Any

import yaml

from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.meta import Object
from tests.api import odd_values
from tests.api.pems import REQUEST
from tests.fuzz import mutate

_POD = {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "http"}],
                        "env": [{"name": "A", "value": "b"}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                        "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}},
                        "livenessProbe": {"httpGet": {"path": "/", "port": "http"}}}],
        "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k", "operator": "Exists"}],
        "securityContext": {"runAsUser": 1}, "nodeSelector": {"a": "b"}}  # fmt: skip
_TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": _POD}
_SELECTOR = {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}
_SCHEMA = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
    "size": {"type": "integer", "minimum": 1}, "name": {"type": "string", "pattern": "^a+$"},
    "list": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k"]},
             "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}}},
    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}  # fmt: skip
_RULE = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}
#: (group and version, plural, kind, the rest)
SEEDS: tuple[tuple[str, str, str, Object], ...] = (
    ("v1", "pods", "Pod", {"spec": _POD}),
    ("v1", "configmaps", "ConfigMap", {"data": {"a": "b"}, "binaryData": {"c": "YQ=="}}),
    ("v1", "secrets", "Secret", {"data": {"a": "YQ=="}, "type": "Opaque", "stringData": {"b": "c"}}),
    ("v1", "services", "Service", {"spec": {"type": "NodePort", "selector": {"app": "a"}, "ports": [
        {"name": "http", "port": 80, "targetPort": "http"}]}}),
    ("v1", "serviceaccounts", "ServiceAccount", {"secrets": [{"name": "s"}]}),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", {"spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}}),
    ("v1", "persistentvolumes", "PersistentVolume", {"spec": {"accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": "h"}}}),
    ("v1", "resourcequotas", "ResourceQuota", {"spec": {"hard": {"pods": "10", "requests.cpu": "4"}}}),
    ("v1", "limitranges", "LimitRange", {"spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}}),
    ("v1", "namespaces", "Namespace", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}),
    ("v1", "nodes", "Node", {"spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "a", "effect": "NoSchedule"}]}}),
    ("v1", "events", "Event", {"involvedObject": {"kind": "Pod", "namespace": "default", "name": "a"}, "reason": "R"}),
    ("v1", "endpoints", "Endpoints", {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
    ("v1", "replicationcontrollers", "ReplicationController", {"spec": {
        "selector": {"app": "a"}, "template": _TEMPLATE}}),
    ("apps/v1", "deployments", "Deployment", {"spec": {"replicas": 2, "selector": _SELECTOR, "template": _TEMPLATE,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}}}),
    ("apps/v1", "statefulsets", "StatefulSet", {"spec": {"serviceName": "a", "selector": _SELECTOR,
        "template": _TEMPLATE,
        "volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {"resources": {"requests": {"storage": "1"}}}}]}}),
    ("apps/v1", "daemonsets", "DaemonSet", {"spec": {"selector": _SELECTOR, "template": _TEMPLATE}}),
    ("batch/v1", "jobs", "Job", {"spec": {"completions": 3, "parallelism": 2,
        "template": {"spec": {**_POD, "restartPolicy": "Never"}}}}),
    ("batch/v1", "cronjobs", "CronJob", {"spec": {"schedule": "*/5 * * * *", "timeZone": "Europe/Berlin",
        "jobTemplate": {"spec": {"template": {"spec": {**_POD, "restartPolicy": "Never"}}}}}}),
    ("networking.k8s.io/v1", "ingresses", "Ingress", {"spec": {"rules": [{"host": "a.b", "http": {"paths": [
        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": {"number": 80}}}}]}}]}}),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", {"spec": {"podSelector": _SELECTOR, "ingress": [
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80, "endPort": 90}]}]}}),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", {"spec": {"minAvailable": "50%",
        "selector": _SELECTOR}}),
    ("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", {"spec": {"maxReplicas": 3,
        "scaleTargetRef": {"kind": "Deployment", "name": "a", "apiVersion": "apps/v1"}}}),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", {"rules": [_RULE]}),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", {"rules": [_RULE],
        "aggregationRule": {"clusterRoleSelectors": [_SELECTOR]}}),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", {"subjects": [{"kind": "User", "name": "a",
        "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "Role", "name": "a",
        "apiGroup": "rbac.authorization.k8s.io"}}),
    ("storage.k8s.io/v1", "storageclasses", "StorageClass", {"provisioner": "p", "allowedTopologies": []}),
    ("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", {"value": 5, "globalDefault": False}),
    ("scheduling.k8s.io/v1beta1", "podgroups", "PodGroup", {"spec": {"disruptionMode": {"all": {}},
        "schedulingPolicy": {"gang": {"minCount": 2}},
        "workloadRef": {"workloadName": "a", "templateName": "b"}}}),
    ("scheduling.k8s.io/v1beta1", "workloads", "Workload", {"spec": {"podGroupTemplates": [
        {"name": "a", "schedulingPolicy": {"basic": {}}}], "controllerRef": {"kind": "Job", "name": "a"}}}),
    ("coordination.k8s.io/v1", "leases", "Lease", {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 5,
        "renewTime": "2026-01-01T00:00:00.000000Z"}}),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", {"addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition",
        {"metadata": {"name": "foos.x.io"},
        "spec": {"group": "x.io", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"}, "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": _SCHEMA},
             "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size",
                 "statusReplicasPath": ".status.n"}},
             "additionalPrinterColumns": [{"name": "N", "type": "integer", "jsonPath": ".spec.size"}]}]}}),
    ("x.io/v1", "foos", "Foo", {"spec": {"size": 2, "name": "aa", "list": [{"k": "a"}]}}),
    ("authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview",
        {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}),
    ("authentication.k8s.io/v1", "tokenreviews", "TokenReview", {"spec": {"token": "a.b.c"}}),
    ("certificates.k8s.io/v1", "certificatesigningrequests", "CertificateSigningRequest",
        {"spec": {"request": REQUEST, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}}),
)  # fmt: skip
_UNBOUND = frozenset(["namespaces", "nodes", "persistentvolumes", "clusterroles", "storageclasses", "priorityclasses",
    "customresourcedefinitions", "selfsubjectaccessreviews", "tokenreviews", "certificatesigningrequests"])  # fmt: skip
RECORDED = [
    base64.b64decode(t)
    for t in json.loads((Path(__file__).parents[2] / "api/test_decode_bodies.json").read_text()).values()
]
PARTS: tuple[Any, ...] = (_POD, _SELECTOR, _RULE, _SCHEMA, {"name": "a"}, [{"name": "a"}, {"name": "a"}])


def collection(seed: tuple[str, str, str, Object]) -> str:
    version, plural, _, _ = seed
    base = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    return f"{base}/{plural}" if plural in _UNBOUND else f"{base}/namespaces/default/{plural}"


def good(seed: tuple[str, str, str, Object], name: str = "a") -> Object:
    version, _, kind, rest = seed
    return {"apiVersion": version, "kind": kind, **rest, "metadata": {"name": name, **rest.get("metadata", {})}}


@functools.cache
def odd_fields(version: str, kind: str) -> list[tuple[odd_values.Path, Any]]:
    """An odd value for each field that the schema knows, several for most."""
    return list(odd_values.fields(version, kind)) if definition_of(version, kind) is not None else []


def odd(rng: random.Random, seed: tuple[str, str, str, Object], name: str = "a") -> Any:
    """A good object, one with odd values at some of the fields that the schema knows, or a spoiled one."""
    o: Any = good(seed, name)
    fields = odd_fields(seed[0], seed[2])
    match rng.randrange(4):
        case 0:
            return o
        case 1 | 2 if fields:
            for _ in range(mutate.some(rng)):
                path, value = rng.choice(fields)
                try:
                    o = odd_values.placed(o, path, value)
                except (AttributeError, TypeError, KeyError):
                    break  # an odd value stands in the way
            return o
    return mutate.of_json(rng, o, PARTS)


def encoded(rng: random.Random, value: Any) -> tuple[str, bytes]:
    """Media type and bytes, which may be spoiled."""
    text = json.dumps(value).encode()
    media = "application/json"
    match rng.randrange(10):
        case 0 | 1:
            media, text = "application/yaml", _yaml(text)
        case 2:
            media, text = "application/vnd.kubernetes.protobuf", mutate.of_bytes(rng, rng.choice(RECORDED), RECORDED)
        case 3:
            text = mutate.of_bytes(rng, text, _PIECES)
        case 4:
            media, text = "application/yaml", mutate.of_bytes(rng, _yaml(text), _PIECES)
    return media, text


def _yaml(text: bytes) -> bytes:
    """JSON in the block style; what is too deep for that stays as it is, which is YAML, too."""
    with contextlib.suppress(RecursionError):
        return yaml.safe_dump(json.loads(text), allow_unicode=True).encode("utf-8", "replace")
    return text


_PIECES = (
    b"&a [*a]", b"!!python/object:os.system x", b"<<: *a", b"? ", b"---\n", b"...\n", b"\xff\xfe", b"0x1F", b"1e999",
    b"NaN", b"-Infinity", b"!!binary YQ==", b"!!set {a}", b"2026-01-01", b"12:30:45", b"[[[[[[", b"{{{{", b"\\ud800",
    b"%YAML 1.1\n", b"!<tag:x> ", b'"\\u0000"', b"\t", b"'", b"|\n", b">-\n", b"# ", b"\x85", b"\xe2\x80\xa8",
        b"9" * 400,
)  # fmt: skip
