"""OpenAPI v3 schemas: each says what Kubernetes says of it, all of it is explained, nothing is left out."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rayplane.control_plane.api.machinery import openapi_protobuf, openapi_v2
from rayplane.control_plane.api.machinery.descriptions import NOTHING, describe
from rayplane.control_plane.api.machinery.discovery import Document
from rayplane.control_plane.api.machinery.openapi import OpenAPI
from rayplane.control_plane.api.machinery.openapi_protobuf import V2_TYPE, V3_TYPE
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.api.machinery.schema import definition
from tests.api.schema_samples import custom

Json = dict[str, Any]
CORE = "io.k8s.api.core.v1."
# Kubernetes says nothing of these either: the fields of JSON Schema are known from there.
UNDESCRIBED = (
    "CertificateSigningRequest",
    "CertificateSigningRequestList",
    "ExternalDocumentation",
    "GroupResource",
    "Info",
    "JSONSchemaProps",
)


@pytest.fixture(scope="module")
def documents() -> dict[str, Json]:
    openapi = OpenAPI(builtin_registry(), version="v1.37.0")
    keys = json.loads(openapi.root().body)["paths"]
    return {key: json.loads(openapi.group_version(key).body) for key in keys}


@pytest.fixture(scope="module")
def schemas(documents: dict[str, Json]) -> dict[str, Json]:
    return {name: schema for one in documents.values() for name, schema in one["components"]["schemas"].items()}


def described(schemas: dict[str, Json]) -> Iterator[tuple[str, str, Json]]:
    for name, schema in schemas.items():
        for field, value in schema.get("properties", {}).items():
            yield name, field, value


def test_every_field_has_a_type_and_a_description(schemas: dict[str, Json]) -> None:
    for name, field, value in described(schemas):
        assert {"type", "allOf", "$ref"} & value.keys(), (name, field)
        if name.rpartition(".")[2] not in UNDESCRIBED:
            assert value.get("description"), (name, field)


def test_every_kind_has_a_description(schemas: dict[str, Json]) -> None:
    for name, schema in schemas.items():
        if "x-kubernetes-group-version-kind" in schema or "." not in name:
            assert schema.get("description"), name
    assert describe("io.k8s.api.nothing.v1.Nothing") == NOTHING


@pytest.mark.parametrize("info", builtin_registry().all(), ids=lambda info: info.name)
def test_every_path_s_kind_has_a_schema(info: ResourceInfo, documents: dict[str, Json]) -> None:
    document = documents[f"apis/{info.api_version}" if info.group else "api/v1"]
    kind = {"group": info.group, "kind": info.kind, "version": info.version}
    schema = document["components"]["schemas"][info.definition]
    assert kind in schema["x-kubernetes-group-version-kind"]
    name = "{name}" if {"get", "update", "patch"} & set(info.verbs) else ""
    operations = document["paths"][info.path("{namespace}", name)]
    served = {one["x-kubernetes-action"] for key, one in operations.items() if key != "parameters"}
    assert served and all(
        one["x-kubernetes-group-version-kind"] == kind for key, one in operations.items() if key != "parameters"
    )


def test_operations_have_names_of_their_own(documents: dict[str, Json]) -> None:
    names = [
        operation["operationId"]
        for document in documents.values()
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(names) == len(set(names))
    assert {
        "listCoreV1PodForAllNamespaces",
        "createCoreV1NamespacedPod",
        "readAppsV1NamespacedDeploymentScale",
        "deleteCoreV1CollectionNamespacedPod",
        "patchRbacAuthorizationV1ClusterRole",
        "readCoreV1NodeStatus",
        "connectGetCoreV1NamespacedPodExec",
        "connectPutCoreV1NodeProxyWithPath",
        "getCoreAPIVersions",
        "getRbacAuthorizationAPIGroup",
        "getAppsV1APIResources",
        "getCodeVersion",
    } <= set(names)


def test_streams_and_logs_have_the_parameters_that_they_take(documents: dict[str, Json]) -> None:
    pod = "/api/v1/namespaces/{namespace}/pods/{name}"
    paths = documents["api/v1"]["paths"]
    command = {one["name"] for one in paths[f"{pod}/exec"]["parameters"]}
    assert command == {"name", "namespace", "command", "container", "stderr", "stdin", "stdout", "tty"}
    log = paths[f"{pod}/log"]["get"]
    assert {"follow", "tailLines", "previous"} <= {one["name"] for one in log["parameters"]}
    assert log["responses"]["200"]["content"]["text/plain"]["schema"] == {"type": "string"}
    assert set(paths[f"{pod}/proxy/{{path}}"]) > {"get", "put", "delete", "options"}


def test_merging_is_as_the_server_merges(schemas: dict[str, Json]) -> None:
    seen = 0
    for name, field, value in described(schemas):
        if name.partition(".k8s.")[0] != "io" or name.endswith("JSONSchemaProps"):
            continue
        known = definition(name).fields[field]
        assert value.get("x-kubernetes-patch-merge-key") == (known.merge_key or None), (name, field)
        assert value.get("x-kubernetes-list-map-keys", []) == list(known.list_keys or []), (name, field)
        seen += bool(known.merge_key)
    assert seen > 50


def test_fields_say_what_kubernetes_publishes(schemas: dict[str, Json]) -> None:
    port = schemas[CORE + "ContainerPort"]["properties"]
    assert (port["containerPort"]["default"], port["protocol"]["default"]) == (0, "TCP")
    assert port["protocol"]["enum"] == ["SCTP", "TCP", "UDP"]
    assert port["protocol"]["description"].endswith('\n - `"SCTP"`\n - `"TCP"`\n - `"UDP"`')
    assert "default" not in port["hostPort"]
    pod = schemas[CORE + "Pod"]["properties"]
    assert pod["spec"]["allOf"] == [{"$ref": f"#/components/schemas/{CORE}PodSpec"}] and pod["spec"]["default"] == {}
    containers = schemas[CORE + "PodSpec"]["properties"]["containers"]
    assert containers["items"] == {"$ref": f"#/components/schemas/{CORE}Container"}
    profile = schemas[CORE + "SeccompProfile"]
    assert profile["x-kubernetes-unions"] == [
        {"discriminator": "type", "fields-to-discriminateBy": {"localhostProfile": "LocalhostProfile"}}
    ]
    entry = schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry"]["properties"]
    assert entry["fieldsV1"]["allOf"][0]["$ref"].endswith("meta.v1.FieldsV1")
    assert (
        "default" not in schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]["creationTimestamp"]
    )


def test_a_custom_resource_and_its_list() -> None:
    registry = builtin_registry().copy()
    registry.add(custom())
    schema = {"description": "Foo is a sample.", "type": "object", "properties": {"spec": {"type": "object"}}}
    openapi = OpenAPI(registry, version="v1", custom_schemas={("example.com/v1", "Foo"): schema})
    found = json.loads(openapi.group_version("apis/example.com/v1").body)
    made = found["components"]["schemas"]
    assert made["com.example.v1.Foo"]["description"] == "Foo is a sample."
    assert made["com.example.v1.FooList"]["properties"]["items"]["items"]["$ref"].endswith("com.example.v1.Foo")
    listed = found["paths"]["/apis/example.com/v1/foos"]["get"]["responses"]["200"]["content"]["application/json"]
    assert listed["schema"]["$ref"].endswith("com.example.v1.FooList")
    registry.remove("example.com", "v1", "foos")
    assert "apis/example.com/v1" not in json.loads(openapi.root().body)["paths"]


# --- protobuf -----------------------------------------------------------------------------------


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: a reader of the test's own."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
            continue
        size = 8 if tag & 7 == 1 else number()
        yield tag >> 3, data[at : at + size]
        at += size


def named(data: bytes, number: int) -> dict[str, bytes]:
    entries = [dict(fields(value)) for at, value in fields(data) if at == number]
    return {entry[1].decode(): entry[2] for entry in entries}


def test_version_2_in_protobuf_has_the_definitions_that_kubectl_explains() -> None:
    openapi = OpenAPI(builtin_registry(), version="v1.37.0")
    json_form = openapi_v2.document([one.body for one in openapi.group_versions()], version="v1.37.0")
    wanted = json.loads(json_form.body)["definitions"]
    made = openapi_protobuf.encoded(json_form, V2_TYPE)
    assert (made.content_type, made.etag) == (V2_TYPE, json_form.etag)
    top = dict(fields(made.body))
    definitions = named(top[9], 1)
    assert definitions.keys() == wanted.keys()
    for name, schema in definitions.items():
        parts = dict(fields(schema))
        assert parts.get(4, b"").decode() == wanted[name].get("description", "")
        properties = named(parts[25], 1) if 25 in parts else {}
        assert properties.keys() == wanted[name].get("properties", {}).keys()
        for field, value in properties.items():
            said, want = dict(fields(value)), wanted[name]["properties"][field]
            assert said.get(1, b"").decode() == want.get("$ref", "")
            assert ([*fields(said[22])] if 22 in said else []) == (
                [(1, want["type"].encode())] if "type" in want else []
            )
    kinds = named(definitions[CORE + "Pod"], 31)["x-kubernetes-group-version-kind"]
    assert json.loads(dict(fields(kinds))[2]) == [{"group": "", "kind": "Pod", "version": "v1"}]
    assert named(top[8], 2).keys() == json.loads(json_form.body)["paths"].keys()


def test_version_3_in_protobuf() -> None:
    openapi = OpenAPI(builtin_registry(), version="v1.37.0")
    json_form = openapi.group_version("apis/apps/v1")
    wanted = json.loads(json_form.body)
    made = openapi_protobuf.encoded(json_form, V3_TYPE)
    top = dict(fields(made.body))
    assert top[1] == b"3.0.0"
    assert named(top[4], 1).keys() == wanted["paths"].keys()
    schemas = named(dict(fields(top[5]))[1], 1)
    assert schemas.keys() == wanted["components"]["schemas"].keys()
    deployment = dict(fields(dict(fields(schemas["io.k8s.api.apps.v1.Deployment"]))[1]))
    assert deployment[25] == b"object"
    properties = named(deployment[31], 1)
    spec = dict(fields(dict(fields(properties["spec"]))[1]))
    assert dict(fields(dict(fields(spec[26]))[2])) == {1: b"#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}


def test_every_json_schema_that_a_custom_resource_may_have_can_be_encoded() -> None:
    odd = {
        "type": "object",
        "additionalProperties": True,
        "nullable": True,
        "not": {"enum": [1, None, {"a": []}]},
        "anyOf": [{"minimum": 1.5}, {"maxLength": 3, "pattern": "^a", "exclusiveMaximum": True}],
        "properties": {
            "flag": {"type": "boolean", "default": True},
            "size": {"type": "integer", "default": -3, "minimum": -(2**40)},
            "text": {"type": "string", "default": "x" * 200},
            "list": {"type": "array", "default": [1], "items": {"type": "object", "default": {"a": 1}}},
        },
        "x-kubernetes-validations": [{"rule": "self.size > 0"}],
    }
    schema = {"openapi": "3.0.0", "paths": {}, "components": {"schemas": {"a": odd}}}
    for form in (V2_TYPE, V3_TYPE):
        document = schema if form == V3_TYPE else {"swagger": "2.0", "definitions": {"a": openapi_v2._schema(odd)}}
        made = openapi_protobuf.encoded(Document.of(json.dumps(document).encode(), "application/json"), form)
        assert [*fields(made.body)]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", V2_TYPE),
        ("application/com.github.proto-openapi.spec.v2.v1.0+protobuf;q=0.9, application/json", V2_TYPE),
        ("application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/json"),
        ("text/html", None),
        (V3_TYPE, None),
    ],
)
def test_the_first_form_that_is_served_wins(accept: str, form: str | None) -> None:
    assert openapi_protobuf.negotiate(accept, V2_TYPE) == form
