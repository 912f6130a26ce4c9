"""Custom resources: served as soon as they are defined, checked by their schema, gone with their definition."""

import asyncio
from contextlib import aclosing

import orjson
import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.kinds.metadata import finalizer_warnings
from rayplane.control_plane.api.kinds.rules import ScalePaths
from rayplane.control_plane.api.machinery.decoding import decode_object
from rayplane.control_plane.apiserver.apiextensions import custom_resource, defaulting
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
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, [1, 2], "must have at most 1 item"),
        ({"type": "array", "x-kubernetes-list-type": "set", "items": {}}, ["x", "x"], 'Duplicate value: "x"'),
        ({"x-kubernetes-int-or-string": True}, [], "must be of type integer,string"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"k": "v"}, "f.k in body must be of type"),
    ],
)
def test_schema_findings(schema: dict, value: object, message: str) -> None:
    found = custom_schema.validate({"f": value}, {"type": "object", "properties": {"f": schema}})
    assert len(found) == 1
    assert message in str(found[0])


A_OR_B = [{"required": ["a"]}, {"required": ["b"], "properties": {"b": {"minimum": 3}}}]
"""Branches of which the second is meant where b is there."""
NONE_VALID = '<nil>: Invalid value: "": "f" must validate one and only one schema (oneOf). Found none valid'


@pytest.mark.parametrize(
    ("schema", "value", "messages"),
    [
        (
            {"oneOf": A_OR_B},
            {},
            [NONE_VALID, "f.a: Required value"],
        ),
        (
            {"oneOf": A_OR_B},
            {"b": 1},
            [NONE_VALID, "f.b: Invalid value: 1: f.b in body should be greater than or equal to 3"],
        ),
        (
            {"oneOf": A_OR_B},
            {"a": 1, "b": 3},
            ['<nil>: Invalid value: "": "f" must validate one and only one schema (oneOf). Found 2 valid alternatives'],
        ),
        (
            {"anyOf": A_OR_B},
            {},
            ['<nil>: Invalid value: "": "f" must validate at least one schema (anyOf)', "f.a: Required value"],
        ),
        ({"anyOf": A_OR_B}, {"a": 1}, []),
        (
            {"allOf": A_OR_B},
            {"a": 1},
            ["f.b: Required value", '<nil>: Invalid value: "": "f" must validate all the schemas (allOf)'],
        ),
        ({"not": A_OR_B[0]}, {"a": 1}, ['<nil>: Invalid value: "": "f" must not validate the schema (not)']),
        (
            {"type": "string", "enum": ["x"]},
            5,
            [
                'f: Invalid value: "integer": f in body must be of type string: "integer"',
                'f: Unsupported value: 5: supported values: "x"',
            ],
        ),
        (
            {"type": "string", "nullable": True, "enum": ["x"]},
            None,
            ['f: Unsupported value: null: supported values: "x"'],
        ),
        (
            {"type": "string", "minLength": 2, "pattern": "^a"},
            "b",
            ['f: Invalid value: "b": f in body should be at least 2 chars long'],
        ),
        ({"type": "string", "maxLength": 1}, "bb", ["f: Too long: may not be more than 1 byte"]),
        (
            {"type": "integer", "format": "int32"},
            1 << 33,
            ['<nil>: Invalid value: "": Checked value must be of type integer with format int32 in f'],
        ),
        ({"type": "integer", "format": "int64"}, 1 << 33, []),
        ({"type": "number", "format": "double"}, 1e300, []),
        (
            {"type": "number", "format": "float"},
            1e300,
            ['<nil>: Invalid value: "": Checked value must be of type number with format float in f'],
        ),
        ({"type": "number", "format": "int32"}, 1 << 33, []),
    ],
)
def test_findings_about_a_value_as_a_whole(schema: dict, value: object, messages: list[str]) -> None:
    """As kube-openapi words them: the branch that was meant says what it lacks."""
    found = custom_schema.validate({"f": value}, {"type": "object", "properties": {"f": schema}})
    assert [str(error) for error in found] == messages


