"""What creating, updating, deleting, scaling, binding and evicting do to objects."""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import BadRequest, Conflict, Invalid
from rayplane.control_plane.api.kinds.autoscaling.scale import get_scale, set_scale
from rayplane.control_plane.api.kinds.batch.job import JOB_UID_LABEL
from rayplane.control_plane.api.kinds.core.binding import bind
from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.deletion import begin_deletion, check_preconditions, removable
from rayplane.control_plane.api.kinds.rules import ScalePaths
from rayplane.control_plane.api.kinds.strategy import (
    generated_name,
    prepare_for_create,
    prepare_for_status_update,
    prepare_for_update,
)
from rayplane.control_plane.api.machinery.resources import builtin_registry

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=10)
REGISTRY = builtin_registry()


def obj(api_version: str, kind: str, **rest: Any) -> dict[str, Any]:
    metadata = {"name": "x", "namespace": "ns", "uid": "u1", **rest.pop("metadata", {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def pod(**rest: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "i"}], **rest.pop("spec", {})}
    return obj("v1", "Pod", spec=spec, **rest)


# --- create and update ----------------------------------------------------------------------------


def test_a_new_pod_is_pending_whatever_the_client_says() -> None:
    made = pod(status={"phase": "Running"}, metadata={"generation": 7, "deletionTimestamp": "x"})
    prepare_for_create(made)
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert made["metadata"]["generation"] == 1
    assert "deletionTimestamp" not in made["metadata"]


def test_new_objects_start_with_their_kinds_status() -> None:
    service = obj("v1", "Service", spec={}, status={"loadBalancer": {"ingress": [{"ip": "1"}]}})
    prepare_for_create(service)
    assert service["status"] == {"loadBalancer": {}} and "generation" not in service["metadata"]
    node = obj("v1", "Node", status={"phase": "x"})
    prepare_for_create(node)
    assert node["status"] == {"phase": "x"}
    claim = obj("v1", "PersistentVolumeClaim", spec={})
    prepare_for_create(claim)
    assert claim["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]


def test_initial_status_is_not_shared() -> None:
    first, second = obj("v1", "Service", spec={}), obj("v1", "Service", spec={})
    prepare_for_create(first)
    first["status"]["loadBalancer"]["ingress"] = []
    prepare_for_create(second)
    assert second["status"] == {"loadBalancer": {}}


def test_jobs_select_their_pods_by_uid() -> None:
    job = obj("batch/v1", "Job", spec={"template": {"spec": {"containers": []}}})
    prepare_for_create(job)
    assert job["spec"]["selector"] == {"matchLabels": {JOB_UID_LABEL: "u1"}}
    assert job["spec"]["template"]["metadata"]["labels"] == {
        "batch.kubernetes.io/controller-uid": "u1",
        "controller-uid": "u1",
        "batch.kubernetes.io/job-name": "x",
        "job-name": "x",
    }
    manual = obj("batch/v1", "Job", spec={"manualSelector": True, "template": {}})
    prepare_for_create(manual)
    assert "selector" not in manual["spec"]


def test_generation_counts_changes_of_spec_only() -> None:
    old = obj("apps/v1", "Deployment", spec={"replicas": 1}, metadata={"generation": 3})
    old["status"] = {"replicas": 1}
    same = copy.deepcopy(old)
    same["metadata"]["labels"] = {"a": "b"}
    same["status"] = {"replicas": 9}
    prepare_for_update(same, old)
    assert same["metadata"]["generation"] == 3 and same["status"] == {"replicas": 1}
    other = copy.deepcopy(old)
    other["spec"]["replicas"] = 2
    other["metadata"]["generation"] = 99
    prepare_for_update(other, old)
    assert other["metadata"]["generation"] == 4


def test_updates_cannot_undo_a_deletion_or_change_identity() -> None:
    old = obj("v1", "ConfigMap", metadata={"deletionTimestamp": "t", "creationTimestamp": "c"})
    new = obj("v1", "ConfigMap", metadata={"creationTimestamp": "other"})
    prepare_for_update(new, old)
    assert new["metadata"] == old["metadata"]


def test_status_update_takes_status_only() -> None:
    old = obj("apps/v1", "Deployment", spec={"replicas": 1}, metadata={"labels": {"a": "b"}})
    new = obj("apps/v1", "Deployment", spec={"replicas": 5}, status={"replicas": 2})
    new["metadata"]["resourceVersion"] = "7"
    prepare_for_status_update(new, old)
    assert new["spec"] == {"replicas": 1} and new["status"] == {"replicas": 2}
    assert new["metadata"]["labels"] == {"a": "b"}
    assert new["metadata"]["resourceVersion"] == "7"


def test_kubelets_set_annotations_with_status() -> None:
    old = obj("v1", "Node", spec={"podCIDR": "c"})
    new = obj("v1", "Node", status={"x": 1}, metadata={"annotations": {"a": "b"}})
    prepare_for_status_update(new, old)
    assert new["metadata"]["annotations"] == {"a": "b"} and new["spec"] == {"podCIDR": "c"}


class Custom:
    group, kind, custom, namespaced = "x.io", "Foo", True, True

    def __init__(self, *subresources: str) -> None:
        self.subresources = dict.fromkeys(subresources)


def test_custom_resources_have_a_status_when_their_definition_says_so() -> None:
    made = obj("x.io/v1", "Foo", status={"a": 1})
    prepare_for_create(made, Custom())
    assert made["status"] == {"a": 1} and made["metadata"]["generation"] == 1
    prepare_for_create(made, Custom("status"))
    assert "status" not in made


def service(**spec: Any) -> dict[str, Any]:
    made = obj("v1", "Service", spec={"ports": [{"port": 80}], **spec})
    default(made)
    return made


def test_services_keep_what_was_allocated() -> None:
    old = service(type="NodePort", clusterIP="127.9.0.1")
    old["spec"]["ports"][0]["nodePort"] = 31000
    new = service(type="NodePort")
    prepare_for_update(new, old)
    assert new["spec"]["clusterIPs"] == ["127.9.0.1"]
    assert new["spec"]["ports"][0]["nodePort"] == 31000


def test_services_drop_what_their_new_type_has_no_use_for() -> None:
    old = service(type="NodePort", clusterIP="127.9.0.1")
    old["spec"]["ports"][0]["nodePort"] = 31000
    inner = copy.deepcopy(old)
    inner["spec"]["type"] = "ClusterIP"
    prepare_for_update(inner, old)
    assert "nodePort" not in inner["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in inner["spec"]
    assert inner["spec"]["clusterIP"] == "127.9.0.1"
    outer = copy.deepcopy(old)
    outer["spec"].update(type="ExternalName", externalName="e.com")
    prepare_for_update(outer, old)
    assert "clusterIP" not in outer["spec"] and "ipFamilies" not in outer["spec"]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        (
            {
                "limits": {"cpu": "1", "memory": "1Gi"},
                "requests": {"cpu": "1000m", "memory": "1024Mi"},
            },
            "Guaranteed",
        ),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"limits": {"x.io/gpu": "1"}, "requests": {"x.io/gpu": "1"}}, "BestEffort"),
    ],
)
def test_quality_of_service(resources: dict[str, Any], expected: str) -> None:
    made = pod()
    made["spec"]["containers"][0]["resources"] = resources
    default(made)
    prepare_for_create(made)
    assert made["status"]["qosClass"] == expected


