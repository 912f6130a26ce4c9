"""Custom resources: served as soon as they are defined, checked by their schema, gone with their definition."""

import asyncio
from contextlib import aclosing

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.apiextensions import defaulting
from rayplane.control_plane.apiserver.apiextensions import schema as custom_schema
from tests.apiserver.conftest import Stack

CRDS = "customresourcedefinitions.apiextensions.k8s.io"
FOOS = "foos.v1.example.com"


def definition(**version: object) -> dict:
    spec = {
        "type": "object",
        "required": ["size"],
        "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 10},
            "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
        },
    }
    status = {"type": "object", "properties": {"ready": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"spec": spec, "status": status}}
    first = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.ready"},
        },
        **version,
    }
    return {
        "metadata": {"name": "foos.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"kind": "Foo", "plural": "foos"},
            "versions": [first],
        },
    }


def foo(name: str, **spec: object) -> dict:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def test_what_the_server_has_of_its_own_is_not_defined_anew(stack: Stack) -> None:
    client = stack.client()
    for group, kind in (("rbac.authorization.k8s.io", "ClusterRole"), ("metrics.k8s.io", "Foo")):
        crd = definition()
        crd["metadata"]["name"] = f"foos.{group}"
        crd["spec"] |= {"group": group, "names": {"kind": kind, "plural": "foos"}}
        with pytest.raises(errors.Invalid, match="is served by this server itself"):
            await client.create(CRDS, crd)


async def test_defined_resource_is_served_by_all_servers_at_once(stack: Stack) -> None:
    await stack.add_server()
    one, two = stack.client(0), stack.client(1)
    with pytest.raises(errors.NotFound):
        await one.list(FOOS)
    crd = await one.create(CRDS, definition())
    assert {c["type"]: c["status"] for c in crd["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    made = await two.create(FOOS, foo("a", size=2, unknown=True))
    assert made["apiVersion"] == "example.com/v1"
    assert made["spec"] == {"size": 2, "mode": "a"}
    assert (await one.get(FOOS, "a", "default")) == made


async def test_schema_is_enforced(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    with pytest.raises(errors.Invalid) as caught:
        await client.create(FOOS, foo("bad", size=20, mode="z"))
    assert "spec.size in body should be less than or equal to 10" in caught.value.message
    assert 'spec.mode: Unsupported value: "z": supported values: "a", "b"' in caught.value.message
    with pytest.raises(errors.Invalid, match=r"spec\.size: Required value"):
        await client.create(FOOS, foo("bad"))
    with pytest.raises(errors.Invalid, match=r"metadata\.name"):
        await client.create(CRDS, {**definition(), "metadata": {"name": "wrong"}})


async def test_status_and_scale_are_views_of_their_own(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    made = await client.create(FOOS, {**foo("a", size=2), "status": {"ready": 5}})
    assert "status" not in made
    changed = await client.patch(FOOS, "a", "default", {"status": {"ready": 1}}, subresource="status")
    assert (changed["status"], changed["metadata"]["generation"]) == ({"ready": 1}, 1)
    scale = await client.get(FOOS, "a", "default", subresource="scale")
    assert (scale["spec"], scale["status"]) == ({"replicas": 2}, {"replicas": 1})
    await client.patch(FOOS, "a", "default", {"spec": {"replicas": 7}}, subresource="scale")
    assert (await client.get(FOOS, "a", "default"))["spec"]["size"] == 7


async def test_objects_go_with_their_definition(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    await client.create(FOOS, foo("a", size=1))
    await client.create(
        FOOS, {"metadata": {"name": "b", "namespace": "default", "finalizers": ["x.io/y"]}, "spec": {"size": 1}}
    )
    start = (await client.list(FOOS)).resource_version
    gone = await client.delete(CRDS, "foos.example.com")
    assert gone["metadata"]["deletionTimestamp"]
    async with asyncio.timeout(10), aclosing(client.watch(FOOS, resource_version=start)) as watch:
        seen: dict[str, str] = {}
        async for events in watch:
            seen |= {e.object["metadata"]["name"]: e.type for e in events}
            if len(seen) == 2:
                break
    assert seen == {"a": "DELETED", "b": "MODIFIED"}
    await client.patch(FOOS, "b", "default", {"metadata": {"finalizers": None}})
    async with asyncio.timeout(10):
        while True:
            try:
                await client.get(CRDS, "foos.example.com")
            except errors.NotFound:
                break
            await asyncio.sleep(0.02)
    with pytest.raises(errors.NotFound):
        await client.list(FOOS)
    assert not [key for key in stack.etcd.live if b"foos" in key]


async def test_versions_are_two_forms_of_one_object(stack: Stack) -> None:
    client = stack.client()
    crd = definition()
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    crd["spec"]["versions"].append({"name": "v2", "served": True, "storage": False, "schema": schema})
    await client.create(CRDS, crd)
    await client.create(FOOS, foo("a", size=1))
    newer = await client.get("foos.v2.example.com", "a", "default")
    assert (newer["apiVersion"], newer["spec"]["size"]) == ("example.com/v2", 1)
    listed = await client.list("foos.v2.example.com")
    assert [o["apiVersion"] for o in listed.items] == ["example.com/v2"]


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"type": "string"}, 1, 'f in body must be of type string: "integer"'),
        ({"type": "integer"}, True, 'f in body must be of type integer: "boolean"'),
        ({"type": "string", "pattern": "^a+$"}, "b", "f in body should match '^a+$'"),
        ({"type": "string", "minLength": 2}, "b", "f in body should be at least 2 chars long"),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, [1, 2], "must have at most 1 items"),
        ({"type": "array", "x-kubernetes-list-type": "set", "items": {}}, ["x", "x"], 'Duplicate value: "x"'),
        ({"x-kubernetes-int-or-string": True}, [], "must be of type integer,string"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, [], "must validate at least one schema"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"k": "v"}, "f.k in body must be of type"),
    ],
)
def test_schema_findings(schema: dict, value: object, message: str) -> None:
    found = custom_schema.validate({"f": value}, {"type": "object", "properties": {"f": schema}})
    assert len(found) == 1
    assert message in str(found[0])


