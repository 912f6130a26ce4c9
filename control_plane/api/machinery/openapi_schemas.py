"""Schemas of OpenAPI v3 documents: definitions of the API with descriptions, defaults, enumerations and extensions.

Sources: the generated data (Kubernetes v1.37), kube-openapi for the form of it: what has a default, where a reference
stands alone and where in an `allOf`.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources as package_files
from typing import Any, Final, cast

import orjson

from rayplane.control_plane.api.machinery.descriptions import Described, describe
from rayplane.control_plane.api.machinery.schema import parse_type, raw_definitions

META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
OBJECT_META: Final = META + "ObjectMeta"
_SCALARS: Final[Mapping[str, dict[str, Any]]] = {
    "string": {"type": "string"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "bool": {"type": "boolean"},
    "double": {"type": "number", "format": "double"},
    "bytes": {"type": "string", "format": "byte"},
    "any": {},
    "object": {"type": "object"},
}
# Scalars that stand under a name of their own, so that `explain` can print it.
_NAMED: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "quantity": (
        "io.k8s.apimachinery.pkg.api.resource.Quantity",
        {"oneOf": [{"type": "string"}, {"type": "number"}]},
    ),
    "int-or-string": (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    ),
    "time": (META + "Time", {"type": "string", "format": "date-time"}),
    "micro-time": (META + "MicroTime", {"type": "string", "format": "date-time"}),
}
_EXTENSIONS: Final = {
    "strategy": "x-kubernetes-patch-strategy",
    "key": "x-kubernetes-patch-merge-key",
    "list": "x-kubernetes-list-type",
    "keys": "x-kubernetes-list-map-keys",
    "map": "x-kubernetes-map-type",
}

Kind = tuple[str, str, str]
"""Group, version, kind."""


@lru_cache(maxsize=1)
def _beyond_types() -> Mapping[str, Mapping[str, Any]]:
    """By definition: `defaults`, `enums`, `unions`, and the `named` free-form values."""
    packed = package_files.files("rayplane.control_plane.api").joinpath("data/openapi.json.gz").read_bytes()
    return cast(Mapping[str, Mapping[str, Any]], orjson.loads(gzip.decompress(packed)))


def kind_of(kind: Kind) -> dict[str, str]:
    group, version, name = kind
    return {"group": group, "kind": name, "version": version}


def reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


class Schemas:
    """The schemas of one document: those asked for and all they refer to."""

    def __init__(self) -> None:
        self._done: dict[str, dict[str, Any]] = {}
        self._todo: list[str] = []

    def need(self, name: str) -> None:
        if name not in self._done:
            self._todo.append(name)

    def add_custom(self, name: str, schema: Mapping[str, Any], kind: Kind, list_kind: str) -> None:
        """The schema of a custom resource, and that of its list, named NAME + "List"."""
        shared = _type_meta()
        made = {key: value for key, value in schema.items() if key != "properties"}
        properties = {
            **(schema.get("properties") or {}),
            **shared,
            "metadata": {"description": describe(META + "Status").field("metadata"), "allOf": [reference(OBJECT_META)]},
        }
        made |= {"type": "object", "properties": properties, "x-kubernetes-group-version-kind": [kind_of(kind)]}
        self._done[name] = made
        self._done[name + "List"] = {
            "description": f"{list_kind} is a list of {kind[2]}",
            "type": "object",
            "required": ["items"],
            "properties": {
                **shared,
                "items": {"description": f"List of {kind[2]}.", "type": "array", "items": reference(name)},
                "metadata": {
                    "description": describe(META + "Status").field("metadata"),
                    "allOf": [reference(META + "ListMeta")],
                },
            },
            "x-kubernetes-group-version-kind": [kind_of((*kind[:2], list_kind))],
        }
        self.need(OBJECT_META)
        self.need(META + "ListMeta")

    def render(self) -> dict[str, Any]:
        while self._todo:
            name = self._todo.pop()
            if name not in self._done:
                self._done[name] = self._struct(name, raw_definitions()[name])
        return dict(sorted(self._done.items()))

    def _struct(self, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        texts, beyond = describe(name), _beyond_types()
        defaults, enums, named = (beyond[part].get(name, {}) for part in ("defaults", "enums", "named"))
        properties: dict[str, Any] = {}
        for field, value in entry["fields"].items():
            expression, notes = (value, {}) if isinstance(value, str) else value
            schema = self._type(expression, enums.get(field), named.get(field))
            text = _with_values(texts.field(field), None if expression[:2] in ("[]", "{}") else enums.get(field))
            if "$ref" in schema and (text or field in defaults):
                schema = {"allOf": [schema]}  # what stands beside a reference is not read
            made = {"description": text} if text else {}
            if field in defaults:
                made["default"] = defaults[field]
            properties[field] = made | schema | {_EXTENSIONS[note]: value for note, value in notes.items()}
        return self._object(texts, properties, entry) | (
            {"x-kubernetes-unions": beyond["unions"][name]} if name in beyond["unions"] else {}
        )

    @staticmethod
    def _object(texts: Described, properties: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {"description": texts.text} if texts.text else {}
        made["type"] = "object"
        if properties:
            made["properties"] = properties
        if required := entry.get("required"):
            made["required"] = required
        if map_type := entry.get("map"):
            made["x-kubernetes-map-type"] = map_type
        if kinds := entry.get("kinds"):
            made["x-kubernetes-group-version-kind"] = [kind_of(tuple(kind)) for kind in kinds]
        return made

    def _type(self, expression: str, values: list[str] | None, name: str | None) -> dict[str, Any]:
        """The schema of a type; `values` and `name` are those of its innermost part."""
        if expression.startswith("[]"):
            return {"type": "array", "items": self._type(expression[2:], values, name)}
        if expression.startswith("{}"):
            return {"type": "object", "additionalProperties": self._type(expression[2:], values, name)}
        kind = parse_type(expression)
        if kind.reference:
            self.need(kind.reference)
            return reference(kind.reference)
        if name is not None:
            return self._value(name, _SCALARS[expression])
        if expression in _NAMED:
            return self._value(*_NAMED[expression])
        return _SCALARS[expression] | ({"enum": values} if values else {})

    def _value(self, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        if name not in self._done:
            self._done[name] = {"description": describe(name).text, **schema}
        return reference(name)


def _with_values(text: str, values: list[str] | None) -> str:
    if not values:
        return text
    return "\n".join([f"{text}\n\nPossible enum values:", *(f' - `"{value}"`' for value in values)])


def _type_meta() -> dict[str, Any]:
    """The fields that say what kind an object is of."""
    texts = describe(META + "Status")
    return {field: {"description": texts.field(field), "type": "string"} for field in ("apiVersion", "kind")}
