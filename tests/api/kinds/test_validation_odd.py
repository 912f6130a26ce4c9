"""Values that nobody should be able to store: each was once taken, and broke who read it later."""

from typing import Any

import pytest

from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import definition
from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.validation import validate_create, validate_update
from rayplane.control_plane.api.machinery import conversion, names
from rayplane.control_plane.api.machinery.apply import track_update
from rayplane.control_plane.api.machinery.jsonpath import find
from rayplane.control_plane.api.machinery.managed_fields import UPDATERS_MAX
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object

REGISTRY = builtin_registry()


def problems(resource: str, **fields: Any) -> list[str]:
    info = REGISTRY.by_name(resource)
    metadata = {"name": "x", **({"namespace": "n"} if info.namespaced else {}), **fields.pop("metadata", {})}
    o = {"apiVersion": info.api_version, "kind": info.kind, "metadata": metadata, **fields}
    default(o)
    return [str(e) for e in validate_create(o, info)]


@pytest.mark.parametrize(
    "block", ["0.0000001", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "fe80::1%eth0/64", "a/8"]
)
def test_a_node_keeps_no_odd_block(block: str) -> None:
    text = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    assert problems("nodes", spec={"podCIDR": block}) == [f'spec.podCIDRs[0]: Invalid value: "{block}": {text}']


def test_a_nodes_blocks_are_one_of_each_family_and_said_in_both_fields() -> None:
    node: Object = {"apiVersion": "v1", "kind": "Node", "spec": {"podCIDR": "10.0.0.0/24"}}
    default(node)
    assert node["spec"]["podCIDRs"] == ["10.0.0.0/24"]
    node["spec"] = {"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}
    default(node)
    assert node["spec"]["podCIDR"] == "10.0.0.0/24"
    assert problems("nodes", spec={"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}) == []
    assert "no more than one CIDR for each IP family" in problems("nodes", spec={"podCIDRs": ["10.0.0.0/24"] * 2})[0]


@pytest.mark.parametrize(
    ("own", "about", "text"),
    [
        ("a", {"namespace": "b"}, 'involvedObject.namespace: Invalid value: "b": does not match event.namespace'),
        ("kube-system", {}, 'involvedObject.namespace: Invalid value: "": does not match event.namespace'),
        ("default", {}, ""),
        ("a", {"namespace": "a"}, ""),
        ("default", {"apiVersion": "v1", "kind": "Node"}, ""),
        ("default", {"apiVersion": "v1", "kind": "Pod"}, ""),
        ("default", {"apiVersion": "v1", "kind": "Node", "namespace": "default"}, ""),
    ],
)
def test_events_live_where_they_tell_of(own: str, about: dict[str, str], text: str) -> None:
    assert problems("events", metadata={"namespace": own}, involvedObject=about) == ([text] if text else [])


NEWER = {"eventTime": "2026-01-01T00:00:00.000000Z", "reportingComponent": "a.io/b"}
NEWER |= {"reportingInstance": "i", "action": "A", "reason": "R"}


@pytest.mark.parametrize(
    ("own", "fields", "found"),
    [
        ("default", {}, []),
        ("kube-system", {}, []),
        ("a", {"involvedObject": {"namespace": "b"}}, []),
        ("a", {}, ['involvedObject.namespace: Invalid value: "": does not match event.namespace']),
        ("default", {"reportingInstance": "", "action": "", "reason": ""},
         ["reportingInstance: Required value", "action: Required value", "reason: Required value"]),
        ("default", {"reportingInstance": "a" * 129, "action": "a" * 129, "reason": "a" * 129, "message": "a" * 1025},
         [f'{field}: Invalid value: "": can have at most {most} characters'
          for field, most in (("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024))]),
    ],
)  # fmt: skip
def test_newer_events_say_who_tells_them(own: str, fields: dict[str, Any], found: list[str]) -> None:
    assert problems("events", metadata={"namespace": own}, **{**NEWER, **fields}) == found


STRICT = {**NEWER, "type": "Normal", "metadata": {"namespace": "default", "name": "e"}}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, []),
        ({"series": {"count": 2, "lastObservedTime": NEWER["eventTime"]}}, []),
        ({"type": "Odd"}, ['type: Invalid value: "": has invalid value: Odd']),
        ({"eventTime": None}, ["eventTime: Required value"]),
        ({"series": {"count": 1}},
         ['series.count: Invalid value: "": should be at least 2', "series.lastObservedTime: Required value"]),
        ({"firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1,
          "source": {"component": "c"}},
         [f'{field}: Invalid value: "": needs to be unset'
          for field in ("firstTimestamp", "lastTimestamp", "count", "source")]),
    ],
)  # fmt: skip
def test_events_of_the_newer_group_are_held_to_more(fields: dict[str, Any], found: list[str]) -> None:
    info, asked = REGISTRY.by_name("events"), REGISTRY.by_name("events.events.k8s.io")
    event = {**STRICT, **fields}
    assert [str(error) for error in validate_create(event, info, asked)] == found
    assert [str(error) for error in validate_create(event, info, info)] == []


def test_of_an_event_of_the_newer_group_only_the_series_changes() -> None:
    info, asked = REGISTRY.by_name("events"), REGISTRY.by_name("events.events.k8s.io")
    goes_on = {**STRICT, "series": {"count": 2, "lastObservedTime": NEWER["eventTime"]}}
    assert validate_update(goes_on, STRICT, info, asked) == []
    other = {**STRICT, "message": "m", "reportingComponent": "c", "series": {"count": 1}}
    assert [error.field for error in validate_update(other, STRICT, info, asked)] == [
        "series.count", "series.lastObservedTime", "message", "reportingController",
    ]  # fmt: skip
    assert validate_update(other, STRICT, info, info) == []


SLASHED = ("a/b", "..", ".", "a%2Fb", "/")


@pytest.mark.parametrize("name", SLASHED)
@pytest.mark.parametrize("info", REGISTRY.stored(), ids=lambda info: info.name)
def test_no_kind_has_names_that_are_no_part_of_a_path(info: Any, name: str) -> None:
    space = {"namespace": "n"} if info.namespaced else {}
    for metadata in ({"name": name}, {"generateName": name, "name": f"{name}xyz"}):
        o = {"apiVersion": info.api_version, "kind": info.kind, "metadata": {**metadata, **space}, "spec": {}}
        found = [e.field for e in validate_create(o, info)]
        assert f"metadata.{next(iter(metadata))}" in found


def test_owners_are_objects_that_can_be_asked_for() -> None:
    def owner(**changes: Any) -> list[str]:
        one = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", **changes}
        return problems("configmaps", metadata={"ownerReferences": [one]})

    assert owner() == []
    assert "may not contain '/'" in owner(name="../secrets/x")[0]
    assert "version must not be empty" in owner(apiVersion="a/b/c")[0]
    assert "version must not be empty" in owner(apiVersion="apps/")[0]
    assert owner(apiVersion="v1", kind="Event")[0].endswith("/v1, Kind=Event is disallowed from being an owner")


def crd(**version: Any) -> Object:
    return {"spec": {"names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", **version}]}}


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ({"type": "float"}, 'type: Invalid value: "float": must be one of boolean,date,integer,number,string'),
        ({"type": ""}, "type: Required value: must be one of boolean,date,integer,number,string"),
        ({"name": ""}, "name: Required value"),
        ({"jsonPath": ""}, "spec.additionalPrinterColumns[0].JSONPath: Required value"),
        ({"jsonPath": "spec.x"}, "must be a simple json path starting with ."),
        ({"format": "hex"}, "format: Invalid value"),
        ({"jsonPath": '.status.conditions[?(@.type=="Ready")].status'}, ""),
        ({"jsonPath": ".status.conditions[-1:].type"}, ""),
        ({"jsonPath": ".spec..name"}, ""),  # what is not understood shows nothing
    ],
)
def test_printer_columns_are_ones_that_can_be_printed(column: dict[str, str], text: str) -> None:
    whole = {"name": "X", "type": "string", "jsonPath": ".spec.x", **column}
    found = [str(e) for e in definition(crd(additionalPrinterColumns=[whole]))]
    assert (len(found), text in "".join(found)) == ((1, True) if text else (0, True))


