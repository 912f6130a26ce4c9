"""Defaults per kind: what a client gets back of what it left out."""

import copy
from typing import Any

import pytest

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.pod_template.defaults import image_pull_policy
from rayplane.control_plane.api.kinds.registry import ROOMS, rules_of
from rayplane.control_plane.api.kinds.rules import Absent

CONTAINER = {
    "name": "c",
    "image": "nginx",
    "imagePullPolicy": "Always",
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
POD_SPEC = {
    "containers": [CONTAINER],
    "dnsPolicy": "ClusterFirst",
    "restartPolicy": "Always",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "terminationGracePeriodSeconds": 30,
}


def made(api_version: str, kind: str, **rest: Any) -> dict[str, Any]:
    obj = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, **rest}
    default(obj)
    return obj


def template(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"a": "x"}},
        "spec": {"containers": [{"name": "c", "image": "nginx"}], **spec},
    }


def pod_spec(**spec: Any) -> dict[str, Any]:
    spec.setdefault("containers", [{"name": "c", "image": "nginx"}])
    result: dict[str, Any] = made("v1", "Pod", spec=spec)["spec"]
    return result


def test_smallest_pod() -> None:
    assert pod_spec() == {**POD_SPEC, "enableServiceLinks": True}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.19", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:00", "IfNotPresent"),
    ],
)
def test_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    assert image_pull_policy(image) == policy


def test_probes_and_hooks() -> None:
    found = pod_spec(
        containers=[
            {
                "name": "c",
                "image": "a:b",
                "livenessProbe": {"httpGet": {"port": 80}},
                "readinessProbe": {"grpc": {"port": 1}, "timeoutSeconds": 5},
                "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
            }
        ]
    )["containers"][0]
    counts = {"periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    get = {"port": 80, "path": "/", "scheme": "HTTP"}
    assert found["livenessProbe"] == {"httpGet": get, "timeoutSeconds": 1, **counts}
    assert found["readinessProbe"] == {
        "grpc": {"port": 1, "service": ""}, "timeoutSeconds": 5, **counts
    }  # fmt: skip
    assert found["lifecycle"]["preStop"]["httpGet"] == get


def test_volumes() -> None:
    volumes = [
        {"name": "a"},
        {"name": "b", "configMap": {"name": "x"}},
        {"name": "c", "secret": {"secretName": "y", "defaultMode": 256}},
        {"name": "d", "hostPath": {"path": "/tmp"}},
        {"name": "e", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "f"}}]}},
        {"name": "f", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
    ]
    found = pod_spec(volumes=volumes)["volumes"]
    assert found[0]["emptyDir"] == {}
    assert found[1]["configMap"]["defaultMode"] == 420
    assert found[2]["secret"]["defaultMode"] == 256
    assert found[3]["hostPath"]["type"] == ""
    assert found[4]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"] == "v1"
    assert found[5]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] == 3600


@pytest.mark.parametrize(
    ("source", "filled"),
    [
        (
            {"rbd": {"monitors": ["m"], "image": "i", "user": "u"}},
            {"pool": "rbd", "user": "u", "keyring": "/etc/ceph/keyring"},
        ),
        ({"iscsi": {"targetPortal": "1.2.3.4"}}, {"iscsiInterface": "default"}),
        (
            {"azureDisk": {"diskName": "d", "kind": "Managed", "readOnly": None}},
            {"cachingMode": "ReadWrite", "fsType": "ext4", "readOnly": False, "kind": "Managed"},
        ),
        ({"scaleIO": {"gateway": "g"}}, {"storageMode": "ThinProvisioned", "fsType": "xfs"}),
        ({"image": {"reference": "a:1"}}, {"pullPolicy": "IfNotPresent"}),
        ({"image": {"reference": "a"}}, {"pullPolicy": "Always"}),
        ({"projected": {"sources": []}}, {"defaultMode": 420}),
    ],
)
def test_sources_of_volumes(source: dict[str, Any], filled: dict[str, Any]) -> None:
    kind, said = next(iter(copy.deepcopy(source).items()))
    (volume,) = pod_spec(volumes=[{"name": "v", **source}])["volumes"]
    assert volume == {"name": "v", kind: {**said, **filled}}


