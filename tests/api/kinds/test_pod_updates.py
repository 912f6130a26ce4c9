"""Changes of pods that are there: by clients, by those who debug, by those who resize."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api.kinds.pod_template.updates import (
    UPDATE_TEXT,
    resized_spec,
    validate_ephemeral_update,
    validate_pod_update,
    validate_resize,
)
from tests.api.kinds.changes import GONE, Changes, created, updated, with_changes

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "spec": {
        "containers": [{"name": "c", "image": "nginx"}, {"name": "d", "image": "nginx"}],
        "initContainers": [{"name": "i", "image": "nginx"}],
    },
}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
DEADLINE, GRACE = "spec.activeDeadlineSeconds", "spec.terminationGracePeriodSeconds"
TOLERATES = {"key": "a", "operator": "Exists", "effect": "NoExecute"}
MODIFIED = ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]


def unchangeable(*fields: str) -> list[str]:
    listed = "".join(f"\n  spec.{field}" for field in fields)
    return [f"spec: Forbidden: {UPDATE_TEXT}{listed}"]


FREE: list[tuple[Changes, Changes, list[str]]] = [
    ({}, {}, []),
    ({}, {"metadata.labels": {"a": "b"}, "metadata.annotations": {"a": "b"}}, []),
    ({}, {"spec.containers.0.image": "x:2"}, []),
    ({}, {"spec.initContainers.0.image": "x:2"}, []),
    ({}, {"spec.containers.0.image": ""}, ["spec.containers[0].image: Required value"] * 2),
    ({}, {"spec.initContainers.0.image": ""}, ["spec.initContainers[0].image: Required value"] * 2),
    ({}, {"spec.containers.1.image": " x"}, [
        'spec.containers[1].image: Invalid value: " x": must not have leading or trailing whitespace'] * 2),
    ({}, {"spec.containers.2": {"name": "e", "image": "x"}}, [
        "spec.containers: Forbidden: pod updates may not add or remove containers"]),
    ({}, {"spec.containers.1": GONE}, ["spec.containers: Forbidden: pod updates may not add or remove containers"]),
    ({}, {"spec.initContainers": GONE}, [
        "spec.initContainers: Forbidden: pod updates may not add or remove containers"]),
    ({}, {"spec.initContainers.1": {"name": "e", "image": "x"}}, [
        "spec.initContainers: Forbidden: pod updates may not add or remove containers"]),
    # Deadlines come nearer.
    ({}, {DEADLINE: 5}, []),
    ({}, {DEADLINE: 0}, [f"{DEADLINE}: Invalid value: 0: must be between 1 and 2147483647, inclusive"]),
    ({DEADLINE: 5}, {DEADLINE: 5}, []),
    ({DEADLINE: 5}, {DEADLINE: 4}, []),
    ({DEADLINE: 5}, {DEADLINE: 6}, [f"{DEADLINE}: Invalid value: 6: must be less than or equal to previous value"]),
    ({DEADLINE: 5}, {DEADLINE: GONE}, [
        f"{DEADLINE}: Invalid value: null: must not update from a positive integer to nil value"]),
    ({}, {DEADLINE: -1}, [
        f"{DEADLINE}: Invalid value: -1: must be between 1 and 2147483647, inclusive",
        f"{DEADLINE}: Invalid value: -1: must be between 0 and 2147483647, inclusive"]),
    # Tolerations are added.
    ({}, {"spec.tolerations": [TOLERATES]}, []),
    ({"spec.tolerations": [TOLERATES]}, {"spec.tolerations.1": {"key": "b", "operator": "Exists"}}, []),
    ({"spec.tolerations": [TOLERATES]}, {"spec.tolerations": [{"key": "b", "operator": "Exists"}, TOLERATES]}, []),
    ({"spec.tolerations": [TOLERATES]}, {"spec.tolerations.0.tolerationSeconds": 5}, []),
    ({"spec.tolerations": [TOLERATES]}, {"spec.tolerations": []}, MODIFIED),
    ({"spec.tolerations": [TOLERATES]}, {"spec.tolerations.0.key": "b"}, MODIFIED),
    ({}, {"spec.tolerations": [{"operator": "Equal"}]}, [
        'spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which '
        'means "match all values and all keys"']),
    # Gates are taken away.
    ({"spec.schedulingGates": [{"name": "a"}, {"name": "b"}]}, {"spec.schedulingGates": [{"name": "b"}]}, []),
    ({"spec.schedulingGates": [{"name": "a"}, {"name": "b"}]}, {"spec.schedulingGates": []}, []),
    ({"spec.schedulingGates": [{"name": "a"}]}, {"spec.schedulingGates.1": {"name": "b"}}, [
        "spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'b'"]),
    ({}, {"spec.schedulingGates": [{"name": "b"}]}, [
        "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'b'"]),
    ({}, {"spec.terminationGracePeriodSeconds": 1}, unchangeable("terminationGracePeriodSeconds")),
]  # fmt: skip


@pytest.mark.parametrize(("before", "changes", "findings"), FREE)
def test_fields_that_may_change(before: Changes, changes: Changes, findings: list[str]) -> None:
    assert updated(POD, before, changes)[1] == findings


FIXED: list[tuple[Changes, Changes, list[str]]] = [
    ({}, {"spec.hostNetwork": True}, ["hostNetwork"]),
    ({}, {"spec.hostUsers": False}, ["hostUsers"]),
    ({}, {"spec.nodeName": "n"}, ["nodeName"]),
    ({}, {"spec.nodeSelector": {"a": "b"}}, ["nodeSelector"]),
    ({}, {"spec.affinity": {"podAffinity": {}}}, ["affinity"]),
    ({}, {"spec.restartPolicy": "Never"}, ["restartPolicy"]),
    ({}, {"spec.serviceAccountName": "s"}, ["serviceAccount", "serviceAccountName"]),
    ({}, {"spec.hostname": "h", "spec.subdomain": "s"}, ["hostname", "subdomain"]),
    ({}, {"spec.priority": 5}, ["priority"]),
    ({}, {"spec.priorityClassName": "p"}, ["priorityClassName"]),
    ({}, {"spec.schedulerName": "s"}, ["schedulerName"]),
    ({}, {"spec.preemptionPolicy": "Never"}, ["preemptionPolicy"]),
    ({}, {"spec.os": {"name": "linux"}}, ["os"]),
    ({}, {"spec.overhead": {"cpu": "1"}}, ["overhead"]),
    ({}, {"spec.enableServiceLinks": False}, ["enableServiceLinks"]),
    ({}, {"spec.shareProcessNamespace": True}, ["shareProcessNamespace"]),
    ({}, {"spec.hostAliases": [{"ip": "1.2.3.4"}]}, ["hostAliases"]),
    ({}, {"spec.imagePullSecrets": [{"name": "s"}]}, ["imagePullSecrets"]),
    ({}, {"spec.readinessGates": [{"conditionType": "a/b"}]}, ["readinessGates"]),
    ({}, {"spec.securityContext": {"runAsUser": 5}}, ["securityContext"]),
    ({}, {"spec.volumes": [{"name": "v", "emptyDir": {}}]}, ["volumes"]),
    ({}, {"spec.resources": {"requests": {"cpu": "1"}}}, ["resources"]),
    ({}, {"spec.ephemeralContainers": [{"name": "e", "image": "i"}]}, ["ephemeralContainers"]),
    ({}, {"spec.containers.0.resources": {"requests": {"cpu": "1"}}}, ["containers[0].resources"]),
    ({}, {"spec.containers.0.imagePullPolicy": "Never"}, ["containers[0].imagePullPolicy"]),
    ({}, {"spec.containers.1.env": [{"name": "a", "value": "b"}], "spec.containers.1.image": "x"},
        ["containers[1].env"]),
    ({}, {"spec.initContainers.0.command": ["a"], "spec.containers.0.args": ["a"]},
        ["containers[0].args", "initContainers[0].command"]),
    ({}, {"spec.containers.0.name": "z"}, ["containers[0].name"]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "changes", "fields"), FIXED)
def test_fields_that_may_not_change(before: Changes, changes: Changes, fields: list[str]) -> None:
    assert updated(POD, before, changes)[1] == unchangeable(*fields)


def on(*terms: dict[str, Any]) -> Changes:
    return {"spec.affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}


GATED: Changes = {"spec.schedulingGates": [{"name": "a"}]}
HAS_A, HAS_B = ({"key": key, "operator": "Exists"} for key in "ab")
TERMS = f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms"
PREFERS = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchFields": []}}]}
NARROWED: list[tuple[Changes, Changes, list[str]]] = [
    ({}, {"spec.nodeSelector": {"a": "b"}}, []),
    ({"spec.nodeSelector": {"a": "b"}}, {"spec.nodeSelector.c": "d"}, []),
    ({"spec.nodeSelector": {"a": "b"}}, {"spec.nodeSelector.a": "d"}, [
        'spec.nodeSelector: Invalid value: {"a":"d"}: only additions to spec.nodeSelector are allowed (no mutations '
        "or deletions)"]),
    ({"spec.nodeSelector": {"a": "b"}}, {"spec.nodeSelector": GONE}, [
        "spec.nodeSelector: Invalid value: {}: only additions to spec.nodeSelector are allowed (no mutations or "
        "deletions)"]),
    ({}, on({"matchExpressions": [HAS_A]}), []),
    (on({"matchExpressions": [HAS_A]}), on({"matchExpressions": [HAS_A, HAS_B]}), []),
    (on({"matchExpressions": [HAS_A]}), on({"matchExpressions": [HAS_A]}, {"matchExpressions": [HAS_B]}), [
        f'{TERMS}: Invalid value: [{{"matchExpressions":[{{"key":"a","operator":"Exists"}}]}},{{"matchExpressions":'
        f'[{{"key":"b","operator":"Exists"}}]}}]: no additions/deletions to non-empty NodeSelectorTerms list are '
        f"allowed"]),
    (on({"matchExpressions": [HAS_A]}), on({"matchExpressions": [HAS_B]}), [
        f'{TERMS}[0]: Invalid value: {{"matchExpressions":[{{"key":"b","operator":"Exists"}}]}}: only additions are '
        f"allowed (no mutations or deletions)"]),
    (on({"matchExpressions": [HAS_A]}), on({"matchExpressions": [HAS_B, HAS_A]}), [
        f'{TERMS}[0]: Invalid value: {{"matchExpressions":[{{"key":"b","operator":"Exists"}},{{"key":"a","operator":'
        f'"Exists"}}]}}: only additions are allowed (no mutations or deletions)']),
    (on({}), on({"matchExpressions": [HAS_B]}), [
        f'{TERMS}[0]: Invalid value: {{"matchExpressions":[{{"key":"b","operator":"Exists"}}]}}: only additions are '
        f"allowed (no mutations or deletions)"]),
    ({}, {"spec.affinity": {"nodeAffinity": PREFERS}}, []),
    ({"spec.affinity": {"nodeAffinity": PREFERS}}, {"spec.affinity": {"nodeAffinity": {}}}, []),
    ({}, {"spec.affinity": {"podAffinity": {}}}, unchangeable("affinity.podAffinity")),
    ({}, {"spec.nodeName": "n"}, unchangeable("nodeName")),
]  # fmt: skip


@pytest.mark.parametrize(("before", "changes", "findings"), NARROWED)
def test_gated_pods_may_be_narrowed_down(before: Changes, changes: Changes, findings: list[str]) -> None:
    assert updated(POD, GATED | before, changes)[1] == findings


MIRROR, COST = "kubernetes.io/config.mirror", "controller.kubernetes.io/pod-deletion-cost"
OF_NODE = {"metadata.annotations": {MIRROR: "x"}, "spec.nodeName": "n"}
ANNOTATED: list[tuple[Changes, Changes, list[str]]] = [
    ({}, {"metadata.annotations": {MIRROR: "x"}}, [
        f"metadata.annotations[{MIRROR}]: Forbidden: may not add mirror pod annotation",
        f'metadata.annotations[{MIRROR}]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set']),
    (OF_NODE, {"metadata.annotations": {MIRROR: "y"}}, [
        f"metadata.annotations[{MIRROR}]: Forbidden: may not remove or update mirror pod annotation"]),
    (OF_NODE, {"metadata.annotations": {}}, [
        f"metadata.annotations[{MIRROR}]: Forbidden: may not remove or update mirror pod annotation"]),
    ({}, {"metadata.annotations": {COST: "5"}}, []),
    ({}, {"metadata.annotations": {COST: "x"}}, [
        f'metadata.annotations[{COST}]: Invalid value: "x": must be a 32bit integer']),
]  # fmt: skip


@pytest.mark.parametrize(("before", "changes", "findings"), ANNOTATED)
def test_annotations_that_are_read(before: Changes, changes: Changes, findings: list[str]) -> None:
    assert updated(POD, before, changes)[1] == findings


def test_who_does_not_know_resources_of_the_whole_leaves_them() -> None:
    whole = {"requests": {"cpu": "1"}}
    pod, found = updated(POD, {"spec.resources": whole}, {"spec.resources": GONE})
    assert (pod["spec"]["resources"], found) == (whole, [])


AGED: list[tuple[Changes, Changes, list[str]]] = [
    ({GRACE: -1}, {GRACE: 1}, []),
    ({GRACE: -1}, {GRACE: 2}, unchangeable("terminationGracePeriodSeconds")),
    ({GRACE: -1}, {"spec.containers.0.image": "x"}, []),
    ({"spec.hostname": "_"}, {"spec.containers.0.image": "x"}, []),
    ({"spec.hostname": "_"}, {"spec.activeDeadlineSeconds": 0}, [
        f"{DEADLINE}: Invalid value: 0: must be between 1 and 2147483647, inclusive"]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "changes", "findings"), AGED)
def test_what_was_wrong_before_a_rule_came_holds_up_no_change(
    before: Changes, changes: Changes, findings: list[str]
) -> None:
    old = with_changes(created(POD, {})[0], before)
    assert [str(error) for error in validate_pod_update(with_changes(old, changes), old)] == findings


def test_a_gated_pod_says_since_when() -> None:
    made, findings = created(POD, {**GATED, "metadata.creationTimestamp": "2026-01-01T00:00:00Z"})
    (condition,) = made["status"]["conditions"]
    assert (findings, condition["reason"]) == ([], "SchedulingGated")
    assert condition["lastTransitionTime"] == "2026-01-01T00:00:00Z"


# --- ephemeral containers -----------------------------------------------------------------------

DEBUGGER = {"name": "e", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}
EC = "spec.ephemeralContainers"
DEBUGGED: list[tuple[Changes, Changes, list[str]]] = [
    ({}, {EC: [DEBUGGER]}, []),
    ({EC: [DEBUGGER]}, {}, []),
    ({EC: [DEBUGGER]}, {f"{EC}.1": {**DEBUGGER, "name": "f"}}, []),
    ({EC: [DEBUGGER]}, {EC: [{**DEBUGGER, "name": "f"}, DEBUGGER]}, []),
    ({EC: [DEBUGGER]}, {EC: GONE}, [f'{EC}: Forbidden: existing ephemeral containers "e" may not be removed\n']),
    ({EC: [DEBUGGER]}, {f"{EC}.0.image": "j", f"{EC}.0.tty": True}, [
        f'{EC}: Forbidden: existing ephemeral containers "e" may not be changed\n  image\n  tty']),
    ({}, {EC: [{**DEBUGGER, "name": "c"}]}, [f'{EC}[0].name: Duplicate value: "c"']),
    ({}, {EC: [{**DEBUGGER, "targetContainerName": "z"}]}, [f'{EC}[0].targetContainerName: Not found: "z"']),
    ({}, {EC: [{**DEBUGGER, "targetContainerName": "d"}]}, []),
    ({}, {EC: [{**DEBUGGER, "ports": [{"containerPort": 1, "protocol": "TCP"}]}]}, [
        f"{EC}[0].ports: Forbidden: cannot be set for an Ephemeral Container"]),
    (OF_NODE, {EC: [DEBUGGER]}, [
        ": Forbidden: static pods do not support ephemeral containers"]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "changes", "findings"), DEBUGGED)
def test_ephemeral_containers_are_added_and_stay(before: Changes, changes: Changes, findings: list[str]) -> None:
    old = with_changes(created(POD, {})[0], before)
    assert [str(error) for error in validate_ephemeral_update(with_changes(old, changes), old)] == findings


# --- resize -------------------------------------------------------------------------------------


def has(cpu: str = "1", memory: str = "1Gi", **more: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory, **more}, "limits": {"cpu": "4", "memory": "4Gi", **more}}


C, R = "spec.containers.0", "spec.containers.0.resources"
SIDECAR = {"spec.initContainers.0.restartPolicy": "Always"}
RESTART = {"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}
SIZED: list[tuple[Changes, Changes, list[str]]] = [
    ({R: has()}, {R: has("2")}, []),
    ({R: has()}, {R: has("2", "2Gi")}, []),
    ({R: has()}, {R: has("5")}, ['spec.containers[0].resources.requests: Invalid value: "5": must be less than or '
        "equal to cpu limit of 4"]),
    ({R: has()}, {f"{R}.requests": {"cpu": "1"}}, [
        "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]),
    ({R: has()}, {f"{R}.limits": GONE}, [
        "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]),
    ({}, {R: has()}, ['spec: Invalid value: "BestEffort": Pod QOS Class may not change as a result of resizing']),
    ({R: {"requests": {"cpu": "1"}}}, {f"{R}.requests.memory": "1Gi"}, []),
    ({R: {"requests": {"cpu": "1"}}}, {f"{R}.limits": {"cpu": "2"}}, []),
    ({R: has()}, {f"{R}.requests": {"cpu": "4", "memory": "4Gi"}}, []),
    ({R: has()}, {R: has(**{"ephemeral-storage": "1Gi"})}, ["spec: Forbidden: only cpu and memory resources are "
        "mutable"]),
    ({R: has()}, {f"{C}.name": "z"}, ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered "
        "on resize"]),
    ({R: has()}, {"spec.containers.2": {**DEBUGGER, "name": "z"}}, [
        "spec.containers: Forbidden: containers may not be added or removed on resize"]),
    ({R: has()}, {"spec.initContainers": GONE}, [
        "spec.initContainers: Forbidden: initContainers may not be added or removed on resize"]),
    ({R: has(), **SIDECAR}, {"spec.initContainers.0.resources": has()}, []),
    ({R: has()}, {"spec.initContainers.0.resources": has()}, []),
    ({R: has()}, {"spec.initContainers.0.resources": has(**{"ephemeral-storage": "1Gi"})}, [
        "spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable"]),
    ({R: has(), **OF_NODE}, {R: has("2")}, [
        ": Forbidden: static pods cannot be resized"]),
    ({R: has(), "spec.os": {"name": "windows"}}, {R: has("2")}, [": Forbidden: windows pods cannot be resized"]),
    ({"spec.resources": has()}, {"spec.resources": has("2")}, []),
    ({"spec.resources": has()}, {"spec.resources": {"limits": has()["limits"]}}, [
        "spec.resources.requests: Forbidden: pod-level resource requests cannot be removed"]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "changes", "findings"), SIZED)
def test_amounts_are_resized(before: Changes, changes: Changes, findings: list[str]) -> None:
    old, found = created(POD, before)
    assert found == []
    new = with_changes(old, changes)
    new = {**old, "spec": resized_spec(new["spec"], old["spec"])}
    assert [str(error) for error in validate_resize(new, old)] == findings


def test_what_runs_once_is_not_restarted_for_a_resize() -> None:
    old = with_changes(created(POD, {R: has()})[0], {"spec.initContainers.0.resizePolicy": RESTART["resizePolicy"]})
    new = with_changes(old, {"spec.initContainers.0.resources": has()})
    assert [str(error) for error in validate_resize(new, old)] == [
        "spec.initContainers[0]: Forbidden: non-sidecar init containers with a resize policy of RestartContainer "
        "cannot be resized"
    ]


def test_a_resize_takes_no_more_than_resources() -> None:
    old, _ = created(POD, {R: has()})
    wanted = with_changes(old, {R: has("2"), f"{C}.image": "other", "spec.nodeName": "n", C: RESTART | {
        "name": "c", "image": "x", "resources": has("2")}})  # fmt: skip
    made = resized_spec(wanted["spec"], old["spec"])
    assert made == with_changes(old, {R: has("2"), f"{C}.resizePolicy": RESTART["resizePolicy"]})["spec"]
