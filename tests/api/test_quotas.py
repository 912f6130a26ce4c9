"""What objects count for, and whose: the rules that admission and the controller share."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_quotas import names_of
from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.quotas import DEVICES, counted, in_scope, usage_of, used
from tests.fakes import START

GPU = "example.com/gpu"
BIG = {"requests": {"cpu": "500m", "memory": "1Gi", GPU: "2", "hugepages-2Mi": "4Mi"}, "limits": {"cpu": "1"}}


def pod(
    resources: dict[str, Any] | None = None, *, status: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    containers = [{"name": "c", "image": "i", "resources": resources or {}}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "d"},
        "spec": {"containers": containers, **spec},
        "status": status or {},
    }


def told(o: dict[str, Any], resource: str) -> dict[str, str]:
    return {name: str(amount) for name, amount in usage_of(o, resource, START).items()}


def test_a_pod_counts_for_what_its_containers_ask_for() -> None:
    assert told(pod(BIG), "pods") == {
        "count/pods": "1",
        "pods": "1",
        "cpu": "500m",
        "requests.cpu": "500m",
        "memory": "1Gi",
        "requests.memory": "1Gi",
        "limits.cpu": "1",
        f"requests.{GPU}": "2",
        "hugepages-2Mi": "4Mi",
        "requests.hugepages-2Mi": "4Mi",
    }


def test_a_pod_that_has_ended_or_should_have_counts_as_an_object_only() -> None:
    assert told(pod(BIG, status={"phase": "Failed"}), "pods") == {"count/pods": "1"}
    leaving = pod(BIG)
    leaving["metadata"] |= {"deletionTimestamp": meta.format_time(START), "deletionGracePeriodSeconds": 30}
    assert "pods" in usage_of(leaving, "pods", START + timedelta(seconds=29))
    assert usage_of(leaving, "pods", START + timedelta(seconds=31)).keys() == {"count/pods"}


PORTS = [{"port": 80}, {"port": 81}]
SERVICES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"type": "ClusterIP", "ports": PORTS}, {}),
    ({"type": "NodePort", "ports": PORTS}, {"services.nodeports": "2"}),
    ({"type": "LoadBalancer", "ports": PORTS}, {"services.loadbalancers": "1", "services.nodeports": "2"}),
    (
        {"type": "LoadBalancer", "ports": PORTS, "allocateLoadBalancerNodePorts": False},
        {"services.loadbalancers": "1"},
    ),
]


@pytest.mark.parametrize(("spec", "more"), SERVICES)
def test_services_count_for_their_balancers_and_ports(spec: dict[str, Any], more: dict[str, str]) -> None:
    assert told({"spec": spec}, "services") == {"count/services": "1", "services": "1"} | more


def test_claims_count_for_their_storage_and_their_class() -> None:
    spec = {"resources": {"requests": {"storage": "2Gi"}}, "storageClassName": "gold"}
    assert told({"spec": spec}, "persistentvolumeclaims") == {
        "count/persistentvolumeclaims": "1",
        "persistentvolumeclaims": "1",
        "requests.storage": "2Gi",
        "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
        "gold.storageclass.storage.k8s.io/requests.storage": "2Gi",
    }


def test_claims_of_devices_count_for_the_most_that_they_may_take() -> None:
    requests: list[dict[str, Any]] = [
        {"name": "a", "exactly": {"deviceClassName": "gpu", "count": 2}},
        {"name": "b", "firstAvailable": [{"deviceClassName": "gpu", "count": 1}, {"deviceClassName": "tpu"}]},
        {"name": "c", "exactly": {"deviceClassName": "nic", "allocationMode": "All"}},
    ]
    usage = told(claim(requests), DEVICES)
    devices, resource = ".deviceclass.resource.k8s.io/devices", "requests.deviceclass.resource.kubernetes.io/"
    assert usage == {
        "count/resourceclaims.resource.k8s.io": "1",
        **{f"gpu{devices}": "3", f"tpu{devices}": "1", f"nic{devices}": "32"},
        **{f"{resource}gpu": "3", f"{resource}tpu": "1", f"{resource}nic": "32"},
    }


def claim(requests: list[dict[str, Any]], *, uid: str = "c", of: dict[str, Any] | None = None) -> dict[str, Any]:
    own: dict[str, Any] = {"name": uid, "namespace": "d", "uid": uid}
    if of is not None:
        own["annotations"] = {"resource.kubernetes.io/extended-resource-claim": "true"}
        own["ownerReferences"] = [meta.owner_reference(of)]
    return {"metadata": own, "spec": {"devices": {"requests": requests}}}


GPU_CLASS, IMPLICIT = "gpu.deviceclass.resource.k8s.io/devices", "requests.deviceclass.resource.kubernetes.io/gpu"
OF_GPU = {"name": "r", "exactly": {"deviceClassName": "gpu", "count": 3}}
NAMES = names_of([{"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": GPU}}, {"metadata": {"name": "nic"}}])
ALL_OF_GPU = {GPU_CLASS: "9", IMPLICIT: "9", f"requests.{GPU}": "9", "requests.other.com/gpu": "9"}


def test_devices_count_alike_whether_claimed_or_asked_for_as_a_resource() -> None:
    asking = pod({"limits": {GPU: "2", "deviceclass.resource.kubernetes.io/gpu": "1"}})
    default(asking)
    counts = used(quota(hard=ALL_OF_GPU), {"pods": [asking], DEVICES: [claim([OF_GPU])]}, START, NAMES)
    assert counts == {GPU_CLASS: "3", IMPLICIT: "4", f"requests.{GPU}": "5", "requests.other.com/gpu": "0"}
    assert counted(ALL_OF_GPU, DEVICES, NAMES) == {GPU_CLASS, IMPLICIT, f"requests.{GPU}"}
    assert counted(ALL_OF_GPU, DEVICES) == {GPU_CLASS, IMPLICIT}


def test_a_claim_for_a_pods_resources_counts_for_what_its_pod_does_not() -> None:
    asking = pod({"limits": {GPU: "2"}})
    default(asking)
    asking["metadata"]["uid"] = "p"
    made, forged = claim([OF_GPU], uid="c", of=asking), claim([OF_GPU], uid="d", of=asking)

    def counts(*claims: dict[str, Any]) -> dict[str, str]:
        return used(quota(hard=ALL_OF_GPU), {"pods": [asking], DEVICES: claims}, START, NAMES)

    assert counts(made) == {GPU_CLASS: "3", IMPLICIT: "3", f"requests.{GPU}": "3", "requests.other.com/gpu": "0"}
    assert counts(forged, made)[f"requests.{GPU}"] == "6", "the first alone is taken for the one"
    asking["status"] = {"extendedResourceClaimStatus": {"resourceClaimName": "d"}}
    assert counts(forged)[f"requests.{GPU}"] == "3"
    assert counts(made)[f"requests.{GPU}"] == "5", "its pod says that it is another's"
    asking["status"] = {"phase": "Succeeded"}
    assert counts(made)[f"requests.{GPU}"] == "3", "who has ended counts for nothing, the claim is still there"


def test_each_name_of_a_quota_is_counted_by_the_resource_it_is_about() -> None:
    of_pods = {"pods", "count/pods", "cpu", "requests.cpu", "limits.memory", f"requests.{GPU}", "hugepages-2Mi"}
    of_claims = {"persistentvolumeclaims", "requests.storage", "gold.storageclass.storage.k8s.io/requests.storage"}
    of_services = {"services", "services.nodeports", "count/services"}
    hard = of_pods | of_claims | of_services | {"count/widgets.example.com", "configmaps"}
    assert counted(hard, "pods") == of_pods
    assert counted(hard, "persistentvolumeclaims") == of_claims
    assert counted(hard, "services") == of_services
    assert counted(hard, "widgets.example.com") == {"count/widgets.example.com"}
    assert counted(hard, "configmaps") == {"configmaps"}


def quota(*terms: dict[str, Any], scopes: tuple[str, ...] = (), hard: dict[str, str] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"hard": hard or {}, "scopes": list(scopes)}
    return {"metadata": {"namespace": "d"}, "spec": spec | {"scopeSelector": {"matchExpressions": list(terms)}}}


NEAR = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
    {"weight": 1, "podAffinityTerm": {"topologyKey": "k", "namespaceSelector": {}}}
]}}  # fmt: skip
PODS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Terminating", pod(activeDeadlineSeconds=0), pod()),
    ("NotTerminating", pod(), pod(activeDeadlineSeconds=5)),
    ("BestEffort", pod(), pod(BIG)),
    ("NotBestEffort", pod(BIG), pod()),
    ("PriorityClass", pod(priorityClassName="high"), pod()),
    ("CrossNamespacePodAffinity", pod(affinity=NEAR), pod()),
]


@pytest.mark.parametrize(("scope", "within", "without"), PODS)
def test_pods_are_within_a_scope_or_without(scope: str, within: dict[str, Any], without: dict[str, Any]) -> None:
    for o in (within, without):
        default(o)
    for one in (quota(scopes=(scope,)), quota({"scopeName": scope, "operator": "Exists"})):
        assert in_scope(one, within, "pods") and not in_scope(one, without, "pods")
        assert not in_scope(one, {"spec": {}}, "services")


@pytest.mark.parametrize(
    ("operator", "values", "high", "none"),
    [
        ("In", ["high", "low"], True, False),
        ("In", ["low"], False, False),
        ("NotIn", ["high"], False, True),
        ("NotIn", ["low"], True, True),
        ("Exists", [], True, False),
        ("DoesNotExist", [], False, True),
    ],
)
def test_scope_selectors_choose_classes(operator: str, values: list[str], high: bool, none: bool) -> None:
    pods = quota({"scopeName": "PriorityClass", "operator": operator, "values": values})
    assert in_scope(pods, pod(priorityClassName="high"), "pods") is high
    assert in_scope(pods, pod(), "pods") is none
    claims = quota({"scopeName": "VolumeAttributesClass", "operator": operator, "values": values})
    assert in_scope(claims, {"spec": {"volumeAttributesClassName": "high"}}, "persistentvolumeclaims") is high
    assert in_scope(claims, {"spec": {}}, "persistentvolumeclaims") is none


def test_what_is_used_is_the_sum_of_what_is_within() -> None:
    hard = {"pods": "9", "requests.cpu": "4", "services": "1", "count/widgets.example.com": "3"}
    one = quota(hard=hard)
    found = used(one, {"pods": [pod(BIG), pod(BIG), pod(BIG, status={"phase": "Succeeded"})], "services": []}, START)
    assert found == {"pods": "2", "requests.cpu": "1", "services": "0"}
    scoped = quota(scopes=("BestEffort",), hard={"pods": "9"})
    assert used(scoped, {"pods": [pod(BIG), pod()]}, START) == {"pods": "1"}
