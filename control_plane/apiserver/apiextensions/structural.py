"""Schemas of definitions: what makes one structural, and what Kubernetes does not take in any. Pure.

Source: apiextensions-apiserver `pkg/apis/apiextensions/validation` and `pkg/apiserver/schema`; Kubernetes reference
"Specifying a structural schema".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from rayplane.control_plane.api.errors import FieldError, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.machinery import patterns

Schema = Mapping[str, Any]
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\['((?:[^'\\]|\\.)*)'\]")
TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")
META_FIELDS: Final = frozenset({"apiVersion", "kind", "metadata"})
PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
EMBEDDED: Final = "x-kubernetes-embedded-resource"
INT_OR_STRING: Final = "x-kubernetes-int-or-string"
LIST_TYPE: Final = "x-kubernetes-list-type"
LIST_KEYS: Final = "x-kubernetes-list-map-keys"
MAP_TYPE: Final = "x-kubernetes-map-type"
_ROOT, _ITEM, _FIELD = "root", "item", "field"
_NO_TYPE: Final = {
    _ROOT: "must not be empty at the root",
    _ITEM: "must not be empty for specified array items",
    _FIELD: "must not be empty for specified object fields",
}
_UNSUPPORTED: Final = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")
_INT_OR_STRING_ANY_OF: Final = [{"type": "integer"}, {"type": "string"}]
# What value validation says nothing of: the schema around it does.
_GENERICS: Final = (
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("externalDocs", "must be undefined to be structural"),
    (PRESERVE, "must be false to be structural"),
    (EMBEDDED, "must be false to be structural"),
    (INT_OR_STRING, "must be false to be structural"),
    (LIST_KEYS, "must be empty to be structural"),
    (LIST_TYPE, "must be undefined to be structural"),
    (MAP_TYPE, "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
)


class PathError(ValueError):
    """A path that leads to no field of a schema; the message says why, as Kubernetes does."""


def schema_errors(schema: Schema, path: str) -> list[FieldError]:
    """What is wrong with the schema of a definition: first by OpenAPI, and if that is right by structure."""
    found = list(_openapi(schema, path, _Place(root=True)))
    if not found:
        found = sorted([*_invariants(schema, path, _ROOT), *_completeness(schema, path)], key=lambda e: str(e))
    return found


def sub_schemas(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas of a value's parts, each with its place."""
    for name, sub in _mapping(schema.get("properties")).items():
        if isinstance(sub, Mapping):
            yield f"properties[{name}]", sub
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), Mapping):
            yield word, schema[word]


def schema_at(path: str, schema: Schema, *, quoted: bool = True) -> Schema:
    """The schema of the field that a path such as `.spec['a b']` leads to. Raises PathError where it leads nowhere."""
    at = 0
    while at < len(path):
        if path[at] == "[" and not quoted:
            raise PathError("array notation is not allowed")
        step = _STEP.match(path, at)
        if step is None:
            raise PathError(f"expected [ or . but got: {path[at:]}")
        at, name = step.end(), step[1] if step[1] is not None else step[2]
        properties, others = _mapping(schema.get("properties")), schema.get("additionalProperties")
        found = properties.get(name) if properties else others
        if not isinstance(found, Mapping):
            raise PathError("does not refer to a valid field")
        schema = found
    return schema


