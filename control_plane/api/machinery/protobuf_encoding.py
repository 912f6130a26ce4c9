"""Encoding of Kubernetes JSON as `application/vnd.kubernetes.protobuf`, by the table that decoding uses.

What is in the JSON is written, zero values too; what is not, is not. Fields that the table does not know are left out.
Sources: protobuf encoding reference; Kubernetes API concepts, "Kubernetes Protobuf encoding".
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from rayplane.control_plane.api.machinery.protobuf import DEPTH_MAX, MAGIC, UNKNOWN, ProtobufError, fields_of
from rayplane.control_plane.api.machinery.schema import definition_name
from rayplane.control_plane.api.meta import Object, parse_time

_VARINT, _FIXED64, _BYTES = 0, 1, 2
_WATCH_EVENT: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent"
_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
_OF_META: Final = frozenset(
    {("v1", "Status"), ("meta.k8s.io/v1", "PartialObjectMetadata"), ("meta.k8s.io/v1", "PartialObjectMetadataList")}
)


def encode(o: Object) -> bytes:
    """An object, list or Status in its envelope. ProtobufError for a kind that has no protobuf form."""
    version, kind = o.get("apiVersion") or "", o.get("kind") or ""
    name = f"{_META}{kind}" if (version, kind) in _OF_META else definition_name(version, kind)
    if name is None:
        raise ProtobufError(f'no kind "{kind}" is registered for version "{version}"')
    envelope = {"apiVersion": version, "kind": kind, "raw": base64.b64encode(encode_message(name, o))}
    return MAGIC + encode_message(UNKNOWN, envelope)


def encode_event(type_: str, o: Object) -> bytes:
    """One event of a watch, framed by its length in four bytes."""
    event = _field(1, "string", type_, 0) + _delimited(2, _delimited(1, encode(o)))
    return struct.pack(">I", len(event)) + event


def encode_message(name: str, value: Mapping[str, Any]) -> bytes:
    """One bare message by the name of its definition. ProtobufError."""
    return _message(name, value, 0)


@lru_cache(maxsize=1024)
def _by_name(name: str) -> tuple[tuple[str, int, str], ...]:
    """(JSON name, number, type) of each field, by number."""
    return tuple((field, number, kind) for number, (field, kind) in sorted(fields_of(name).items()))


def _message(name: str, value: Mapping[str, Any], depth: int) -> bytes:
    if depth > DEPTH_MAX:
        raise ProtobufError("the object is nested too deeply for protobuf")
    out = bytearray()
    for field, number, kind in _by_name(name):
        if not field:
            out += _delimited(number, _message(kind[1:], value, depth + 1))
            continue
        item = value.get(field)
        if item is None:
            continue
        if kind.startswith("[]"):
            for one in item:
                out += _field(number, kind[2:], one, depth)
        elif kind.startswith("{}"):
            for key, one in item.items():
                entry = _field(1, "string", key, depth) + (b"" if one is None else _field(2, kind[2:], one, depth))
                out += _delimited(number, entry)
        else:
            out += _field(number, kind, item, depth)
    return bytes(out)


def _field(number: int, kind: str, value: Any, depth: int) -> bytes:
    if kind.startswith("@"):
        return _delimited(number, _message(kind[1:], value, depth + 1))
    if kind.startswith("|@"):
        return _delimited(number, _message(kind[2:], _union(kind[2:], value), depth + 1))
    if kind == "bool" or (kind.startswith("int") and kind != "int-or-string"):
        return _varint(number << 3 | _VARINT) + _varint(int(value) & 0xFFFF_FFFF_FFFF_FFFF)
    if kind == "double":
        return _varint(number << 3 | _FIXED64) + struct.pack("<d", value)
    return _delimited(number, _TO_BYTES[kind](value))


def _union(name: str, value: Any) -> dict[str, Any]:
    """A value that may be of two types, in the field for its type."""
    fields = {field for field, _, _ in _by_name(name)}
    if isinstance(value, bool):
        return {"allows": value}
    if isinstance(value, Mapping):
        return {"schema": value, **({"allows": True} if "allows" in fields else {})}
    return {"jSONSchemas" if "jSONSchemas" in fields else "property": value}


def _delimited(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _time(text: str) -> bytes:
    moment = parse_time(text)
    seconds, micros = int(moment.replace(microsecond=0).timestamp()), moment.microsecond
    return _field(1, "int64", seconds, 0) + (_field(2, "int32", micros * 1000, 0) if micros else b"")


def _int_or_string(value: int | str) -> bytes:
    if isinstance(value, str):
        return _field(1, "int64", 1, 0) + _field(3, "string", value, 0)
    return _field(1, "int64", 0, 0) + _field(2, "int32", value, 0)


def _strings(values: Iterable[str]) -> bytes:
    return b"".join(_field(1, "string", one, 0) for one in values)


_TO_BYTES: Final[dict[str, Callable[[Any], bytes]]] = {
    "string": lambda value: str(value).encode(),
    "bytes": base64.b64decode,
    "quantity": lambda value: _field(1, "string", value, 0),
    "int-or-string": _int_or_string,
    "time": _time,
    "micro-time": _time,
    "json": lambda value: _delimited(1, orjson.dumps(value)),
    "strings": _strings,
}
