"""OpenAPI documents as protobuf, in gnostic's messages: what kubectl reads of OpenAPI v2, and of v3 who asks for it.

A message is a table from the keys of the JSON form to field numbers and types. Types: the scalars; `any` (JSON as
YAML's text); `@M` a message; `[]T` a list; `{}T` a JSON object as a list of names with values. Keys that begin with
`x-` go to the field `x-`.
Sources: gnostic-models, OpenAPIv2.proto and OpenAPIv3.proto; protobuf encoding reference.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

import orjson

from rayplane.control_plane.api.machinery.discovery import Document

V2_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
V3_TYPE: Final = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"

_JSON: Final = "application/json"
_FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    form: (form, form.replace(f".{version}.v1.0", f".{version}@v1.0"))
    for version, form in (("v2", V2_TYPE), ("v3", V3_TYPE))
}
"""How a protobuf form is asked for: by its name, or by an older one that is no media type."""

_Table = Mapping[str, tuple[int, str]]
_LIMITS: Final = ("maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength", "pattern")
_LIMIT_TYPES: Final = ("double", "bool", "double", "bool", "int", "int", "string")
_SIZES: Final = ("maxItems", "minItems", "uniqueItems")
_SIZE_TYPES: Final = ("int", "int", "bool")


def _from(number: int, names: tuple[str, ...], types: tuple[str, ...]) -> dict[str, tuple[int, str]]:
    """Fields that have consecutive numbers."""
    return {name: (number + i, kind) for i, (name, kind) in enumerate(zip(names, types, strict=True))}


def _primitive(numbers: tuple[int, int, int, int, int], rest: Mapping[str, tuple[int, str]]) -> _Table:
    """A v2 parameter: the numbers of type, format, maximum, maxItems and extensions."""
    kind, form, limits, sizes, extensions = numbers
    return {
        **rest,
        "type": (kind, "string"),
        "format": (form, "string"),
        **_from(limits, _LIMITS, _LIMIT_TYPES),
        **_from(sizes, _SIZES, _SIZE_TYPES),
        "x-": (extensions, "any"),
    }


_PARAMETER: Final = _from(1, ("required", "in", "description", "name"), ("bool", "string", "string", "string"))
_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch")
_V2: Final[Mapping[str, _Table]] = {
    "Document": {
        "swagger": (1, "string"),
        "info": (2, "@Info"),
        "paths": (8, "@Paths"),
        "definitions": (9, "@Properties"),
    },
    "Info": {"title": (1, "string"), "version": (2, "string")},
    "Paths": {"*": (2, "{}@PathItem")},
    "PathItem": {
        **_from(2, _METHODS, ("@Operation",) * len(_METHODS)),
        "parameters": (9, "[]@ParametersItem"),
    },
    "Operation": {
        "tags": (1, "[]string"),
        "description": (3, "string"),
        "operationId": (5, "string"),
        "produces": (6, "[]string"),
        "consumes": (7, "[]string"),
        "parameters": (8, "[]@ParametersItem"),
        "responses": (9, "@Responses"),
        "schemes": (10, "[]string"),
        "x-": (13, "any"),
    },
    # A parameter is of one of three kinds, each in a message of its own: see `_parameter`.
    "body": {
        "description": (1, "string"),
        "name": (2, "string"),
        "in": (3, "string"),
        "required": (4, "bool"),
        "schema": (5, "@Schema"),
    },
    "query": _primitive((6, 7, 11, 18, 23), _PARAMETER),
    "path": _primitive((5, 6, 10, 17, 22), _PARAMETER),
    "Responses": {"*": (1, "{}@ResponseValue")},
    "ResponseValue": {"": (1, "@Response")},
    "Response": {"description": (1, "string"), "schema": (2, "@SchemaItem")},
    "SchemaItem": {"": (1, "@Schema")},
    "Properties": {"*": (1, "{}@Schema")},
    "Schema": {
        "$ref": (1, "string"),
        "format": (2, "string"),
        "title": (3, "string"),
        "description": (4, "string"),
        "multipleOf": (6, "double"),
        **_from(7, _LIMITS, _LIMIT_TYPES),
        **_from(14, _SIZES, _SIZE_TYPES),
        "maxProperties": (17, "int"),
        "minProperties": (18, "int"),
        "required": (19, "[]string"),
        "enum": (20, "[]any"),
        "additionalProperties": (21, "@AdditionalPropertiesItem"),
        "type": (22, "@TypeItem"),
        "items": (23, "@ItemsItem"),
        "properties": (25, "@Properties"),
        "example": (30, "any"),
        "x-": (31, "any"),
    },
    "AdditionalPropertiesItem": {"": (1, "@Schema"), "bool": (2, "bool")},
    "TypeItem": {"": (1, "string")},
    "ItemsItem": {"": (1, "@Schema")},
}
_V3: Final[Mapping[str, _Table]] = {
    "Document": {
        "openapi": (1, "string"),
        "info": (2, "@Info"),
        "paths": (4, "@Paths"),
        "components": (5, "@Components"),
    },
    "Info": {"title": (1, "string"), "version": (6, "string")},
    "Paths": {"*": (1, "{}@PathItem")},
    "PathItem": {**_from(4, _METHODS, ("@Operation",) * len(_METHODS)), "parameters": (13, "[]@Parameter?")},
    "Operation": {
        "tags": (1, "[]string"),
        "description": (3, "string"),
        "operationId": (5, "string"),
        "parameters": (6, "[]@Parameter?"),
        "requestBody": (7, "@RequestBody?"),
        "responses": (8, "@Responses"),
        "x-": (13, "any"),
    },
    "Parameter": {
        "name": (1, "string"),
        "in": (2, "string"),
        "description": (3, "string"),
        "required": (4, "bool"),
        "schema": (10, "@Schema?"),
    },
    "RequestBody": {"content": (2, "@MediaTypes"), "required": (3, "bool")},
    "Responses": {"*": (2, "{}@Response?")},
    "Response": {"description": (1, "string"), "content": (3, "@MediaTypes")},
    "MediaTypes": {"*": (1, "{}@MediaType")},
    "MediaType": {"schema": (1, "@Schema?")},
    "Components": {"schemas": (1, "@Properties")},
    "Properties": {"*": (1, "{}@Schema?")},
    "Reference": {"$ref": (1, "string")},
    "Schema": {
        "nullable": (1, "bool"),
        "example": (7, "any"),
        "title": (9, "string"),
        "multipleOf": (10, "double"),
        **_from(11, _LIMITS, _LIMIT_TYPES),
        **_from(18, _SIZES, _SIZE_TYPES),
        "maxProperties": (21, "int"),
        "minProperties": (22, "int"),
        "required": (23, "[]string"),
        "enum": (24, "[]any"),
        "type": (25, "string"),
        "allOf": (26, "[]@Schema?"),
        "oneOf": (27, "[]@Schema?"),
        "anyOf": (28, "[]@Schema?"),
        "not": (29, "@Schema"),
        "items": (30, "@ItemsItem"),
        "properties": (31, "@Properties"),
        "additionalProperties": (32, "@AdditionalPropertiesItem"),
        "default": (33, "@DefaultType"),
        "description": (34, "string"),
        "format": (35, "string"),
        "x-": (36, "any"),
    },
    "AdditionalPropertiesItem": {"": (1, "@Schema?"), "bool": (2, "bool")},
    "ItemsItem": {"": (1, "@Schema?")},
}


def negotiate(accept: str, protobuf: str) -> str | None:
    """Which is named first in `Accept` of JSON and a protobuf form; None when neither is."""
    for clause in (accept or "*/*").split(","):
        named = clause.partition(";")[0].strip().lower()
        if named in (_JSON, "*/*", "application/*"):
            return _JSON
        if named in _FORMS[protobuf]:
            return protobuf
    return None


def encoded(document: Document, protobuf: str) -> Document:
    """The protobuf form of an OpenAPI document in JSON; its ETag stays, as in Kubernetes."""
    tables = _V2 if protobuf == V2_TYPE else _V3
    return Document(_message(tables, "Document", orjson.loads(document.body)), protobuf, document.etag)


def _message(tables: Mapping[str, _Table], name: str, value: Any) -> bytes:
    """A message; a table of the one key "" is a message around the value itself."""
    if name == "ParametersItem":
        return _parameter(tables, value)
    if name == "DefaultType":
        return _default(value)
    table = tables[name]
    if "" in table:
        return _field(tables, *(table["bool"] if isinstance(value, bool) else table[""]), value)
    if "*" in table:
        return _field(tables, *table["*"], value)
    parts: list[bytes] = []
    for key, one in value.items():
        if key in table:
            parts.append(_field(tables, *table[key], one))
        elif key.startswith("x-") and "x-" in table:
            named = _sized(1, key.encode()) + _sized(2, _any(one))
            parts.append(_sized(table["x-"][0], named))
    return b"".join(parts)


def _field(tables: Mapping[str, _Table], number: int, kind: str, value: Any) -> bytes:
    if kind.startswith("[]"):
        return b"".join(_field(tables, number, kind[2:], one) for one in value)
    if kind.startswith("{}"):
        entries = (_sized(1, name.encode()) + _field(tables, 2, kind[2:], one) for name, one in value.items())
        return b"".join(_sized(number, entry) for entry in entries)
    if kind.endswith("?"):  # the message itself, or a reference to it
        name = "Reference" if "$ref" in value else kind[1:-1]
        return _sized(number, _sized(2 if name == "Reference" else 1, _message(tables, name, value)))
    if kind.startswith("@"):
        return _sized(number, _message(tables, kind[1:], value))
    return _scalar(number, kind, value)


def _scalar(number: int, kind: str, value: Any) -> bytes:
    match kind:
        case "bool" | "int":
            return _varint(number << 3) + _varint(int(value) & 0xFFFFFFFFFFFFFFFF)
        case "double":
            return _varint(number << 3 | 1) + struct.pack("<d", value)
        case "any":
            return _sized(number, _any(value))
    return _sized(number, value.encode())


def _parameter(tables: Mapping[str, _Table], value: Mapping[str, Any]) -> bytes:
    """ParametersItem of Parameter of BodyParameter, or of NonBodyParameter of the query's or the path's."""
    place = value["in"]
    inner = _message(tables, place, value)
    if place == "body":
        return _sized(1, _sized(1, inner))
    return _sized(1, _sized(2, _sized(3 if place == "query" else 4, inner)))


def _default(value: Any) -> bytes:
    """A default that is a number, a flag or a text; gnostic has no others."""
    if isinstance(value, bool):
        return b"\x10" + _varint(int(value))
    if isinstance(value, int | float):
        return b"\x09" + struct.pack("<d", value)
    return _sized(3, value.encode()) if isinstance(value, str) else b""


def _any(value: Any) -> bytes:
    return _sized(2, orjson.dumps(value))


def _sized(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
