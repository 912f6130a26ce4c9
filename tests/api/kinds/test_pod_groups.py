"""Workloads and pod groups: what is filled in, refused, kept from change, and shown."""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.registry import rules_of
from rayplane.control_plane.api.kinds.strategy import prepare_for_create, prepare_for_update
from rayplane.control_plane.api.kinds.validation import validate_create, validate_status_update, validate_update
from rayplane.control_plane.api.machinery.decoding import decode_object
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.machinery.tables import to_table

Body = dict[str, Any]
VERSION = "scheduling.k8s.io/v1beta1"
CREATED = "2026-01-01T00:00:00Z"
GANG: Body = {"schedulingPolicy": {"gang": {"minCount": 3}}}
BASIC: Body = {"schedulingPolicy": {"basic": {}}}
WORKLOAD: Body = {
    "controllerRef": {"apiGroup": "batch", "kind": "Job", "name": "train"},
    "podGroupTemplates": [{"name": "workers", **GANG}, {"name": "driver", **BASIC}],
}


def info_of(kind: str) -> ResourceInfo:
    info = builtin_registry().by_kind(VERSION, kind)
    assert info is not None
    return info


def made(kind: str, spec: Body) -> Body:
    """An object as it would be stored."""
    metadata = {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": CREATED}
    obj = {"apiVersion": VERSION, "kind": kind, "metadata": metadata, "spec": deepcopy(spec)}
    default(obj)
    prepare_for_create(obj, info_of(kind))
    return obj


def wrong(kind: str, spec: Body) -> list[str]:
    return [str(error) for error in validate_create(made(kind, spec), info_of(kind))]


def change(kind: str, before: Body, after: Body) -> list[str]:
    old, new = made(kind, before), made(kind, after)
    prepare_for_update(new, old, info_of(kind))
    return [str(error) for error in validate_update(new, old, info_of(kind))]


def test_a_new_group_is_protected_and_disrupted_pod_by_pod() -> None:
    group = made("PodGroup", GANG)
    assert group["metadata"]["finalizers"] == ["scheduling.k8s.io/podgroup-protection"]
    assert group["spec"]["disruptionMode"] == {"single": {}}
    assert (group["metadata"]["generation"], group["status"]) == (1, {})


UNION = "must specify one of: `basic`, `gang`"
BOTH = "exactly one of `basic`, `gang` is required, but multiple fields are set"
TOGETHER = "the disruptionMode `all` is not supported with the Basic scheduling policy"
TOO_HIGH = "must be less than or equal to 1000000000"


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (GANG, []),
        (BASIC, []),
        ({**GANG, "disruptionMode": {"all": {}}, "priorityClassName": "high", "priority": 10**9}, []),
        ({**GANG, "workloadRef": {"workloadName": "train.1", "templateName": "workers"}}, []),
        ({"schedulingPolicy": {}}, [f'spec.schedulingPolicy: Invalid value: "": {UNION}']),
        ({"schedulingPolicy": {**GANG["schedulingPolicy"], "basic": {}}}, [
            f'spec.schedulingPolicy: Invalid value: "{{`basic`, `gang`}}": {BOTH}']),
        ({"schedulingPolicy": {"gang": {}}}, ["spec.schedulingPolicy.gang.minCount: Required value"]),
        ({"schedulingPolicy": {"gang": {"minCount": -1}}}, [
            "spec.schedulingPolicy.gang.minCount: Invalid value: -1: must be greater than or equal to 1"]),
        ({**BASIC, "disruptionMode": {"all": {}}}, [f'spec.disruptionMode.all: Invalid value: "": {TOGETHER}']),
        ({**GANG, "disruptionMode": {}}, [
            'spec.disruptionMode: Invalid value: "": must specify one of: `single`, `all`']),
        ({**GANG, "priority": 10**9 + 1}, [f"spec.priority: Invalid value: 1000000001: {TOO_HIGH}"]),
        ({**GANG, "workloadRef": {"workloadName": "w"}}, ["spec.workloadRef.templateName: Required value"]),
    ],
)  # fmt: skip
def test_groups_that_are_refused(spec: Body, found: list[str]) -> None:
    assert wrong("PodGroup", spec) == found


