"""The OpenAPI v2 document: closed, true to the v3 documents, and without what v2 cannot say."""

import json
from typing import Any

from rayplane.control_plane.api.machinery import openapi_v2
from rayplane.control_plane.api.machinery.openapi import OpenAPI
from rayplane.control_plane.api.machinery.resources import builtin_registry
from tests.api.schema_samples import custom
from tests.api.test_discovery_documents import references


def merged(openapi: OpenAPI) -> Any:
    return json.loads(openapi_v2.document([d.body for d in openapi.group_versions()], version="v1").body)


def test_it_is_closed_and_has_every_path_and_definition_of_the_v3_documents() -> None:
    openapi = OpenAPI(builtin_registry(), version="v1")
    found = merged(openapi)
    assert found["swagger"] == "2.0"
    assert set(references(found)) <= set(found["definitions"])
    for each in openapi.group_versions():
        v3 = json.loads(each.body)
        assert set(v3["paths"]) <= set(found["paths"])
        assert set(v3["components"]["schemas"]) <= set(found["definitions"])


def test_schemas_and_operations_have_their_v2_form() -> None:
    found = merged(OpenAPI(builtin_registry(), version="v1"))
    core = "io.k8s.api.core.v1."
    pod = found["definitions"][core + "Pod"]
    assert pod["properties"]["spec"]["$ref"] == f"#/definitions/{core}PodSpec"
    assert "default" not in pod["properties"]["spec"], "defaults are in v3 alone"
    assert pod["x-kubernetes-group-version-kind"] == [{"group": "", "kind": "Pod", "version": "v1"}]
    containers = found["definitions"][core + "PodSpec"]["properties"]["containers"]
    assert containers["items"] == {"$ref": f"#/definitions/{core}Container"}
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    limits = found["definitions"][core + "ResourceRequirements"]["properties"]["limits"]
    quantity = limits["additionalProperties"]["$ref"].rpartition("/")[2]
    assert found["definitions"][quantity]["type"] == "string"
    assert "oneOf" not in found["definitions"][quantity]
    post = found["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"]
    dry_run = next(one for one in post["parameters"] if one["name"] == "dryRun")
    assert (dry_run["in"], dry_run["type"], dry_run["uniqueItems"]) == ("query", "string", True)
    body = {"name": "body", "in": "body", "required": True, "schema": {"$ref": f"#/definitions/{core}Pod"}}
    assert body in post["parameters"]
    assert post["responses"]["200"]["schema"] == body["schema"]


def test_a_custom_schema_loses_what_v2_cannot_say() -> None:
    schema = {
        "type": "object",
        "properties": {
            "size": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
            "note": {"type": "string", "nullable": True},
            "not": {"type": "string", "maxLength": 3, "not": {"enum": ["x"]}},
        },
    }
    registry = builtin_registry().copy()
    registry.add(custom())
    found = merged(OpenAPI(registry, version="v1", custom_schemas={("example.com/v1", "Foo"): schema}))
    properties = found["definitions"]["com.example.v1.Foo"]["properties"]
    assert properties["size"] == {"x-kubernetes-int-or-string": True}
    assert properties["note"] == {}
    assert properties["not"] == {"type": "string", "maxLength": 3}


def test_what_a_custom_schema_leaves_open_is_open_to_kubectl_too() -> None:
    """It would take only the fields that are told, wherever one is."""
    open_, kept = {"x-kubernetes-preserve-unknown-fields": True}, {"a": {"type": "string"}}
    schema = {
        "type": "object",
        "required": ["one", "two"],
        "properties": {
            "one": {"type": "object", "properties": kept, **open_},
            "two": {"type": "object", "properties": kept, "nullable": True},
            "many": {"type": "array"},
            "by_name": {"type": "object", "additionalProperties": {"type": "object", "properties": kept}},
        },
    }
    registry = builtin_registry().copy()
    registry.add(custom())

    def shown(schema: dict[str, Any]) -> dict[str, Any]:
        found = merged(OpenAPI(registry, version="v1", custom_schemas={("example.com/v1", "Foo"): schema}))
        foo: dict[str, Any] = found["definitions"]["com.example.v1.Foo"]
        return foo

    foo = shown(schema)
    assert foo["required"] == ["one"]
    properties = foo["properties"]
    assert (properties["one"], properties["two"], properties["many"]) == (open_, {}, {})
    assert properties["by_name"]["additionalProperties"]["properties"] == kept
    kinds = foo["x-kubernetes-group-version-kind"]
    assert shown(schema | open_) == {"type": "object", "x-kubernetes-group-version-kind": kinds}
