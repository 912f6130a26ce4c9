"""Custom resources against the OpenAPI v3 schema of their definition: defaults and validation. Pure.

Pruning of unknown fields is done when a body is decoded. Rules in CEL (`x-kubernetes-validations`) are not evaluated.
What defaults add and what validation looks at is counted: many items under many branches cost their product.
Source: Kubernetes reference "Extend the Kubernetes API with CustomResourceDefinitions" (structural schemas); messages
as go-openapi/validate words them.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from rayplane.control_plane.api.errors import (
    FINDINGS_MAX,
    TOO_LONG,
    TOO_MANY,
    TYPE_INVALID,
    FieldError,
    forbidden,
    invalid,
    not_supported,
    required,
)
from rayplane.control_plane.api.machinery import patterns
from rayplane.control_plane.api.machinery.budget import LIMITS, Meter
from rayplane.control_plane.api.meta import Object

Schema = Mapping[str, Any]
_JSON_TYPES = {
    "string": str,
    "object": dict,
    "array": list,
    "boolean": bool,
}


def default(value: Any, schema: Schema) -> None:
    """Fill in the defaults of a schema below `value`, in place. Raises TooManyValues where they add too much."""
    _default(value, schema, Meter(LIMITS.defaulted_bytes, "the defaults of the schema add more than {limit} bytes"))


def _default(value: Any, schema: Schema, meter: Meter) -> None:
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for name, sub in properties.items():
            if "default" in sub and (name not in value or (value[name] is None and not sub.get("nullable"))):
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


def validate(o: Object, schema: Schema) -> list[FieldError]:
    """Everything in a custom resource that its schema does not allow (metadata has rules of its own).

    Raises TooManyValues where the schema has too much to say about the object.
    """
    body = {k: v for k, v in o.items() if k not in ("apiVersion", "kind", "metadata")}
    shown = {k: v for k, v in (schema.get("properties") or {}).items() if k not in ("apiVersion", "kind", "metadata")}
    errors = _Errors(Meter(LIMITS.schema_steps, "validating the object by its schema takes more than {limit} steps"))
    _value(body, {**schema, "properties": shown}, "", errors)
    return errors


class _Errors(list[FieldError]):
    """Errors found so far, as many as are told, and what may still be looked at."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def append(self, error: FieldError) -> None:
        if len(self) < FINDINGS_MAX:
            super().append(error)


def schema_errors(schema: Schema, path: str) -> list[FieldError]:
    """What is wrong with a schema, of a definition that is being written: patterns and items."""
    found: list[FieldError] = []
    if isinstance(schema.get("items"), list):
        found.append(forbidden(f"{path}.items", "items must be a schema object and not an array"))
    pattern = schema.get("pattern")
    if pattern:
        try:
            patterns.check(pattern)
        except patterns.PatternError as error:
            text = f"must be a valid regular expression, but isn't: {error}"
            found.append(invalid(f"{path}.pattern", pattern, text))
    for place, sub in _below(schema):
        found += schema_errors(sub, f"{path}.{place}")
    return found


def _below(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas inside a schema, each with its place."""
    for word in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(word), Mapping):
            yield word, schema[word]
    for word in ("allOf", "anyOf", "oneOf"):
        for index, sub in enumerate(schema.get(word) or ()):
            yield f"{word}[{index}]", sub
    for word in ("properties", "patternProperties", "definitions"):
        for name, sub in (schema.get(word) or {}).items():
            if isinstance(sub, Mapping):
                yield f"{word}[{name}]", sub


def _value(value: Any, schema: Schema, path: str, errors: _Errors) -> None:
    errors.meter.spend()
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
    if choices is not None:
        errors.meter.spend(len(choices))
        if value not in choices:
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


def _object(value: dict[str, Any], schema: Schema, path: str, errors: _Errors) -> None:
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


def _array(value: list[Any], schema: Schema, path: str, errors: _Errors) -> None:
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
        seen: set[bytes] = set()
        for index, item in enumerate(value):
            key = {k: item.get(k) for k in keys} if keys and isinstance(item, dict) else item
            mark = orjson.dumps(key, option=orjson.OPT_SORT_KEYS)
            if mark in seen:
                errors.append(FieldError("FieldValueDuplicate", f"{path}[{index}]", key))
            seen.add(mark)


def _string(value: str, schema: Schema, path: str, errors: _Errors) -> None:
    low, high, pattern = schema.get("minLength"), schema.get("maxLength"), schema.get("pattern")
    if low is not None and len(value) < low:
        errors.append(invalid(path, value, f"{path} in body should be at least {low} chars long"))
    if high is not None and len(value) > high:
        errors.append(FieldError(TOO_LONG, path, None, f"may not be more than {high} bytes"))
    if pattern and not _found(pattern, value):
        errors.append(invalid(path, value, f"{path} in body should match '{pattern}'"))


def _found(pattern: str, value: str) -> bool:
    try:
        return patterns.search(pattern, value)
    except patterns.PatternError:
        return True  # stored before patterns were checked: what cannot be judged is let through


def _number(value: float, schema: Schema, path: str, errors: _Errors) -> None:
    low, high, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        word = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        errors.append(invalid(path, value, f"{path} in body should be {word} {low}"))
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        word = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        errors.append(invalid(path, value, f"{path} in body should be {word} {high}"))
    if step and value % step:
        errors.append(invalid(path, value, f"{path} in body should be a multiple of {step}"))


def _combined(value: Any, schema: Schema, path: str, errors: _Errors) -> None:
    def fits(sub: Schema) -> bool:
        found = _Errors(errors.meter)
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