def test_keys_of_files_must_be_there() -> None:
    keys: list[dict[str, Any]] = [
        {"path": "p", "key": "k", "volumeName": "v"},
        {"path": "p", "key": "k", "volumeName": "v", "optional": True},
    ]
    env = [{"name": "a", "valueFrom": {"fileKeyRef": key}} for key in keys]
    found = pod_spec(containers=[{"name": "c", "image": "i", "env": env}])["containers"][0]["env"]
    assert [one["valueFrom"]["fileKeyRef"]["optional"] for one in found] == [False, True]


def test_requests_follow_limits_and_quantities_become_canonical() -> None:
    container = {
        "name": "c",
        "image": "a:b",
        "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": {"cpu": "0.5"}},
    }
    found = pod_spec(containers=[container])["containers"][0]["resources"]
    assert found["limits"] == {"cpu": "1", "memory": "1Gi"}
    assert found["requests"] == {"cpu": "500m", "memory": "1Gi"}


def test_host_network_pods_take_their_ports_on_the_host() -> None:
    container = {"name": "c", "image": "a:b", "ports": [{"containerPort": 80}]}
    found = pod_spec(containers=[container], hostNetwork=True)["containers"][0]["ports"]
    assert found == [{"containerPort": 80, "protocol": "TCP", "hostPort": 80}]


def test_templates_get_no_service_links_and_no_requests() -> None:
    limits = {"limits": {"cpu": "1"}}
    given = template(containers=[{"name": "c", "image": "nginx", "resources": limits}])
    found = made("apps/v1", "ReplicaSet", spec={"template": given})["spec"]["template"]["spec"]
    assert "enableServiceLinks" not in found
    assert found["containers"][0]["resources"] == limits


def test_deployment() -> None:
    found = made("apps/v1", "Deployment", spec={"template": template()})["spec"]
    assert found.pop("template")["spec"] == POD_SPEC
    rolling = {"maxUnavailable": "25%", "maxSurge": "25%"}
    assert found == {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
    }


def test_zero_replicas_stay_zero() -> None:
    given = {"template": template(), "replicas": 0}
    assert made("apps/v1", "Deployment", spec=given)["spec"]["replicas"] == 0


