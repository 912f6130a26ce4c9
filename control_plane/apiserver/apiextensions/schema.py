"""Custom resources against the OpenAPI v3 schema of their definition: what it does not allow. Pure.

What validation looks at is counted: many items under many branches cost their product. What an update leaves as it was
is not judged again.
Source: Kubernetes reference "Extend the Kubernetes API with CustomResourceDefinitions" (structural schemas, validation
ratcheting); messages as go-openapi/validate words them.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from rayplane.control_plane.api.errors import (
    FINDINGS_MAX,
    NOT_SUPPORTED,
    REQUIRED,
    TOO_LONG,
    TOO_MANY,
    TYPE_INVALID,
    FieldError,
    invalid,
    not_supported,
    required,
)
from rayplane.control_plane.api.machinery import formats, patterns
from rayplane.control_plane.api.machinery.budget import LIMITS, Meter
from rayplane.control_plane.api.meta import Object

Schema = Mapping[str, Any]
_JSON_TYPES = {
    "string": str,
    "object": dict,
    "array": list,
    "boolean": bool,
}
_UNKNOWN: Final = object()
"""An old value that nothing is known of."""
_BLOCKING: Final = frozenset({NOT_SUPPORTED, REQUIRED, TOO_LONG, TOO_MANY, TYPE_INVALID})


def validate(o: Object, schema: Schema, old: Object | None = None) -> list[FieldError]:
    """Everything in a custom resource that its schema does not allow; `old` is what it was before.

    Raises TooManyValues where the schema has too much to say about the object.
    """
    return value_errors(o, schema, "", _UNKNOWN if old is None else old)


def value_errors(value: Any, schema: Schema, path: str, old: Any = _UNKNOWN) -> list[FieldError]:
    """As `validate`, of any value."""
    errors = _Errors(Meter(LIMITS.schema_steps, "validating the object by its schema takes more than {limit} steps"))
    _value(value, schema, path, errors, old)
    return errors


def are_blocking(errors: list[FieldError]) -> bool:
    """Whether rules have nothing to look at: parts are missing, or of another type or size than they say."""
    return any(error.type in _BLOCKING for error in errors)


class _Errors(list[FieldError]):
    """Errors found so far, as many as are told, and what may still be looked at."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def append(self, error: FieldError) -> None:
        if len(self) < FINDINGS_MAX:
            super().append(error)


def _value(value: Any, schema: Schema, path: str, errors: _Errors, old: Any = _UNKNOWN) -> None:
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
        _object(value, schema, path, errors, old if isinstance(old, dict) else {})
    elif isinstance(value, list):
        _array(value, schema, path, errors, old)
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


def _object(value: dict[str, Any], schema: Schema, path: str, errors: _Errors, old: dict[str, Any]) -> None:
    properties = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    for name in schema.get("required") or ():
        if name not in value:
            errors.append(required(_join(path, name)))
    for name, item in value.items():
        sub = properties.get(name, others)
        before = old.get(name, _UNKNOWN)
        if isinstance(sub, Mapping) and (before is _UNKNOWN or before != item):
            _value(item, sub, _join(path, name), errors, before)
    low, high = schema.get("minProperties"), schema.get("maxProperties")
    if low is not None and len(value) < low:
        errors.append(invalid(path, len(value), f"{path} in body should have at least {low} properties"))
    if high is not None and len(value) > high:
        errors.append(FieldError(TOO_MANY, path, len(value), f"must have at most {high} items"))


def _array(value: list[Any], schema: Schema, path: str, errors: _Errors, old: Any) -> None:
    items = schema.get("items")
    if isinstance(items, Mapping):
        before = _by_key(schema, old)
        for index, item in enumerate(value):
            known = before.get(_key(schema, item), _UNKNOWN) if before else _UNKNOWN
            if known is _UNKNOWN or known != item:
                _value(item, items, f"{path}[{index}]", errors, known)
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


def _key(schema: Schema, item: Any) -> bytes:
    """What an item of a keyed list is known by."""
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    return orjson.dumps([item.get(key) for key in keys]) if isinstance(item, dict) else b""


def _by_key(schema: Schema, old: Any) -> dict[bytes, Any]:
    """The items of a keyed list as it was; of other lists nobody knows which item is which."""
    if schema.get("x-kubernetes-list-type") != "map" or not isinstance(old, list):
        return {}
    return {_key(schema, item): item for item in old}


def _string(value: str, schema: Schema, path: str, errors: _Errors) -> None:
    low, high, pattern = schema.get("minLength"), schema.get("maxLength"), schema.get("pattern")
    if low is not None and len(value) < low:
        errors.append(invalid(path, value, f"{path} in body should be at least {low} chars long"))
    if high is not None and len(value) > high:
        errors.append(FieldError(TOO_LONG, path, None, f"may not be more than {high} bytes"))
    if pattern and not _found(pattern, value):
        errors.append(invalid(path, value, f"{path} in body should match '{pattern}'"))
    form = schema.get("format") or ""
    if form and not formats.fits(value, form):
        errors.append(FieldError(TYPE_INVALID, path, value, f'{path} in body must be of type {form}: "{value}"'))


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