def test_a_definition_keeps_no_odd_names_versions_or_paths() -> None:
    odd = crd(
        subresources={"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": ""}},
    )
    odd["spec"]["names"].update(shortNames=["a/b"], singular="Th/ing", listKind="Thing")
    odd["spec"]["versions"].append({"name": "v1"})
    assert {e.field for e in definition(odd)} == {
        "spec.names.shortNames[0]",
        "spec.names.singular",
        "spec.names.listKind",
        "spec.versions[0].subresources.scale.specReplicasPath",
        "spec.versions[0].subresources.scale.statusReplicasPath",
        "spec.versions",
    }


def test_slices_of_a_path() -> None:
    value = {"a": [{"b": 1}, {"b": 2}, {"b": 3}]}
    assert find(value, ".a[-1:].b") == [3]
    assert find(value, ".a[0:2].b") == [1, 2]
    assert find({"a": 5}, ".a[:1]") == []


@pytest.mark.parametrize("text", ["5", "[5]", '"x"', "{}", "[", "null"])
def test_what_a_user_wrote_into_an_autoscalers_annotations_breaks_no_reader(text: str) -> None:
    info = REGISTRY.lookup("autoscaling", "v2", "horizontalpodautoscalers")
    assert info is not None
    notes = {
        f"autoscaling.alpha.kubernetes.io/{k}": text for k in ("metrics", "behavior", "current-metrics", "conditions")
    }
    kind = {"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler"}
    stored: dict[str, Any] = {**kind, "metadata": {"annotations": notes}}
    stored |= {"spec": {"maxReplicas": 1, "targetCPUUtilizationPercentage": 5}, "status": {}}
    shown = conversion.to_served(stored, info) if info.stored_api_version != info.api_version else stored
    assert shown["spec"]["maxReplicas"] == 1


def test_masks_and_zones_are_not_addresses() -> None:
    assert not names.is_ip("fe80::1%eth0")
    assert not names.is_cidr("10.0.0.0/8/8")
    assert names.is_cidr("2001:db8::/64")


def test_managers_that_only_updated_are_bounded() -> None:
    live: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    for number in range(50):
        new = {**live, "metadata": dict(live["metadata"]), "data": {**live.get("data", {}), f"k{number}": "v"}}
        stamp = f"2026-01-01T00:00:{number:02}Z"
        track_update(live if number else None, new, None, manager=f"client-{number}", time=stamp)
        live = new
    entries = live["metadata"]["managedFields"]
    assert len(entries) == UPDATERS_MAX
    ancient = next(e for e in entries if e["manager"] == "ancient-changes")
    assert len(ancient["fieldsV1"]["f:data"].keys() - {"."}) == 50 - (UPDATERS_MAX - 1)