EMBEDDED = {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True}
POD = {"apiVersion": "v1", "kind": "Pod"}


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        (POD, []),
        (POD | {"metadata": {"labels": {"a": "b"}}}, []),
        ({}, ["f.apiVersion: Required value", "f.kind: Required value"]),
        (POD | {"kind": ""}, ['f.kind: Invalid value: "": must not be empty']),
        (
            POD | {"apiVersion": "a/b/c"},
            ['f.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c'],
        ),
        (POD | {"metadata": {"labels": {"a": "-"}}}, ['f.metadata.labels: Invalid value: "-": a valid label must be']),
        (
            POD | {"metadata": {"labels": {"a": 1}}},
            ['f.metadata: Invalid value: {"labels":{"a":1}}: json: cannot unmarshal number into Go struct field'],
        ),
    ],
)
def test_an_object_in_an_object_is_one(value: dict, messages: list[str]) -> None:
    found = custom_schema.validate({"f": value}, {"type": "object", "properties": {"f": EMBEDDED}})
    assert len(found) == len(messages)
    assert all(str(error).startswith(text) for error, text in zip(found, messages, strict=True)), found


def test_of_a_write_of_the_status_the_status_is_judged() -> None:
    status = {"type": "object", "properties": {"ready": {"type": "integer"}}}
    schema = {"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object"}, "status": status}}
    scale = ScalePaths(spec=".spec.n", status=".status.ready")
    stored: dict = {"spec": {"n": -1}}
    assert len(custom_resource.errors_of({}, schema, None, stored, scale)) == 1
    assert custom_resource.errors_of({}, schema, None, stored, scale, status=True) == []
    assert custom_resource.errors_of({**stored, "status": {"ready": 1}}, schema, None, stored, scale, status=True) == []
    wrong = {"status": {"ready": "x"}}
    [error] = custom_resource.errors_of(wrong, schema, None, stored, scale, status=True)
    assert error.field == "status.ready"


def test_replicas_are_a_count() -> None:
    scale = ScalePaths(spec=".spec.n", status=".status.n")
    o: dict = {"spec": {"n": -1}, "status": {"n": 1 << 31}}
    assert [str(error) for error in custom_resource.errors_of(o, {}, None, None, scale)] == [
        ".spec.n: Invalid value: -1: should be a non-negative integer",
        ".status.n: Invalid value: 2147483648: should be less than or equal to 2147483647",
    ]
    assert not custom_resource.errors_of({"spec": {"n": 3}}, {}, None, None, scale)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"kind": None},
            errors.BadRequest,
            "Foo in version \"v1\" cannot be handled as a Foo: Object 'Kind' is missing",
        ),
        ({"apiVersion": None}, errors.BadRequest, "the API version in the data () does not match the expected API"),
        ({"apiVersion": "example.com/v9"}, errors.BadRequest, "the API version in the data (example.com/v9) does not"),
        ({"kind": "Bar"}, errors.Invalid, 'Bar.example.com "a" is invalid: kind: Invalid value: "Bar": must be Foo'),
    ],
)
def test_a_custom_resource_says_what_it_is(changed: dict, error: type[errors.ApiError], message: str) -> None:
    body = {"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "a"}} | changed
    with pytest.raises(error) as caught:
        decode_object(orjson.dumps(body), api_version="example.com/v1", kind="Foo", definition=None, custom=True)
    assert message in caught.value.message


def test_names_of_finalizers_tell_whose_they_are() -> None:
    made = foo("a", size=1)
    made["metadata"]["finalizers"] = ["mine", "example.com/mine", "mine.example.com"]
    first, second = finalizer_warnings(made, None)
    assert first.startswith('metadata.finalizers: "mine": prefer a domain-qualified finalizer name to avoid')
    assert second.startswith(
        'metadata.finalizers: "mine.example.com": prefer a domain-qualified finalizer name including'
    )
    assert finalizer_warnings(made, made) == []


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