def test_generated_names_stay_within_a_label() -> None:
    assert generated_name("web-", "x2z4b") == "web-x2z4b"
    assert len(generated_name("a" * 80, "x2z4b")) == 63


# --- deletion -------------------------------------------------------------------------------------


def test_a_pod_on_a_node_gets_its_grace_period() -> None:
    made = pod(spec={"nodeName": "n1", "terminationGracePeriodSeconds": 20})
    assert not begin_deletion(made, now=NOW).remove
    assert made["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:20Z"
    assert made["metadata"]["deletionGracePeriodSeconds"] == 20
    again = begin_deletion(made, now=LATER)
    assert not again.changed and not again.remove
    forced = begin_deletion(made, now=LATER, grace_seconds=0)
    assert forced.remove
    assert made["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"


def test_a_later_request_cannot_lengthen_the_grace_period() -> None:
    made = pod(spec={"nodeName": "n1"})
    begin_deletion(made, now=NOW, grace_seconds=5)
    assert not begin_deletion(made, now=LATER, grace_seconds=60).changed
    assert made["metadata"]["deletionGracePeriodSeconds"] == 5


@pytest.mark.parametrize(
    "made",
    [
        pod(),
        pod(spec={"nodeName": "n1"}, status={"phase": "Succeeded"}),
        obj("v1", "ConfigMap"),
    ],
    ids=["no node", "ended", "no pod"],
)
def test_what_runs_nowhere_goes_at_once(made: dict[str, Any]) -> None:
    assert begin_deletion(copy.deepcopy(made), now=NOW).remove


def test_finalizers_hold_an_object_back() -> None:
    made = obj("v1", "ConfigMap", metadata={"finalizers": ["x.io/f"]})
    assert not begin_deletion(made, now=NOW).remove
    assert made["metadata"]["deletionGracePeriodSeconds"] == 0
    made["metadata"]["finalizers"] = []
    assert removable(made)


def test_propagation_sets_the_collectors_finalizer() -> None:
    made = obj("v1", "ConfigMap")
    begin_deletion(made, now=NOW, propagation="Foreground")
    assert made["metadata"]["finalizers"] == ["foregroundDeletion"]
    begin_deletion(made, now=NOW, propagation="Orphan")
    assert made["metadata"]["finalizers"] == ["orphan"]
    assert begin_deletion(made, now=NOW, propagation="Background").remove
    with pytest.raises(BadRequest):
        begin_deletion(made, now=NOW, propagation="Sideways")


def test_namespaces_wait_for_their_content() -> None:
    made = obj("v1", "Namespace", spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
    assert not begin_deletion(made, now=NOW).remove
    assert made["status"]["phase"] == "Terminating"
    made["spec"]["finalizers"] = []
    assert removable(made)


def test_preconditions() -> None:
    made = obj("v1", "Pod", metadata={"resourceVersion": "5"})
    check_preconditions(made, "pods", uid="u1", version="5")
    with pytest.raises(Conflict, match="UID in the precondition"):
        check_preconditions(made, "pods", uid="other")
    with pytest.raises(Conflict, match="ResourceVersion in the precondition"):
        check_preconditions(made, "pods", version="4")


# --- subresources ---------------------------------------------------------------------------------


def deployment() -> dict[str, Any]:
    spec = {"replicas": 3, "selector": {"matchLabels": {"a": "web"}}}
    return obj("apps/v1", "Deployment", spec=spec, status={"replicas": 2})


def test_scale() -> None:
    scale = get_scale(deployment())
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": "a=web"}
    target = deployment()
    set_scale(target, {"spec": {"replicas": 7}})
    assert target["spec"]["replicas"] == 7
    with pytest.raises(Invalid, match=r'Scale.autoscaling "x" is invalid: spec.replicas'):
        set_scale(target, {"spec": {"replicas": -1}})
    with pytest.raises(Invalid, match="leads through something else than an object"):
        set_scale(obj("x.io/v1", "Foo", spec="odd"), {"spec": {"replicas": 1}})


def test_scale_of_a_custom_resource() -> None:
    made = obj("x.io/v1", "Foo", spec={"size": 2}, status={"n": 1, "sel": "a=b"})
    paths = ScalePaths(".spec.size", ".status.n", ".status.sel")
    scale = get_scale(made, paths)
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 1, "selector": "a=b"}
    set_scale(made, {"spec": {"replicas": 4}}, paths)
    assert made["spec"]["size"] == 4


@pytest.mark.parametrize(
    ("size", "selector", "told"),
    [
        ("abc", "a=b", ".spec.size accessor error: abc is of the type string, expected int64"),
        (1.5, "a=b", ".spec.size accessor error: 1.5 is of the type float64, expected int64"),
        (True, "a=b", ".spec.size accessor error: True is of the type bool, expected int64"),
        ([1], "a=b", r".spec.size accessor error: \[1\] is of the type \[\]interface {}, expected int64"),
        (2**31, "a=b", ".spec.size accessor error: 2147483648 is out of range"),
        (2, 7, ".status.sel accessor error: 7 is of the type int64, expected string"),
        (2, {"matchLabels": 5}, ".status.sel accessor error: .* is of the type map.*, expected string"),
    ],
)
def test_a_custom_resource_with_something_else_than_a_scale(size: Any, selector: Any, told: str) -> None:
    made = obj("x.io/v1", "Foo", spec={"size": size}, status={"n": 1, "sel": selector})
    with pytest.raises(BadRequest, match=told):
        get_scale(made, ScalePaths(".spec.size", ".status.n", ".status.sel"))


def test_binding() -> None:
    made = pod()
    made["status"] = {"nominatedNodeName": "n0"}
    binding = {"metadata": {"name": "x"}, "target": {"kind": "Node", "name": "n1"}}
    bind(made, binding, now=NOW)
    assert made["spec"]["nodeName"] == "n1" and "nominatedNodeName" not in made["status"]
    assert meta.condition_is(made, "PodScheduled")
    with pytest.raises(Conflict, match='pod x is already assigned to node "n1"'):
        bind(made, binding, now=NOW)


@pytest.mark.parametrize(
    ("target", "findings"),
    [
        ({"name": "n"}, []),
        ({"name": "n", "kind": ""}, []),
        ({"kind": "Node"}, ["target.name: Required value"]),
        (
            {"kind": "Pod"},
            [
                'target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"',
                "target.name: Required value",
            ],
        ),
        (
            {"kind": "Pod", "name": "_"},
            ['target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"'],
        ),
        ({"name": "a_b"}, ['target.name: Invalid value: "a_b": a lowercase RFC 1123 subdomain must consist of']),
    ],
)
def test_pods_are_bound_to_nodes_by_name(target: dict[str, str], findings: list[str]) -> None:
    if not findings:
        bind(pod(), {"target": target}, now=NOW)
        return
    with pytest.raises(Invalid) as refused:
        bind(pod(), {"target": target}, now=NOW)
    assert len(refused.value.status["details"]["causes"]) == len(findings)
    assert all(finding in str(refused.value) for finding in findings)


@pytest.mark.parametrize(
    "made",
    [pod(metadata={"deletionTimestamp": "t"}), pod(spec={"schedulingGates": [{"name": "g"}]})],
    ids=["deleted", "gated"],
)
def test_some_pods_are_not_bound(made: dict[str, Any]) -> None:
    with pytest.raises(Conflict):
        bind(made, {"target": {"name": "n1"}}, now=NOW)


# --- metadata -------------------------------------------------------------------------------------


def test_conditions_keep_their_time_until_the_status_changes() -> None:
    conditions: list[dict[str, Any]] = []
    assert meta.set_condition(conditions, {"type": "Ready", "status": "False"}, NOW)
    assert not meta.set_condition(conditions, {"type": "Ready", "status": "False"}, LATER)
    assert meta.set_condition(conditions, {"type": "Ready", "status": "False", "reason": "r"}, LATER)
    assert conditions[0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert meta.set_condition(conditions, {"type": "Ready", "status": "True"}, LATER)
    assert conditions[0]["lastTransitionTime"] == "2026-01-01T00:00:10Z"


def test_times_read_back() -> None:
    assert meta.parse_time(meta.format_time(NOW)) == NOW
    exact = NOW + timedelta(microseconds=1)
    assert meta.parse_time(meta.format_micro_time(exact)) == exact
    with pytest.raises(ValueError, match="has no zone"):
        meta.parse_time("2026-01-01T00:00:00")


def test_owners() -> None:
    owner = obj("apps/v1", "ReplicaSet")
    ref = meta.owner_reference(owner)
    made = pod(metadata={"ownerReferences": [{"uid": "o"}, ref]})
    assert meta.controller_of(made) == ref
    assert meta.is_controlled_by(made, owner)
    assert meta.key(made) == "ns/x" and meta.split_key("ns/x") == ("ns", "x")