def test_defaults_reach_into_lists_and_maps() -> None:
    part = {"type": "object", "properties": {"d": {"default": 1}}}
    properties = {
        "items": {"type": "array", "items": part},
        "map": {"type": "object", "additionalProperties": part},
        "made": {"type": "object", "default": {}, "properties": {"d": {"default": 2}}},
    }
    o: dict = {"items": [{}, {"d": 5}], "map": {"k": {}}}
    defaulting.default(o, {"type": "object", "properties": properties})
    assert o == {"items": [{"d": 1}, {"d": 5}], "map": {"k": {"d": 1}}, "made": {"d": 2}}


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        (
            {"labels": {"a": 5}},
            "cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        ({"annotations": {"a": []}}, "cannot unmarshal array into Go struct field"),
        ({"labels": "x"}, "cannot unmarshal string into Go struct field"),
        ({"finalizers": {}}, "cannot unmarshal object into Go struct field"),
        ({"ownerReferences": [{"name": 1}]}, "cannot unmarshal number into Go struct field"),
        ({"generation": "many"}, "cannot unmarshal string into Go struct field"),
    ],
)
async def test_metadata_of_the_wrong_type_is_a_bad_request(stack: Stack, metadata: dict, cause: str) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    made = foo("odd", size=1)
    made["metadata"] |= metadata
    with pytest.raises(errors.BadRequest, match=cause):
        await client.create(FOOS, made)
    await client.create(FOOS, foo("even", size=1))
    with pytest.raises(errors.Invalid, match="cannot unmarshal"):
        await client.patch(FOOS, "even", "default", {"metadata": metadata}, kind="merge")
