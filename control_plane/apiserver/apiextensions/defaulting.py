"""Defaults and pruning of custom resources by their schema: of what is written, and of what was stored before. Pure.

What defaults add is counted: many items under many branches cost their product.
Source: Kubernetes reference "Defaulting", "Defaulting and Nullable" and "Field pruning".
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from rayplane.control_plane.api.errors import FieldError, invalid
from rayplane.control_plane.api.machinery.budget import LIMITS, Meter
from rayplane.control_plane.apiserver.apiextensions.schema import value_errors
from rayplane.control_plane.apiserver.apiextensions.structural import EMBEDDED, META_FIELDS, PRESERVE, sub_schemas

Schema = Mapping[str, Any]
_NO_SCHEMA: Schema = {}


def default(value: Any, schema: Schema) -> None:
    """Fill in the defaults of a schema below `value`, in place. Raises TooManyValues where they add too much."""
    _default(value, schema, Meter(LIMITS.defaulted_bytes, "the defaults of the schema add more than {limit} bytes"))


def _default(value: Any, schema: Schema, meter: Meter) -> None:
    if isinstance(value, dict):
        properties = schema.get("properties") or _NO_SCHEMA
        for name, sub in properties.items():
            if sub.get("default") is not None and (name not in value or _is_bare_null(value[name], sub)):
                meter.spend(len(name) + len(orjson.dumps(sub["default"])))
                value[name] = copy.deepcopy(sub["default"])
        others = schema.get("additionalProperties")
        for name, item in value.items():
            if name in properties:
                _default(item, properties[name], meter)
            elif isinstance(others, Mapping):
                _default(item, others, meter)
    elif isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, Mapping):
            for item in value:
                _default(item, items, meter)


def _is_bare_null(value: Any, schema: Schema) -> bool:
    return value is None and not schema.get("nullable")


def prune(value: Any, schema: Schema, *, root: bool = False) -> None:
    """Drop what a schema does not specify, and nulls where there can be none, in place."""
    if isinstance(value, list):
        items = schema.get("items")
        for item in value:
            prune(item, items if isinstance(items, Mapping) else _NO_SCHEMA)
        return
    if not isinstance(value, dict):
        return
    properties = schema.get("properties") or _NO_SCHEMA
    others, keeps = schema.get("additionalProperties"), schema.get(PRESERVE)
    known = META_FIELDS if root or schema.get(EMBEDDED) else frozenset()
    for name in list(value):
        sub = properties.get(name)
        if name in known:
            continue
        if sub is not None:
            if _is_bare_null(value[name], sub):
                del value[name]
            else:
                prune(value[name], sub, root=bool(sub.get(EMBEDDED)))
        elif isinstance(others, Mapping):
            prune(value[name], others, root=bool(others.get(EMBEDDED)))
        elif not others and not keeps:
            del value[name]


def settle(o: Any, schema: Schema) -> None:
    """Make what was stored under an earlier schema what this one says, in place: defaults, and no unknown fields."""
    default(o, schema)
    prune(o, schema, root=True)


def default_errors(schema: Schema, path: str) -> Iterator[FieldError]:
    """Defaults that the schema itself would not take."""
    given = schema.get("default")
    if given is not None:
        kept = copy.deepcopy(given)
        prune(kept, schema, root=bool(schema.get(EMBEDDED)))
        if kept != given:
            yield invalid(f"{path}.default", given, "must not have unknown fields")
        else:
            filled = copy.deepcopy(given)
            default(filled, schema)
            yield from value_errors(filled, schema, f"{path}.default")
    for where, sub in sub_schemas(schema):
        yield from default_errors(sub, f"{path}.{where}")
