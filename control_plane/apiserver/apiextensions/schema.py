"""Custom resources against the OpenAPI v3 schema of their definition: what it does not allow. Pure.

What validation looks at is counted: many items under many branches cost their product. What an update leaves as it was
is not judged again.
Source: Kubernetes reference "Extend the Kubernetes API with CustomResourceDefinitions" (structural schemas, validation
ratcheting); messages as go-openapi/validate words them.
"""

import copy
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
    too_long,
    too_many,
)
from rayplane.control_plane.api.kinds.metadata import validate_metadata
from rayplane.control_plane.api.machinery import formats, patterns
from rayplane.control_plane.api.machinery.budget import LIMITS, Meter
from rayplane.control_plane.api.machinery.names import dns1035_errors, path_segment_errors
from rayplane.control_plane.api.machinery.schema import from_openapi
from rayplane.control_plane.api.machinery.strict import DecodeError, conform
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.apiextensions.structural import EMBEDDED

Schema = Mapping[str, Any]
_JSON_TYPES = {
    "string": str,
    "object": dict,
    "array": list,
    "boolean": bool,
}
#: The numbers that a format holds: bounds, both taken.
_RANGES: Final = {
    ("integer", "int32"): (-(2**31), 2**31 - 1),
    ("integer", "int64"): (-(2**63), 2**63 - 1),
    ("integer", ""): (-(2**63), 2**63 - 1),
    ("number", "float"): (-3.4028234663852886e38, 3.4028234663852886e38),
}
#: What is said of a value as a whole, by the branches of its schema or the range of its type, names no field.
_NOWHERE: Final = "<nil>"
_METADATA: Final = from_openapi("ObjectMeta", {}, root=True)
UNKNOWN: Final = object()
"""An old value that nothing is known of."""
_BLOCKING: Final = frozenset({NOT_SUPPORTED, REQUIRED, TOO_LONG, TOO_MANY, TYPE_INVALID})


def validate(o: Object, schema: Schema, old: Object | None = None) -> list[FieldError]:
    """Everything in a custom resource that its schema does not allow; `old` is what it was before.

    Raises TooManyValues where the schema has too much to say about the object.
    """
    return value_errors(o, schema, "", UNKNOWN if old is None else old)


def value_errors(value: Any, schema: Schema, path: str, old: Any = UNKNOWN) -> list[FieldError]:
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
        self.matches = 0
        """Values that were looked at, and types that fit: the branch with most of them is the one that was meant."""

    def append(self, error: FieldError) -> None:
        if len(self) < FINDINGS_MAX:
            super().append(error)

    def take(self, others: "_Errors") -> None:
        """Errors of a branch, which may find what another one found."""
        self.matches += others.matches
        for error in others:
            if error not in self:
                self.append(error)


def _value(value: Any, schema: Schema, path: str, errors: _Errors, old: Any = UNKNOWN) -> None:
    errors.meter.spend()
    errors.matches += 1
    if (value is None and schema.get("nullable")) or _type_fits(value, schema):
        errors.matches += 1
    else:
        wanted = "integer,string" if schema.get("x-kubernetes-int-or-string") else schema.get("type")
        shown = _type_name(value)
        text = f'{path} in body must be of type {wanted}: "{shown}"'
        errors.append(FieldError(TYPE_INVALID, path, shown, text))
    if value is not None:
        _combined(value, schema, path, errors)
    if isinstance(value, str):
        _string(value, schema, path, errors)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _number(value, schema, path, errors)
    elif isinstance(value, list):
        _array(value, schema, path, errors, old)
    choices = schema.get("enum")
    if choices is not None:
        errors.meter.spend(len(choices))
        if value not in choices:
            errors.append(not_supported(path, value, [_as_choice(c) for c in choices]))
    if isinstance(value, dict):
        _object(value, schema, path, errors, old if isinstance(old, dict) else {})


