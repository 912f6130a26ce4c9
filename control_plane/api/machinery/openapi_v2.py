"""OpenAPI v2 (Swagger 2.0): one document of all group-versions, made of their OpenAPI v3 documents.

kubectl asks for it, as protobuf, before it validates a `kind: List`, and to explain with `plaintext-openapiv2`.
Programs that generate clients take JSON.
Sources: OpenAPI 2.0; what Kubernetes leaves out of the v2 form of a custom resource's schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from rayplane.control_plane.api.machinery.discovery import Document

_JSON: Final = "application/json"
# What v2 cannot say, or says of everything: a client would refuse what the server takes.
_DROPPED: Final = frozenset(
    {"allOf", "oneOf", "anyOf", "not", "nullable", "default", "properties", "items", "additionalProperties"}
)
_PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
_KINDS: Final = "x-kubernetes-group-version-kind"
_OF_KINDS: Final = (_KINDS, "x-kubernetes-selectable-fields")

Parts = tuple[dict[str, Any], dict[str, Any]]
"""Paths and definitions."""


def document(bodies: Iterable[bytes], *, version: str, others: Iterable[Parts] = ()) -> Document:
    """All of the OpenAPI v3 documents, as one in JSON. Takes a quarter of a second.

    `others` are parts that other servers have said: what is described here stays as it is.
    """
    paths: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for more, schemas in (*others, *map(parts, bodies)):
        paths |= more
        definitions |= schemas
    made = {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": dict(sorted(paths.items())),
        "definitions": dict(sorted(definitions.items())),
    }
    return Document.of(orjson.dumps(made), _JSON)


def parts(body: bytes) -> Parts:
    """What one OpenAPI v3 document becomes."""
    v3 = orjson.loads(body)
    paths = {path: _path_item(item) for path, item in v3["paths"].items()}
    return paths, {name: _schema(schema) for name, schema in v3["components"]["schemas"].items()}


def _reference(reference: str) -> dict[str, str]:
    return {"$ref": "#/definitions/" + reference.rpartition("/")[2]}


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return _reference(schema["$ref"])
    made = {key: value for key, value in schema.items() if key not in _DROPPED}
    match schema.get("allOf"):
        case [{"$ref": reference}]:
            return made | _reference(reference)
    anything = schema.get(_PRESERVE)
    if anything and _KINDS in schema:
        # With any field said, kubectl would take only what is.
        return {"type": "object"} | {key: made[key] for key in _OF_KINDS if key in made}
    if schema.get("nullable") or anything or (schema.get("type") == "array" and "items" not in schema):
        if schema.get("nullable") or schema.get("type") in ("array", "object"):
            made.pop("type", None)
        if "additionalProperties" in schema:
            made["additionalProperties"] = _value(schema["additionalProperties"])
        return made
    if "oneOf" in schema and "type" not in schema and not schema.get("x-kubernetes-int-or-string"):
        made["type"] = "string"  # a quantity, or an int-or-string: numbers in quotes are taken too
    if "properties" in schema:
        made["properties"] = {name: _schema(value) for name, value in schema["properties"].items()}
        needed = [name for name in made.pop("required", ()) if not _may_be_null(schema["properties"].get(name))]
        made |= {"required": needed} if needed else {}
    for key in ("items", "additionalProperties"):
        if key in schema:
            made[key] = _value(schema[key])
    return made


def _value(schema: Any) -> Any:
    """The form of a schema, or of a word for any or none."""
    return _schema(schema) if isinstance(schema, dict) else schema


def _may_be_null(schema: Any) -> bool:
    return isinstance(schema, dict) and bool(schema.get("nullable"))


def _path_item(item: Mapping[str, Any]) -> dict[str, Any]:
    made = {method: _operation(operation) for method, operation in item.items() if method != "parameters"}
    return made | {"parameters": [_parameter(p) for p in item.get("parameters", ())]}


def _parameter(parameter: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameter.items() if key != "schema"} | parameter["schema"]


def _operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in operation.items() if key.startswith("x-")}
    made["parameters"] = [_parameter(p) for p in operation.get("parameters", ())]
    made |= {key: operation[key] for key in ("description", "operationId", "tags") if key in operation}
    made["schemes"] = ["https"]
    made["produces"] = list(operation["responses"]["200"]["content"])
    if body := operation.get("requestBody"):
        made["consumes"] = list(body["content"])
        schema = _schema(next(iter(body["content"].values()))["schema"])
        made["parameters"].append(
            {"name": "body", "in": "body", "required": body.get("required", False), "schema": schema}
        )
    made["responses"] = {code: _response(said) for code, said in operation["responses"].items()}
    return made


def _response(said: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"description": said["description"]}
    if content := said.get("content"):
        made["schema"] = _schema(next(iter(content.values()))["schema"])
    return made
