"""Protobuf messages as the JSON of etcd's gateway, both ways.

Bytes are base64, 64-bit integers come as numbers or strings and go as strings, enums are names, fields have their
proto names (camel case is understood too), unknown fields are ignored, and what is zero is left out. Unlike the
standard protobuf mapping, bytes must be padded standard base64 and numbers plain integers; refusals have the texts
of Go's jsonpb, which etcd's gateway answers with.
"""

import binascii
import functools
import json
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from rayplane.control_plane.etcd.server.web.gateway.syntax import JsonError, Number, base64_bytes, only_value, quoted

_INTEGERS: dict[int, tuple[str, int, int]] = {
    FieldDescriptor.TYPE_INT64: ("int64", -(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT64: ("uint64", 0, (1 << 64) - 1),
    FieldDescriptor.TYPE_INT32: ("int32", -(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_UINT32: ("uint32", 0, (1 << 32) - 1),
}
_ENUM = ("protoreflect.EnumNumber", -(1 << 31), (1 << 31) - 1)
_OBJECT = "map[string]json.RawMessage"
_ARRAY = "[]json.RawMessage"


# From JSON


def fill(message: Message, value: Any) -> None:
    """Set a message's fields from a parsed JSON object (see `syntax`). Raises JsonError."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise _mismatch(value, _OBJECT)
    for field, repeated, names in _fields(message.DESCRIPTOR):
        for name in names:
            given = value.get(name)
            if given is not None:
                _set_repeated(message, field, given) if repeated else _set(message, field, given)


@functools.cache
def _fields(descriptor: Descriptor) -> tuple[tuple[FieldDescriptor, bool, tuple[str, ...]], ...]:
    # The name in camel case comes last: it wins where both are given.
    return tuple((f, f.is_repeated, tuple(dict.fromkeys((f.name, f.json_name)))) for f in descriptor.fields)


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        part = getattr(message, field.name)
        part.SetInParent()
        fill(part, value)
    else:
        setattr(message, field.name, _scalar(field, value))


def _set_repeated(message: Message, field: FieldDescriptor, values: Any) -> None:
    if not isinstance(values, list):
        raise _mismatch(values, _ARRAY)
    target = getattr(message, field.name)
    for value in values:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            fill(target.add(), value)
        else:
            target.append(_scalar(field, value) if value is not None else _EMPTY.get(field.type, 0))


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    kind = field.type
    if kind == FieldDescriptor.TYPE_BYTES:
        return _bytes(value)
    if kind == FieldDescriptor.TYPE_STRING:
        if type(value) is not str:
            raise _mismatch(value, "string")
        return _whole(value)
    if kind == FieldDescriptor.TYPE_BOOL:
        if not isinstance(value, bool):
            raise _mismatch(value, "bool")
        return value
    if kind == FieldDescriptor.TYPE_ENUM:
        if type(value) is not str:
            return _integer(value, *_ENUM)
        enum = _enum(field)
        member = enum.values_by_name.get(_whole(value))
        if member is None:
            raise JsonError(f"unknown value {quoted(json.dumps(value, ensure_ascii=False))} for enum {enum.full_name}")
        return member.number
    if type(value) is str:
        value = only_value(value)
        if value is None:
            return 0
    return _integer(value, *_INTEGERS[kind])


#: In place of null in a list; numbers and enums are 0.
_EMPTY: dict[int, Any] = {FieldDescriptor.TYPE_STRING: "", FieldDescriptor.TYPE_BYTES: b""}


def _whole(text: str) -> str:
    """As Go reads it: half of a surrogate pair is no character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _bytes(value: Any) -> bytes:
    if type(value) is str:
        return base64_bytes(value)
    if not isinstance(value, list):
        raise _mismatch(value, "[]uint8")
    return bytes(_integer(item, "uint8", 0, 255) for item in value)


def _integer(value: Any, kind: str, least: int, most: int) -> int:
    if type(value) is not Number:
        raise _mismatch(value, kind)
    if value.lstrip("-").isdecimal() and len(value) <= 20 and least <= int(value) <= most:
        return int(value)
    raise JsonError(f"json: cannot unmarshal number {value} into Go value of type {kind}")


def _mismatch(value: Any, wanted: str) -> JsonError:
    if isinstance(value, Number):
        kind = "number"
    elif isinstance(value, str):
        kind = "string"
    elif isinstance(value, bool):
        kind = "bool"
    else:
        kind = "array" if isinstance(value, list) else "object"
    return JsonError(f"json: cannot unmarshal {kind} into Go value of type {wanted}")


# To JSON


def as_object(message: Message) -> dict[str, Any]:
    """A message as what `dump` takes."""
    result: dict[str, Any] = {}
    for field, value in message.ListFields():
        kind = field.type
        if kind == FieldDescriptor.TYPE_ENUM:
            convert: Callable[[Any], Any] = functools.partial(_enum_name, field)
        else:
            convert = _CONVERT.get(kind, _same)
        result[field.name] = [convert(item) for item in value] if field.is_repeated else convert(value)
    return result


def _same(value: Any) -> Any:
    return value


def _base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def _enum(field: FieldDescriptor) -> EnumDescriptor:
    assert field.enum_type is not None
    return field.enum_type


def _enum_name(field: FieldDescriptor, number: int) -> str | int:
    member = _enum(field).values_by_number.get(number)
    return member.name if member is not None else number


_CONVERT: dict[int, Callable[[Any], Any]] = {
    FieldDescriptor.TYPE_BYTES: _base64,
    FieldDescriptor.TYPE_INT64: str,
    FieldDescriptor.TYPE_UINT64: str,
    FieldDescriptor.TYPE_MESSAGE: as_object,
}


def dump(value: dict[str, Any]) -> bytes:
    """JSON text; what could be taken for HTML is escaped."""
    data = orjson.dumps(value)
    for plain, escaped in _HTML:
        if plain in data:
            data = data.replace(plain, escaped)
    return data


_HTML = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)
