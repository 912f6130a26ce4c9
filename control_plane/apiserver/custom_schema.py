"""Custom resources against the OpenAPI v3 schema of their definition: defaults and validation. Pure.

Pruning of unknown fields is done when a body is decoded. Rules in CEL (`x-kubernetes-validations`) are not evaluated.
Source: Kubernetes reference "Extend the Kubernetes API with CustomResourceDefinitions" (structural schemas); messages
as go-openapi/validate words them.
"""

import copy
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from control_plane.api.errors import (
    TOO_LONG,
    TOO_MANY,
    TYPE_INVALID,
    FieldError,
    invalid,
    not_supported,
    required,
)
from control_plane.api.meta import Object

Schema = Mapping[str, Any]
_JSON_TYPES = {
    "string": str,
    "object": dict,
    "array": list,
    "boolean": bool,
}


def default(value: Any, schema: Schema) -> None:
    """Fill in the defaults of a schema below `value`, in place."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for name, sub in properties.items():
            if "default" in sub and (name not in value or (value[name] is None and not sub.get("nullable"))):
                value[name] = copy.deepcopy(sub["default"])
        others = schema.get("additionalProperties")
        for name, item in value.items():
            if name in properties:
                default(item, properties[name])
            elif isinstance(others, Mapping):
                default(item, others)
    elif isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, Mapping):
            for item in value:
                default(item, items)


def validate(o: Object, schema: Schema) -> list[FieldError]:
    """Everything in a custom resource that its schema does not allow (metadata has rules of its own)."""
    errors: list[FieldError] = []
    body = {k: v for k, v in o.items() if k not in ("apiVersion", "kind", "metadata")}
    shown = {k: v for k, v in (schema.get("properties") or {}).items() if k not in ("apiVersion", "kind", "metadata")}
    _value(body, {**schema, "properties": shown}, "", errors)
    return errors


def _value(value: Any, schema: Schema, path: str, errors: list[FieldError]) -> None:
    if value is None and schema.get("nullable"):
        return
    if not _type_fits(value, schema):
        wanted = schema.get("type") or "integer,string"
        shown = _type_name(value)
        text = f'{path} in body must be of type {wanted}: "{shown}"'
        errors.append(FieldError(TYPE_INVALID, path, shown, text))
        return
    if isinstance(value, dict):
        _object(value, schema, path, errors)
    elif isinstance(value, list):
        _array(value, schema, path, errors)
    elif isinstance(value, str):
        _string(value, schema, path, errors)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _number(value, schema, path, errors)
    choices = schema.get("enum")
    if choices is not None and value not in choices:
        errors.append(not_supported(path, value, [str(c) for c in choices]))
    _combined(value, schema, path, errors)


def _type_fits(value: Any, schema: Schema) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, (int, str)) and not isinstance(value, bool)
    wanted = schema.get("type")
    if wanted == "integer":
        whole = isinstance(value, float) and value.is_integer()
        return whole or (isinstance(value, int) and not isinstance(value, bool))
    if wanted == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted in _JSON_TYPES:
        return isinstance(value, _JSON_TYPES[wanted])
    return True


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _object(value: dict[str, Any], schema: Schema, path: str, errors: list[FieldError]) -> None:
    properties = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    for name in schema.get("required") or ():
        if name not in value:
            errors.append(required(_join(path, name)))
    for name, item in value.items():
        if name in properties:
            _value(item, properties[name], _join(path, name), errors)
        elif isinstance(others, Mapping):
            _value(item, others, _join(path, name), errors)
    low, high = schema.get("minProperties"), schema.get("maxProperties")
    if low is not None and len(value) < low:
        errors.append(invalid(path, len(value), f"{path} in body should have at least {low} properties"))
    if high is not None and len(value) > high:
        errors.append(FieldError(TOO_MANY, path, len(value), f"must have at most {high} items"))


def _array(value: list[Any], schema: Schema, path: str, errors: list[FieldError]) -> None:
    items = schema.get("items")
    if isinstance(items, Mapping):
        for index, item in enumerate(value):
            _value(item, items, f"{path}[{index}]", errors)
    low, high = schema.get("minItems"), schema.get("maxItems")
    if low is not None and len(value) < low:
        errors.append(invalid(path, len(value), f"{path} in body should have at least {low} items"))
    if high is not None and len(value) > high:
        errors.append(FieldError(TOO_MANY, path, len(value), f"must have at most {high} items"))
    keys = schema.get("x-kubernetes-list-map-keys")
    unique = schema.get("uniqueItems") or schema.get("x-kubernetes-list-type") == "set" or keys
    if unique:
        seen: list[Any] = []
        for index, item in enumerate(value):
            mark = {k: item.get(k) for k in keys} if keys and isinstance(item, dict) else item
            if mark in seen:
                errors.append(FieldError("FieldValueDuplicate", f"{path}[{index}]", mark))
            seen.append(mark)


def _string(value: str, schema: Schema, path: str, errors: list[FieldError]) -> None:
    low, high, pattern = schema.get("minLength"), schema.get("maxLength"), schema.get("pattern")
    if low is not None and len(value) < low:
        errors.append(invalid(path, value, f"{path} in body should be at least {low} chars long"))
    if high is not None and len(value) > high:
        errors.append(FieldError(TOO_LONG, path, None, f"may not be more than {high} bytes"))
    if pattern and not _search(pattern, value):
        errors.append(invalid(path, value, f"{path} in body should match '{pattern}'"))


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern)
    except re.error:
        # Written for another engine: what cannot be judged is let through.
        return None


def _search(pattern: str, value: str) -> bool:
    compiled = _compiled(pattern)
    return compiled is None or compiled.search(value) is not None


def _number(value: float, schema: Schema, path: str, errors: list[FieldError]) -> None:
    low, high, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        word = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        errors.append(invalid(path, value, f"{path} in body should be {word} {low}"))
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        word = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        errors.append(invalid(path, value, f"{path} in body should be {word} {high}"))
    if step and value % step:
        errors.append(invalid(path, value, f"{path} in body should be a multiple of {step}"))


def _combined(value: Any, schema: Schema, path: str, errors: list[FieldError]) -> None:
    def fits(sub: Schema) -> bool:
        found: list[FieldError] = []
        _value(value, sub, path, found)
        return not found

    for sub in schema.get("allOf") or ():
        _value(value, sub, path, errors)
    for word, ok in (("anyOf", lambda n: n >= 1), ("oneOf", lambda n: n == 1)):
        choices = schema.get(word)
        if choices and not ok(sum(fits(c) for c in choices)):
            count = "at least one" if word == "anyOf" else "one and only one"
            errors.append(invalid(path, value, f"{path} in body must validate {count} schema ({word})"))
    if schema.get("not") and fits(schema["not"]):
        errors.append(invalid(path, value, f"{path} in body must not validate the schema (not)"))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