@pytest.mark.parametrize(
    ("after", "found"),
    [
        ({"schedulingPolicy": {"gang": {"minCount": 1}}}, []),
        (BASIC, [
            "spec.schedulingPolicy.basic: Invalid value: {}: field is immutable",
            "spec.schedulingPolicy.gang: Invalid value: null: field cannot be cleared once set"]),
        ({**GANG, "priority": 5}, ["spec.priority: Invalid value: 5: field is immutable"]),
        ({**GANG, "disruptionMode": {"all": {}}}, [
            'spec.disruptionMode: Invalid value: {"all":{}}: field is immutable']),
    ],
)  # fmt: skip
def test_of_a_group_only_the_count_changes(after: Body, found: list[str]) -> None:
    assert change("PodGroup", GANG, after) == found


def test_workloads_that_are_refused() -> None:
    assert wrong("Workload", WORKLOAD) == []
    assert wrong("Workload", {}) == ["spec.podGroupTemplates: Required value: must have at least one item"]
    nine = [{"name": f"g{n}", **BASIC} for n in range(9)]
    assert wrong("Workload", {"podGroupTemplates": nine}) == [
        "spec.podGroupTemplates: Too many: 9: must have at most 8 items"
    ]
    twice = [{"name": "g", **BASIC}, {"name": "g", **GANG}]
    assert wrong("Workload", {"podGroupTemplates": twice}) == ['spec.podGroupTemplates[1]: Duplicate value: "g"']
    assert wrong("Workload", {"controllerRef": {"kind": "Job"}, "podGroupTemplates": [{"name": "g", **GANG}]}) == [
        "spec.controllerRef.name: Required value"
    ]


def test_templates_stay_but_for_their_counts() -> None:
    fewer: Body = deepcopy(WORKLOAD)
    fewer["podGroupTemplates"][0]["schedulingPolicy"]["gang"]["minCount"] = 1
    assert change("Workload", WORKLOAD, fewer) == []
    gone = {**WORKLOAD, "podGroupTemplates": WORKLOAD["podGroupTemplates"][:1]}
    assert change("Workload", WORKLOAD, gone) == [
        'spec.podGroupTemplates: Invalid value: "driver": item cannot be removed once created'
    ]
    assert change("Workload", gone, WORKLOAD) == [
        'spec.podGroupTemplates[1]: Invalid value: "driver": item cannot be added once created'
    ]
    assert change("Workload", WORKLOAD, {**WORKLOAD, "controllerRef": None}) == [
        "spec.controllerRef: Invalid value: null: field is immutable"
    ]


def test_a_condition_has_a_reason() -> None:
    old = made("PodGroup", GANG)
    bad = {"type": "PodGroupInitiallyScheduled", "status": "False", "lastTransitionTime": CREATED}
    new = {**old, "status": {"conditions": [bad]}}
    found = validate_status_update(new, old, info_of("PodGroup"))
    assert [str(one) for one in found] == ["status.conditions[0].reason: Required value"]


def test_fields_of_closed_gates_are_dropped() -> None:
    spec = {**GANG, "schedulingConstraints": {"topology": [{"key": "rack"}]}, "parentCompositePodGroupName": "p",
            "resourceClaims": [{"name": "c", "resourceClaimName": "d"}], "preemptionPolicy": "Never"}  # fmt: skip
    body = orjson.dumps({"metadata": {"name": "a"}, "spec": spec})
    definition = definition_of(VERSION, "PodGroup")
    found = decode_object(body, api_version=VERSION, kind="PodGroup", definition=definition)
    assert found.object["spec"] == GANG


def test_columns() -> None:
    now = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)

    def row(kind: str, obj: Body) -> list[Any]:
        cells: list[Any] = to_table(rules_of("scheduling.k8s.io", kind).printer, [obj], now=now)["rows"][0]["cells"]
        return cells

    group = made("PodGroup", {**GANG, "workloadRef": {"workloadName": "train", "templateName": "workers"}})
    assert row("PodGroup", group) == ["a", "Gang/3", "train", "<unknown>", "5s"]
    group["status"] = {"conditions": [{"type": "PodGroupInitiallyScheduled", "status": "True"}]}
    assert row("PodGroup", group)[3] == "True"
    assert row("PodGroup", made("PodGroup", BASIC))[1:3] == ["Basic", "<none>"]
    assert row("Workload", made("Workload", WORKLOAD)) == ["a", "workers,driver", "5s"]
