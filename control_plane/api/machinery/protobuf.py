"""Decoding of `application/vnd.kubernetes.protobuf` bodies to Kubernetes JSON, by table.

The table (`data/protobuf.json.gz`) maps field numbers to JSON names and types. Writers emit
zero values of fields that JSON leaves out; `strict.conform` removes them afterwards.
The way back is `protobuf_encoding`.
Sources: protobuf encoding reference; Kubernetes API concepts, "Kubernetes Protobuf encoding".
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import orjson

from rayplane.control_plane.api.machinery.budget import Meter
from rayplane.control_plane.api.machinery.schema import definition_name, load_table

MAGIC: Final = b"k8s\x00"
UNKNOWN: Final = "io.k8s.apimachinery.pkg.runtime.Unknown"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
DEPTH_MAX: Final = 64  # nesting of messages; Kubernetes' deepest kind has about 20

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class ProtobufError(ValueError):
    """Bytes that are no Kubernetes protobuf message."""


@lru_cache(maxsize=1)
def _messages() -> dict[str, Any]:
    return load_table("protobuf.json.gz", "messages")


@lru_cache(maxsize=1024)
def fields_of(name: str) -> dict[int, tuple[str, str]]:
    """(JSON name, type) of each field of a message, by number. ProtobufError."""
    entry = _messages().get(name)
    if entry is None:
        raise ProtobufError(f"no protobuf message is known for {name}")
    return {int(number): (field, kind) for number, (field, kind) in entry.items()}


def decode_envelope(body: bytes) -> tuple[str, str, bytes]:
    """(apiVersion, kind, raw message) of an enveloped object. Raises ProtobufError."""
    if not body.startswith(MAGIC):
        raise ProtobufError("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    unknown = _message(UNKNOWN, memoryview(body)[len(MAGIC) :], 0, Meter())
    if unknown.get("contentEncoding"):
        raise ProtobufError(f"content encoding {unknown['contentEncoding']!r} is not supported")
    return unknown.get("apiVersion", ""), unknown.get("kind", ""), unknown.get("raw", b"")


def decode(body: bytes) -> dict[str, Any]:
    """The object in JSON form, with apiVersion and kind. Raises ProtobufError."""
    api_version, kind, raw = decode_envelope(body)
    name = definition_name(api_version, kind)
    if name is None:
        raise ProtobufError(f'no kind "{kind}" is registered for version "{api_version}"')
    return {"apiVersion": api_version, "kind": kind, **decode_message(name, raw)}


def decode_message(name: str, raw: bytes) -> dict[str, Any]:
    """One bare message by the name of its definition. Raises ProtobufError, TooManyValues."""
    try:
        return _message(name, memoryview(raw), 0, Meter())
    except (TypeError, AttributeError, struct.error) as error:
        # A part of a time, a number or a map's entry came in another wire type than its own.
        raise ProtobufError(f"a field has the wrong wire type: {error}") from error


def _message(name: str, data: memoryview, depth: int, meter: Meter) -> dict[str, Any]:
    if depth > DEPTH_MAX:
        raise ProtobufError("protobuf message is nested too deeply")
    fields = fields_of(name)
    result: dict[str, Any] = {}
    for number, wire, value in _walk(data, meter):
        entry = fields.get(number)
        if entry is None:
            continue  # a field newer than the table: Kubernetes drops it as well
        field, kind = entry
        if not field:
            result.update(_message(kind[1:], _view(value, wire), depth + 1, meter))
        elif kind.startswith("[]"):
            items = result.setdefault(field, [])
            if wire == _BYTES and kind[2:] in _PACKABLE:
                items.extend(_packed(kind[2:], value, meter))
            else:
                items.append(_value(kind[2:], wire, value, depth, meter))
        elif kind.startswith("{}"):
            key, item = _entry(kind[2:], _view(value, wire), depth, meter)
            result.setdefault(field, {})[key] = item
        elif name == UNKNOWN and field == "raw":
            result[field] = bytes(value)
        else:
            result[field] = _value(kind, wire, value, depth, meter)
    return result


def _entry(kind: str, data: memoryview, depth: int, meter: Meter) -> tuple[str, Any]:
    """A map entry: a message of key (1) and value (2), either of which may be left out."""
    key: str = ""
    item: Any = _EMPTY[kind]() if kind in _EMPTY else None
    for number, wire, value in _walk(data, meter):
        if number == 1:
            key = _text(value)
        elif number == 2:
            item = _value(kind, wire, value, depth, meter)
    return key, {} if item is None else item


_EMPTY: Final[dict[str, Callable[[], Any]]] = {
    "string": str,
    "bytes": str,
    "bool": bool,
    "int32": int,
    "int64": int,
    "strings": list,
    "quantity": lambda: "0",
}


def _value(kind: str, wire: int, value: Any, depth: int, meter: Meter) -> Any:
    if kind.startswith("@"):
        return _message(kind[1:], _view(value, wire), depth + 1, meter)
    if kind.startswith("|@"):
        union = _message(kind[2:], _view(value, wire), depth + 1, meter)
        return next((union[k] for k in ("schema", "jSONSchemas", "property") if union.get(k)),
                    union.get("allows"))  # fmt: skip
    if wire == _BYTES:
        decoder = _FROM_BYTES.get(kind)
        if decoder is not None:
            return decoder(value, meter)
    elif wire == _VARINT:
        if kind == "bool":
            return value != 0
        if kind in _PACKABLE:
            return _signed(value)
    elif wire == _FIXED64 and kind == "double":
        return struct.unpack("<d", value)[0]
    raise ProtobufError(f"wire type {wire} does not fit a field of type {kind}")


_PACKABLE: Final = frozenset({"int32", "int64", "bool"})


def _packed(kind: str, data: memoryview, meter: Meter) -> Iterator[Any]:
    at = 0
    while at < len(data):
        meter.spend()
        value, at = _varint(data, at)
        yield value != 0 if kind == "bool" else _signed(value)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _view(value: Any, wire: int) -> memoryview:
    if wire != _BYTES:
        raise ProtobufError(f"wire type {wire} where a message was expected")
    view: memoryview = value
    return view


def _text(value: memoryview, _: Meter | None = None) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtobufError("a string is not valid UTF-8") from error


def _numbers(data: memoryview, meter: Meter) -> dict[int, Any]:
    return {number: value for number, _, value in _walk(data, meter)}


def _time(data: memoryview, meter: Meter, *, micro: bool) -> str | None:
    """metav1.Time {1: seconds, 2: nanos}; an empty message is the zero time, null in JSON."""
    parts = _numbers(data, meter)
    if not parts:
        return None
    seconds, nanos = _signed(parts.get(1, 0)), _signed(parts.get(2, 0))
    try:
        moment = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    except OverflowError as error:
        raise ProtobufError(f"time {seconds} s is out of range") from error
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds" if micro else "seconds") + "Z"


def _int_or_string(data: memoryview, meter: Meter) -> int | str:
    parts = _numbers(data, meter)  # {1: type (0 int, 1 string), 2: intVal, 3: strVal}
    if parts.get(1, 0) == 1:
        return _text(parts.get(3, memoryview(b"")))
    return _signed(parts.get(2, 0))


def _quantity(data: memoryview, meter: Meter) -> str:
    return _text(_numbers(data, meter).get(1, memoryview(b""))) or "0"


def _json(data: memoryview, meter: Meter) -> Any:
    raw = _numbers(data, meter).get(1)
    try:
        return orjson.loads(raw) if raw else None
    except orjson.JSONDecodeError as error:
        raise ProtobufError(f"embedded JSON is malformed: {error}") from error


_FROM_BYTES: Final[dict[str, Callable[[memoryview, Meter], Any]]] = {
    "string": _text,
    "bytes": lambda data, _: base64.b64encode(data).decode(),
    "quantity": _quantity,
    "int-or-string": _int_or_string,
    "time": lambda data, meter: _time(data, meter, micro=False),
    "micro-time": lambda data, meter: _time(data, meter, micro=True),
    "json": _json,
    "strings": lambda data, meter: [_text(value) for number, _, value in _walk(data, meter) if number == 1],
}


def _walk(data: memoryview, meter: Meter) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, int or memoryview) of each field of a message."""
    at, end = 0, len(data)
    while at < end:
        meter.spend()
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire == _FIXED64:
            size = 8
        elif wire == _FIXED32:
            size = 4
        else:
            raise ProtobufError(f"wire type {wire} is not supported")
        if size > end - at:
            raise ProtobufError("unexpected EOF")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ProtobufError("unexpected EOF")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ProtobufError("integer overflow")