def _junctors(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas that the same value is held against, each with its place."""
    if isinstance(schema.get("not"), Mapping):
        yield "not", schema["not"]
    for word in ("allOf", "anyOf", "oneOf"):
        for index, sub in enumerate(schema.get(word) or ()):
            if isinstance(sub, Mapping):
                yield f"{word}[{index}]", sub


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# --- OpenAPI ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a schema in another one, as far as it matters for what it may say."""

    root: bool = False
    in_metadata: bool = False
    no_default: str = ""
    """Why there may be no default."""


def _openapi(schema: Schema, path: str, place: _Place) -> Iterator[FieldError]:
    yield from _words(schema, path, place)
    if schema.get("uniqueItems"):
        text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield forbidden(f"{path}.uniqueItems", text)
    others = schema.get("additionalProperties")
    if others is not None and others is not True and schema.get("properties"):
        text = "additionalProperties and properties are mutual exclusive"
        yield forbidden(f"{path}.additionalProperties", text)
    yield from _list_and_map(schema, path)
    inner = replace(place, root=False)
    for where, sub in sub_schemas(schema):
        yield from _openapi(sub, f"{path}.{where}", _inside(schema, where, place))
    for where, sub in _junctors(schema):
        yield from _openapi(sub, f"{path}.{where}", inner)


def _inside(schema: Schema, where: str, place: _Place) -> _Place:
    inner = replace(place, root=False)
    name = where[len("properties[") : -1] if where.startswith("properties[") else ""
    if name in META_FIELDS and (place.root or schema.get(EMBEDDED)):
        return replace(inner, in_metadata=True, no_default=f"in top-level {name}" if place.root else place.no_default)
    if where == "additionalProperties" and place.in_metadata:
        return replace(inner, no_default="inside additionalProperties applying to object metadata")
    return inner


def _words(schema: Schema, path: str, place: _Place) -> Iterator[FieldError]:
    kind = schema.get("type") or ""
    if kind == "null":
        yield forbidden(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
    elif kind and kind not in TYPES:
        yield not_supported(f"{path}.type", kind, TYPES)
    if schema.get("default") is not None and place.no_default:
        yield forbidden(f"{path}.default", f"must not be set {place.no_default}")
    for word in _UNSUPPORTED:
        if schema.get(word) not in (None, "", {}):
            yield forbidden(f"{path}.{word}", f"{word} is not supported")
    if isinstance(schema.get("items"), list):
        yield forbidden(f"{path}.items", "items must be a schema object and not an array")
    if place.in_metadata and schema.get(EMBEDDED):
        yield forbidden(f"{path}.{EMBEDDED}", "must not be used inside of resource meta")
    if schema.get(PRESERVE) is False:
        yield invalid(f"{path}.{PRESERVE}", False, "must be true or undefined")


def _list_and_map(schema: Schema, path: str) -> Iterator[FieldError]:
    kind, map_type, list_type = schema.get("type") or "", schema.get(MAP_TYPE), schema.get(LIST_TYPE)
    if map_type is not None:
        yield from _needs_type(kind, "object", f"{path}.type", MAP_TYPE)
        if map_type not in ("atomic", "granular"):
            yield not_supported(f"{path}.{MAP_TYPE}", map_type, ("atomic", "granular"))
    if list_type is not None:
        yield from _needs_type(kind, "array", f"{path}.type", LIST_TYPE)
        if list_type not in ("atomic", "set", "map"):
            yield not_supported(f"{path}.{LIST_TYPE}", list_type, ("atomic", "set", "map"))
    items = _mapping(schema.get("items"))
    if list_type in ("set", "map") and items.get("nullable"):
        yield forbidden(f"{path}.items.nullable", f"cannot be nullable when {LIST_TYPE} is {list_type}")
    if list_type == "set" and kind == "array":
        yield from _atomic_items(items, path)
    if list_type == "map":
        yield from _keyed(schema, items, path)
    elif schema.get(LIST_KEYS):
        text = f"must be map if {LIST_KEYS} is non-empty"
        at = f"{path}.{LIST_TYPE}"
        yield required(at, text) if list_type is None else invalid(at, list_type, text)


def _needs_type(kind: str, wanted: str, path: str, word: str) -> Iterator[FieldError]:
    if kind != wanted:
        text = f"must be {wanted} if {word} is specified"
        yield invalid(path, kind, text) if kind else required(path, text)


def _atomic_items(items: Schema, path: str) -> Iterator[FieldError]:
    text = f"must be atomic as item of a list with {LIST_TYPE}=set"
    if items.get("type") == "array" and items.get(LIST_TYPE, "atomic") != "atomic":
        yield invalid(f"{path}.items.{LIST_TYPE}", items[LIST_TYPE], text)
    if items.get("type") == "object" and items.get(MAP_TYPE) != "atomic":
        yield invalid(f"{path}.items.{MAP_TYPE}", items.get(MAP_TYPE), text)


def _keyed(schema: Schema, items: Schema, path: str) -> Iterator[FieldError]:
    keys = schema.get(LIST_KEYS) or []
    if not keys:
        yield required(f"{path}.{LIST_KEYS}", f"must not be empty if {LIST_TYPE} is map")
    if schema.get("items") is None:
        yield required(f"{path}.items", f"must have a schema if {LIST_TYPE} is map")
        return
    if items.get("type") != "object":
        text = f"must be object if parent array's {LIST_TYPE} is map"
        yield invalid(f"{path}.items.type", items.get("type") or "", text)
        return
    properties = _mapping(items.get("properties"))
    for number, key in enumerate(keys):
        if key in keys[:number]:
            yield invalid(f"{path}.{LIST_KEYS}", keys, "must not contain duplicate entries")
        if key not in properties:
            yield invalid(f"{path}.{LIST_KEYS}", keys, "entries must all be names of item properties")
            continue
        yield from _key(properties[key], key in (items.get("required") or ()), f"{path}.items.properties[{key}]")


def _key(schema: Schema, needed: bool, path: str) -> Iterator[FieldError]:
    if schema.get("type") in ("array", "object"):
        text = f"must be a scalar type if parent array's {LIST_TYPE} is map"
        yield invalid(f"{path}.type", schema["type"], text)
    if not needed and schema.get("default") is None:
        text = f"this property is in {LIST_KEYS}, so it must have a default or be a required property"
        yield required(f"{path}.default", text)
    if schema.get("nullable"):
        yield forbidden(f"{path}.nullable", f"this property is in {LIST_KEYS}, so it cannot be nullable")


# --- structure --------------------------------------------------------------------------------------


def _invariants(schema: Schema, path: str, level: str) -> Iterator[FieldError]:
    kind = schema.get("type") or ""
    if kind == "array" and not schema.get("items"):
        yield required(f"{path}.items", "must be specified")
    for where, sub in sub_schemas(schema):
        if where == "additionalProperties" and level == _ROOT:
            yield forbidden(f"{path}.{where}", "must not be used at the root")
        yield from _invariants(sub, f"{path}.{where}", _ITEM if where == "items" else _FIELD)
    yield from _extensions(schema, path)
    yield from _values(schema, path)
    yield from _type(schema, kind, path, level)
    properties = _mapping(schema.get("properties"))
    if level == _ROOT or schema.get(EMBEDDED):
        for name in ("kind", "apiVersion"):
            if name in properties and properties[name].get("type") != "string":
                yield invalid(f"{path}.properties[{name}].type", properties[name].get("type") or "", "must be string")
        metadata = properties.get("metadata")
        if metadata is not None and metadata.get("type") != "object":
            yield invalid(f"{path}.properties[metadata].type", metadata.get("type") or "", "must be object")
    if level == _ROOT and "metadata" in properties:
        yield from _metadata(properties["metadata"], f"{path}.properties[metadata]")


def _type(schema: Schema, kind: str, path: str, level: str) -> Iterator[FieldError]:
    if schema.get(EMBEDDED):
        text = f"must be object if {EMBEDDED} is true"
        if kind != "object":
            yield invalid(f"{path}.type", kind, text) if kind else required(f"{path}.type", text)
        if isinstance(schema.get("additionalProperties"), Mapping):
            yield forbidden(f"{path}.additionalProperties", f"must not be used if {EMBEDDED} is set")
        if not schema.get(PRESERVE) and not schema.get("properties"):
            text = f"must not be empty if {EMBEDDED} is true without {PRESERVE}"
            yield required(f"{path}.properties", text)
    elif not kind and not schema.get(INT_OR_STRING) and not schema.get(PRESERVE):
        yield required(f"{path}.type", _NO_TYPE[level])
    if level == _ROOT and kind and kind != "object":
        yield invalid(f"{path}.type", kind, "must be object at the root")


def _extensions(schema: Schema, path: str) -> Iterator[FieldError]:
    if schema.get(INT_OR_STRING):
        for word in (PRESERVE, EMBEDDED):
            if schema.get(word):
                yield invalid(f"{path}.{word}", True, f"must be false if {INT_OR_STRING} is true")


def _metadata(schema: Schema, path: str) -> Iterator[FieldError]:
    """Metadata at the root is known: only names may be restricted."""
    rest = set(schema) - {"type", "properties", "description", "required", "minProperties", "maxProperties"}
    if not set(_mapping(schema.get("properties"))) <= {"name", "generateName"} or rest & {w for w, _ in _GENERICS}:
        text = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        yield forbidden(path, text)


def _values(schema: Schema, path: str, *, skip_any_of: bool | None = None) -> Iterator[FieldError]:
    """What value validation may not say, but for the two ways to write an integer or a string."""
    if schema.get(INT_OR_STRING) and skip_any_of is None:
        first = next(iter(schema.get("allOf") or ()), None)
        in_all_of = isinstance(first, Mapping) and first.get("anyOf") == _INT_OR_STRING_ANY_OF
        skip_any_of = schema.get("anyOf") == _INT_OR_STRING_ANY_OF
    else:
        in_all_of = False
    for where, sub in _junctors(schema):
        if skip_any_of and where.startswith("anyOf"):
            continue
        yield from _nested(sub, f"{path}.{where}", skip_any_of=in_all_of and where == "allOf[0]")
    pattern = schema.get("pattern")
    if pattern:
        try:
            patterns.check(pattern)
        except patterns.PatternError as error:
            text = f"must be a valid regular expression, but isn't: {error}"
            yield invalid(f"{path}.pattern", pattern, text)


def _nested(schema: Schema, path: str, *, skip_any_of: bool = False) -> Iterator[FieldError]:
    yield from _values(schema, path, skip_any_of=skip_any_of)
    for where, sub in sub_schemas(schema):
        if where != "additionalProperties":
            yield from _nested(sub, f"{path}.{where}")
    for word, text in _GENERICS:
        if schema.get(word) not in (None, "", False, [], {}):
            yield forbidden(f"{path}.{word}", text)
    if "metadata" in _mapping(schema.get("properties")):
        yield forbidden(f"{path}.properties[metadata]", "must not be specified in a nested context")


def _completeness(schema: Schema, path: str) -> Iterator[FieldError]:
    """Everything that is validated by value stands in the structure, too."""
    for where, sub in _junctors(schema):
        yield from _complete(sub, schema, path, f"{path}.{where}")
    for where, sub in sub_schemas(schema):
        yield from _completeness(sub, f"{path}.{where}")


def _complete(nested: Schema, schema: Schema, path: str, own: str) -> Iterator[FieldError]:
    known = dict(sub_schemas(schema))
    for where, sub in sub_schemas(nested):
        if where in known:
            yield from _complete(sub, known[where], f"{path}.{where}", f"{own}.{where}")
        else:
            yield required(f"{path}.{where}", f"because it is defined in {own}.{where}")
    for where, sub in _junctors(nested):
        yield from _complete(sub, schema, path, f"{own}.{where}")
