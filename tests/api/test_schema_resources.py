"""The registry of resources and the compiled schema: names, places in etcd, merge keys."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery.conversion import to_served, to_stored
from rayplane.control_plane.api.machinery.resources import (
    Registry,
    ResourceInfo,
    UnknownResource,
    builtin_registry,
    version_priority,
)
from rayplane.control_plane.api.machinery.schema import (
    MAP,
    STRUCT,
    definition,
    definition_of,
    from_openapi,
    raw_definitions,
)
from tests.api.schema_samples import custom

REGISTRY = builtin_registry()
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("pods", "/registry/pods/ns/x"),
        ("nodes", "/registry/minions/x"),
        ("services", "/registry/services/specs/ns/x"),
        ("endpoints", "/registry/services/endpoints/ns/x"),
        ("replicationcontrollers", "/registry/controllers/ns/x"),
        ("ingresses.networking.k8s.io", "/registry/ingress/ns/x"),
        ("deployments.apps", "/registry/deployments/ns/x"),
        ("leases.coordination.k8s.io", "/registry/leases/ns/x"),
        ("clusterroles.rbac.authorization.k8s.io", "/registry/clusterroles/x"),
        (
            "customresourcedefinitions.apiextensions.k8s.io",
            "/registry/apiextensions.k8s.io/customresourcedefinitions/x",
        ),
    ],
)
def test_objects_are_stored_where_kubernetes_stores_them(name: str, key: str) -> None:
    info = REGISTRY.by_name(name)
    assert info.key("ns", "x") == key
    assert key.startswith(info.key_prefix("ns"))


def test_no_two_stored_resources_share_a_prefix() -> None:
    prefixes = [info.storage_prefix for info in REGISTRY.stored()]
    for a, b in itertools.permutations(prefixes, 2):
        assert not a.startswith(b)


def test_what_people_type_is_found() -> None:
    for text, name in {
        "po": "pods",
        "Pod": "pods",
        "deploy": "deployments.apps",
        "deployments.apps": "deployments.apps",
        "sts": "statefulsets.apps",
        "hpa": "horizontalpodautoscalers.autoscaling",
        "event": "events",
        "events.events": "events.events.k8s.io",
        "ing": "ingresses.networking.k8s.io",
    }.items():
        assert REGISTRY.resolve(text).name == name
    with pytest.raises(UnknownResource, match=r"plural\[\.group\]"):
        REGISTRY.resolve("unicorns")


def test_preferred_versions_and_lookups() -> None:
    assert REGISTRY.by_name("horizontalpodautoscalers.autoscaling").version == "v2"
    older = REGISTRY.lookup("autoscaling", "v1", "horizontalpodautoscalers")
    assert older is not None and not older.is_storage_version
    assert REGISTRY.storage_info(older).api_version == "autoscaling/v2"
    assert REGISTRY.by_kind("apps/v1", "Deployment") is REGISTRY.by_name("deployments.apps")
    assert REGISTRY.lookup("apps", "v1beta1", "deployments") is None
    assert [g.name for g in REGISTRY.groups()][:3] == ["", "apiregistration.k8s.io", "apps"]


def test_requests_that_are_no_objects_are_not_stored() -> None:
    stored = {info.name for info in REGISTRY.stored()}
    assert "bindings" not in stored
    assert "tokenreviews.authentication.k8s.io" not in stored
    assert {"pods", "events", "secrets"} <= stored
    assert "events.events.k8s.io" not in stored


def test_every_resource_has_a_schema_and_so_have_its_subresources() -> None:
    for info in REGISTRY.all():
        assert (info.group, info.version, info.kind) in definition(info.definition).kinds
        if "list" in info.verbs:
            assert definition_of(info.api_version, info.list_kind) is not None
        for name, sub in info.subresources.items():
            streams = {"attach", "exec", "portforward", "proxy"}
            assert name in streams or definition_of(sub.api_version, sub.kind) is not None


def test_custom_resources_come_and_go() -> None:
    registry = REGISTRY.copy()
    before = registry.generation
    registry.add(custom("v1beta1"))
    registry.add(custom("v1"))
    assert registry.generation > before
    assert registry.by_name("foos.example.com").version == "v1"
    assert registry.resolve("fo").kind == "Foo"
    group = registry.group("example.com")
    assert group is not None and group.versions == ("v1", "v1beta1")
    registry.remove("example.com", "v1", "foos")
    assert registry.by_name("foos.example.com").version == "v1beta1"
    registry.remove("example.com", "v1beta1", "foos")
    assert registry.group("example.com") is None
    with pytest.raises(UnknownResource):
        registry.by_name("foos.example.com")
    with pytest.raises(UnknownResource):
        REGISTRY.by_name("foos.example.com")


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(["v1", "v2", "v1beta1"]), st.sampled_from(["as", "bs"])),
        max_size=12,
    )
)
def test_a_changed_registry_equals_one_built_afresh(steps: list[tuple[bool, str, str]]) -> None:
    registry, wanted = Registry(), dict[tuple[str, str], ResourceInfo]()
    for add, version, plural in steps:
        if add:
            wanted[(version, plural)] = custom(version, plural, plural.title())
            registry.add(wanted[(version, plural)])
        else:
            wanted.pop((version, plural), None)
            registry.remove("example.com", version, plural)
    fresh = Registry(wanted.values())
    assert set(registry.all()) == set(fresh.all())
    assert registry.groups() == fresh.groups()
    for info in wanted.values():
        assert registry.by_name(info.name) == fresh.by_name(info.name)
        assert registry.by_kind(info.api_version, info.kind) == info


def test_versions_are_ordered_as_kubernetes_documents() -> None:
    wanted = [
        "v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2",
        "foo1", "foo10",
    ]  # fmt: skip
    assert sorted(reversed(wanted), key=version_priority) == wanted


def test_merge_keys_and_list_keys() -> None:
    pod = definition("io.k8s.api.core.v1.PodSpec").fields
    assert pod["containers"].merge_key == "name" and pod["containers"].strategy == "merge"
    assert pod["volumes"].retain_keys and pod["volumes"].strategy == "merge"
    assert pod["tolerations"].strategy == "" and pod["tolerations"].list_type == "atomic"
    service = definition("io.k8s.api.core.v1.ServiceSpec").fields
    assert service["ports"].list_keys == ("port", "protocol")
    meta = definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").fields
    assert meta["finalizers"].list_type == "set" and meta["finalizers"].strategy == "merge"
    assert meta["labels"].type.kind == MAP


def test_every_reference_of_the_schema_resolves() -> None:
    for name in raw_definitions():
        for field in definition(name).fields.values():
            type_ = field.type
            while type_.items is not None:
                type_ = type_.items
            if type_.kind == STRUCT:
                assert type_.definition.name == type_.reference


def test_schema_of_a_custom_resource() -> None:
    schema = {
        "properties": {
            "spec": {
                "type": "object",
                "required": ["items"],
                "properties": {
                    "items": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                    }
                },
            }
        }
    }
    made = from_openapi("com.example.v1.Foo", schema, root=True)
    spec = made.fields["spec"].type.definition
    assert spec.required == ("items",) and spec.fields["items"].list_keys == ("name",)
    assert "finalizers" in made.fields["metadata"].type.definition.fields


def test_events_convert_between_their_two_groups() -> None:
    info = REGISTRY.by_name("events.events.k8s.io")
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "regarding": {"kind": "Pod", "name": "x"},
        "note": "hello",
        "reportingController": "me",
        "deprecatedCount": 2,
    }
    stored = to_stored(event, info)
    assert stored == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "x"},
        "message": "hello",
        "reportingComponent": "me",
        "count": 2,
    }
    assert to_served(stored, info) == event
    assert set(definition("io.k8s.api.core.v1.Event").fields) == {
        *to_stored(dict.fromkeys(definition("io.k8s.api.events.v1.Event").fields), info)
    }


def test_autoscalers_convert_without_loss() -> None:
    info = REGISTRY.lookup("autoscaling", "v1", "horizontalpodautoscalers")
    assert info is not None
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    memory = {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}}
    v2 = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "annotations": {"keep": "me"}},
        "spec": {
            "maxReplicas": 3,
            "metrics": [
                {"type": "Resource", "resource": cpu},
                {"type": "Resource", "resource": memory},
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
        },
        "status": {"currentReplicas": 1, "conditions": [{"type": "AbleToScale"}]},
    }
    v1 = to_served(v2, info)
    assert v1["apiVersion"] == "autoscaling/v1"
    assert v1["spec"] == {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}
    assert to_stored(v1, info) == v2
    simple = {**v1, "metadata": {"name": "h"}, "status": {}}
    assert to_stored(simple, info)["spec"]["metrics"] == [{"type": "Resource", "resource": cpu}]


@pytest.mark.processes
def test_the_committed_tables_are_what_the_generator_makes() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/gen_api_schema", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