def test_stateful_set() -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"resources": {"requests": {"storage": "1024Mi"}}},
    }
    given = {"template": template(), "volumeClaimTemplates": [claim]}
    found = made("apps/v1", "StatefulSet", spec=given)["spec"]
    assert found["podManagementPolicy"] == "OrderedReady"
    assert found["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    retain = {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert found["persistentVolumeClaimRetentionPolicy"] == retain
    made_claim = found["volumeClaimTemplates"][0]
    assert made_claim["spec"] == {
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    assert made_claim["status"] == {"phase": "Pending"}


def test_daemon_set() -> None:
    found = made("apps/v1", "DaemonSet", spec={"template": template()})["spec"]
    assert found["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


@pytest.mark.parametrize(
    ("given", "completions", "parallelism"),
    [({}, 1, 1), ({"parallelism": 3}, None, 3), ({"completions": 5}, 5, 1)],
)
def test_job_counts(given: dict[str, int], completions: int | None, parallelism: int) -> None:
    found = made("batch/v1", "Job", spec={"template": template(), **given})["spec"]
    assert (found.get("completions"), found["parallelism"]) == (completions, parallelism)
    assert found["backoffLimit"] == 6
    assert found["completionMode"] == "NonIndexed"
    assert found["suspend"] is False
    assert found["podReplacementPolicy"] == "TerminatingOrFailed"


def test_cron_job() -> None:
    given = {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template()}}}
    found = made("batch/v1", "CronJob", spec=given)["spec"]
    assert found["concurrencyPolicy"] == "Allow"
    assert (found["successfulJobsHistoryLimit"], found["failedJobsHistoryLimit"]) == (3, 1)
    assert found["jobTemplate"]["spec"]["template"]["spec"] == POD_SPEC
    assert "backoffLimit" not in found["jobTemplate"]["spec"]


def test_replication_controller_selects_by_its_template() -> None:
    found = made("v1", "ReplicationController", spec={"template": template()})
    assert found["spec"]["selector"] == {"a": "x"}
    assert found["metadata"]["labels"] == {"a": "x"}


def test_cluster_ip_service() -> None:
    found = made("v1", "Service", spec={"ports": [{"port": 80}]})["spec"]
    assert found == {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
    }


def test_other_services() -> None:
    balanced = made("v1", "Service", spec={"type": "LoadBalancer", "ports": [{"port": 1}]})["spec"]
    assert balanced["externalTrafficPolicy"] == "Cluster"
    assert balanced["allocateLoadBalancerNodePorts"] is True
    external = made("v1", "Service", spec={"type": "ExternalName", "externalName": "e.com"})
    assert external["spec"] == {
        "type": "ExternalName", "externalName": "e.com", "sessionAffinity": "None"
    }  # fmt: skip
    headless = made("v1", "Service", spec={"clusterIP": "None"})["spec"]
    assert headless["clusterIPs"] == ["None"]
    sticky = made("v1", "Service", spec={"sessionAffinity": "ClientIP"})["spec"]
    assert sticky["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


def test_secret_takes_string_data() -> None:
    found = made("v1", "Secret", stringData={"k": "v"}, data={"o": "eA==", "k": "b2xk"})
    assert found["type"] == "Opaque"
    assert found["data"] == {"k": "dg==", "o": "eA=="}
    assert "stringData" not in found


def test_cluster_kinds() -> None:
    namespace = made("v1", "Namespace")
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    volume = made("v1", "PersistentVolume", spec={"hostPath": {"path": "/x"}})["spec"]
    assert volume["persistentVolumeReclaimPolicy"] == "Retain"
    assert volume["hostPath"]["type"] == ""
    storage = made("storage.k8s.io/v1", "StorageClass", provisioner="p")
    assert (storage["reclaimPolicy"], storage["volumeBindingMode"]) == ("Delete", "Immediate")
    assert made("scheduling.k8s.io/v1", "PriorityClass")["preemptionPolicy"] == ("PreemptLowerPriority")


def test_role_binding_groups() -> None:
    found = made(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        roleRef={"kind": "Role", "name": "r"},
        subjects=[{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}],
    )
    assert found["roleRef"]["apiGroup"] == "rbac.authorization.k8s.io"
    assert found["subjects"][0]["apiGroup"] == "rbac.authorization.k8s.io"
    assert "apiGroup" not in found["subjects"][1]


def test_limit_range_fills_defaults_from_bounds() -> None:
    limits = [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]
    item = made("v1", "LimitRange", spec={"limits": limits})["spec"]["limits"][0]
    assert item["default"] == {"cpu": "2"}
    assert item["defaultRequest"] == {"cpu": "2", "memory": "1Mi"}


def test_network_policy_types() -> None:
    both = made("networking.k8s.io/v1", "NetworkPolicy", spec={"egress": [{}]})["spec"]
    assert both["policyTypes"] == ["Ingress", "Egress"]
    one = made("networking.k8s.io/v1", "NetworkPolicy", spec={})["spec"]
    assert one["policyTypes"] == ["Ingress"] and one["podSelector"] == {}


def test_autoscaler() -> None:
    found = made("autoscaling/v2", "HorizontalPodAutoscaler", spec={"behavior": {}})["spec"]
    assert found["minReplicas"] == 1
    assert found["metrics"][0]["resource"]["target"]["averageUtilization"] == 80
    assert found["behavior"]["scaleDown"]["policies"] == [{"type": "Percent", "value": 100, "periodSeconds": 15}]
    assert "metrics" not in made("autoscaling/v1", "HorizontalPodAutoscaler", spec={})["spec"]


@pytest.mark.parametrize(
    "kind",
    sorted(kind for kind in ROOMS if not isinstance(rules_of(*kind).defaults, Absent)),
    ids=lambda kind: "/".join(kind),
)
def test_defaults_of_every_kind_are_stable(kind: tuple[str, str]) -> None:
    group, name = kind
    obj: dict[str, Any] = {
        "apiVersion": f"{group}/v1" if group else "v1",
        "kind": name,
        "metadata": {"name": "x"},
    }
    default(obj)
    once = copy.deepcopy(obj)
    default(obj)
    assert obj == once