def _as_choice(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


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
    if schema.get(EMBEDDED):
        _embedded(value, path, errors)
    for name in schema.get("required") or ():
        if name not in value:
            errors.append(required(_join(path, name)))
    for name, item in value.items():
        sub = properties.get(name, others)
        before = old.get(name, UNKNOWN)
        if isinstance(sub, Mapping) and (before is UNKNOWN or before != item):
            _value(item, sub, _join(path, name), errors, before)
    low, high = schema.get("minProperties"), schema.get("maxProperties")
    if low is not None and len(value) < low:
        errors.append(invalid(path, len(value), f"{path} in body should have at least {low} properties"))
    if high is not None and len(value) > high:
        errors.append(too_many(path, len(value), high))


def _embedded(value: dict[str, Any], path: str, errors: _Errors) -> None:
    """What an object inside of another one needs to be one: a kind, its version, and metadata as all objects have."""
    for name in ("apiVersion", "kind"):
        at, given = _join(path, name), value.get(name)
        if name not in value:
            errors.append(required(at))
        elif not isinstance(given, str):
            errors.append(invalid(at, given, "must be a string"))
        elif not given:
            errors.append(invalid(at, given, "must not be empty"))
        elif name == "kind":
            problems = dns1035_errors(given.lower())
            for problem in problems:
                errors.append(invalid(at, given, f"may have mixed case, but should otherwise match: {problem}"))
        elif given.count("/") > 1:
            errors.append(invalid(at, given, f"unexpected GroupVersion string: {given}"))
    if value.get("metadata") is None:
        return
    at, metadata = _join(path, "metadata"), copy.deepcopy(value["metadata"])
    try:
        conform({"metadata": metadata}, _METADATA)
    except DecodeError as error:
        errors.append(invalid(at, value["metadata"], str(error)))
        return
    metadata.setdefault("name", "fakename")  # it may have none
    namespaced = bool(metadata.get("namespace"))
    for found in validate_metadata(metadata, namespaced=namespaced, check=path_segment_errors, path=at):
        errors.append(found)


def _array(value: list[Any], schema: Schema, path: str, errors: _Errors, old: Any) -> None:
    items = schema.get("items")
    if isinstance(items, Mapping):
        before = _by_key(schema, old)
        for index, item in enumerate(value):
            known = before.get(_key(schema, item), UNKNOWN) if before else UNKNOWN
            if known is UNKNOWN or known != item:
                _value(item, items, f"{path}[{index}]", errors, known)
    low, high = schema.get("minItems"), schema.get("maxItems")
    if low is not None and len(value) < low:
        errors.append(invalid(path, len(value), f"{path} in body should have at least {low} items"))
    if high is not None and len(value) > high:
        errors.append(too_many(path, len(value), high))
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
    if high is not None and len(value) > high:
        errors.append(too_long(path, high))
    elif low is not None and len(value) < low:
        errors.append(invalid(path, value, f"{path} in body should be at least {low} chars long"))
    elif pattern and not _found(pattern, value):
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
    _in_range(value, schema, path, errors)
    if step and value % step:
        errors.append(invalid(path, value, f"{path} in body should be a multiple of {step}"))
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        word = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        errors.append(invalid(path, value, f"{path} in body should be {word} {high}"))
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        word = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        errors.append(invalid(path, value, f"{path} in body should be {word} {low}"))


def _in_range(value: float, schema: Schema, path: str, errors: _Errors) -> None:
    kind, form = schema.get("type") or "", schema.get("format") or ""
    form = form if (kind, form) in _RANGES else ""
    bounds = _RANGES.get((kind, form))
    if bounds is None or (bounds[0] <= value <= bounds[1] and (kind != "integer" or value == int(value))):
        return
    said = f"with format {form}" if form else "(default format)"
    errors.append(invalid(_NOWHERE, "", f"Checked value must be of type {kind} {said} in {path}"))


def _combined(value: Any, schema: Schema, path: str, errors: _Errors) -> None:
    def tried(sub: Schema) -> _Errors:
        found = _Errors(errors.meter)
        _value(value, sub, path, found)
        return found

    def fail(text: str) -> None:
        errors.append(invalid(_NOWHERE, "", f'"{path}" must {text}'))

    for word, ok in (("anyOf", lambda n: n >= 1), ("oneOf", lambda n: n == 1)):
        if not (branches := [tried(choice) for choice in schema.get(word) or ()]):
            continue
        fitting = sum(not found for found in branches)
        if not ok(fitting):
            count = f"Found {fitting} valid alternatives" if fitting else "Found none valid"
            one = f"validate one and only one schema (oneOf). {count}"
            fail("validate at least one schema (anyOf)" if word == "anyOf" else one)
            if not fitting:
                errors.take(max(branches, key=lambda found: found.matches))
    every = [tried(sub) for sub in schema.get("allOf") or ()]
    for found in every:
        errors.take(found)
    if any(every):
        fail("validate all the schemas (allOf)" + (". None validated" if all(every) else ""))
    if schema.get("not") and not tried(schema["not"]):
        fail("not validate the schema (not)")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
