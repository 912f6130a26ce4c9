"""Types and values of OpenAPI schemas: what `self` is in a rule of a custom resource.

Source: Kubernetes' `apiserver/pkg/cel/common/schemas.go` and `values.go`, `cel/escaping.go` for the names of fields.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from rayplane.control_plane.cel import types
from rayplane.control_plane.cel.lexer import RESERVED
from rayplane.control_plane.cel.types import Type
from rayplane.control_plane.cel.values import NS, Duration, MapList, SetList, parse_timestamp
from rayplane.control_plane.durations import DurationError, parse_duration

Schema = Mapping[str, Any]
REQUEST_BYTES_MAX: Final = 3 * 1024 * 1024
"""What a request can hold: where a schema sets no bound, this does."""
_MOST: Final = REQUEST_BYTES_MAX - 2
_WORDS: Final = RESERVED | {"true", "false", "null", "in"}
_SIGNS: Final = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_NAME: Final = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*", re.ASCII)
_SIGN: Final = re.compile(r"__|[.\-/]")
_SCALARS: Final = {"boolean": types.BOOL, "integer": types.INT, "number": types.DOUBLE}
_TEXTS: Final[Mapping[str, tuple[Type, int, int]]] = {
    "byte": (types.BYTES, 2, _MOST),
    "duration": (types.DURATION, 4, 32),
    "date": (types.TIMESTAMP, 10, 10),
    "date-time": (types.TIMESTAMP, 20, 25),
}
_OBJECT_META: Final = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}},
}
_ROOT: Final = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": _OBJECT_META}


def field_name(name: str) -> str | None:
    """A property as expressions name it; None for one that has no name there."""
    if name in _WORDS:
        return f"__{name}__"
    escaped = _SIGN.sub(lambda match: _SIGNS[match[0]], name)
    return escaped if _NAME.fullmatch(escaped) else None


def type_of_schema(schema: Schema, *, root: bool = False) -> Type | None:
    """The type of values of a structural schema; None where a rule cannot say anything of them."""
    if schema.get("x-kubernetes-int-or-string"):
        return replace(types.DYN, size_max=_MOST)
    kind = schema.get("type") or ""
    if kind in _SCALARS:
        return replace(_SCALARS[kind], size_min_json=4 if kind == "boolean" else 1)
    if kind == "string":
        return _text(schema)
    if kind == "array":
        return _array(schema)
    return _object(schema, root=root) if kind == "object" else None


def _text(schema: Schema) -> Type:
    made, least, most = _TEXTS.get(schema.get("format") or "", (types.STRING, 2, _MOST))
    longest = schema.get("maxLength")
    if longest is not None and made.kind in ("string", "bytes"):
        most = max(0, longest)
    elif schema.get("enum") and made.kind == "string":
        most = max((len(one) for one in schema["enum"] if isinstance(one, str)), default=_MOST)
    return replace(made, size_max=most, size_min_json=least)


def _array(schema: Schema) -> Type | None:
    items = type_of_schema(schema.get("items") or {}, root=bool((schema.get("items") or {}).get(_EMBEDDED)))
    if items is None:
        return None
    most = schema.get("maxItems")
    equality = schema.get("x-kubernetes-list-type") or ""
    return types.list_of(
        items,
        size_max=max(0, most) if most is not None else _MOST // (items.size_min_json + 1),
        size_min_json=2,
        equality=equality if equality in ("set", "map") else "",
        keys=tuple(schema.get("x-kubernetes-list-map-keys") or ()),
    )


_EMBEDDED: Final = "x-kubernetes-embedded-resource"


def _object(schema: Schema, *, root: bool) -> Type | None:
    """The type of a map or of an object. Kubernetes takes no size of the one's keys, nor of the other."""
    others = schema.get("additionalProperties")
    if isinstance(others, Mapping):
        value = type_of_schema(others, root=bool(others.get(_EMBEDDED)))
        if value is None:
            return None
        most = schema.get("maxProperties")
        size = max(0, most) if most is not None else _MOST // (value.size_min_json + 6)
        return types.map_of(replace(types.STRING, size_max=0), value, size_max=size, size_min_json=2)
    properties = dict(schema.get("properties") or {})
    if root:
        properties = {**properties, **_ROOT}
    fields: dict[str, Type] = {}
    names: dict[str, str] = {}
    least, required = 2, frozenset(schema.get("required") or ())
    for name, sub in properties.items():
        made, escaped = type_of_schema(sub, root=bool(sub.get(_EMBEDDED))), field_name(name)
        if made is None:
            continue
        if name in required and "default" not in sub:
            least += len(name) + made.size_min_json + 4
        if escaped is not None:
            fields[escaped] = made
            if escaped != name:
                names[escaped] = name
    return Type("object", (), "object", fields=fields, properties=names, size_max=0, size_min_json=least)


# --- values ---------------------------------------------------------------------------------------


def is_plain(t: Type) -> bool:
    """Whether JSON of this type is its own value: no times, spans, bytes, and no lists without order."""
    if t.kind in ("timestamp", "duration", "bytes", "double") or t.equality:
        return False
    return all(is_plain(one) for one in (*t.params, *t.fields.values()))


def value_of(data: Any, t: Type) -> Any:
    """JSON as a value of a type; what does not fit stays as it is, and fails where it is used."""
    if data is None or is_plain(t):
        return data
    match t.kind:
        case "timestamp" | "duration" | "bytes":
            return _read(data, t.kind)
        case "double":
            return float(data) if type(data) is int and abs(data) < 1 << 1000 else data
        case "list" if isinstance(data, list):
            items = [value_of(one, t.element) for one in data]
            if t.equality == "set":
                return SetList(items)
            return MapList(items, t.keys) if t.equality == "map" else items
        case "map" if isinstance(data, dict):
            return {key: value_of(one, t.element) for key, one in data.items()}
        case "object" if isinstance(data, dict):
            made = dict(data)
            for name, sub in t.fields.items():
                own = t.properties.get(name, name)
                if own in data:
                    made[own] = value_of(data[own], sub)
            return made
    return data


def _read(data: Any, kind: str) -> Any:
    if not isinstance(data, str):
        return data
    try:
        if kind == "bytes":
            return base64.b64decode(data, validate=True)
        if kind == "duration":
            return Duration(round(parse_duration(data) * NS))
        return parse_timestamp(data if "T" in data.upper() else f"{data}T00:00:00Z")
    except (DurationError, ValueError, OverflowError, binascii.Error):
        return data
