"""Valid input, spoiled: bytes, JSON values, messages, texts, sequences. All by the rng that is given."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.api.odd_values import TEXTS

T = TypeVar("T")
M = TypeVar("M", bound=Message)
INTEGERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
ODD_TEXTS = (
    *TEXTS,
    "\ud800",
    "\uffff",
    "\r\nX-Forged: 1",
    "a" * 260,
    "*",
    "true",
    "null",
    "~",
    "..%2f..",
    "\\",
    "é" * 64,
)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, "", [], {}, [[]], [{}],
    {"": ""}, {"a": None}, [None], *ODD_TEXTS,
)  # fmt: skip
_FD = FieldDescriptor
_Field = Any
"""A FieldDescriptor of either implementation of Protocol Buffers."""


def some(rng: random.Random, most: int = 4) -> int:
    """1 most of the time, seldom up to `most`."""
    return min(most, 1 + int(rng.expovariate(0.9)))


def of_bytes(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Some bytes, lengths or pieces of it changed, cut off, repeated, moved or taken from others."""
    out = bytearray(data)
    for _ in range(some(rng)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 1, 2, 4, 8, rng.randrange(1, 200))))
        match rng.randrange(10):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.randrange(256)
            case 2:
                out[at:at] = rng.randbytes(rng.choice((1, 2, 5, 30)))
            case 3:
                del out[at:end]
            case 4:
                out[at:at] = out[at:end] * rng.choice((1, 2, 100))
            case 5:
                del out[at:]
            case 6:
                size = rng.choice((1, 2, 4, 8))
                number = (rng.choice(INTEGERS) % (1 << 8 * size)).to_bytes(size, rng.choice(("big", "little")))
                out[at : at + size] = number
            case 7 if others:
                other = rng.choice(others)
                begin = rng.randrange(len(other) + 1)
                out[at:end] = other[begin : begin + rng.randrange(1, 300)]
            case 8:
                to = rng.randrange(len(out) + 1)
                piece = bytes(out[at:end])
                del out[at:end]
                out[to:to] = piece
            case 9 if others and rng.random() < 0.3:
                out[at:] = rng.choice(others)
    return bytes(out)


def of_text(rng: random.Random, text: str) -> str:
    """Characters changed, an odd text in it or in place of it."""
    if rng.random() < 0.2:
        return rng.choice(ODD_TEXTS)
    for _ in range(some(rng)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.randrange(0, 6))
        match rng.randrange(5):
            case 0:
                text = text[:at] + text[end:]
            case 1:
                text = text[:at] + rng.choice("()[]{},=!<>&|/\\%.:;*+-_ \t\n\"'@#\0é٣aZ09") + text[at:]
            case 2:
                text = text[:at] + text[at:end] * rng.choice((2, 50)) + text[end:]
            case 3:
                text = text[:at] + rng.choice(ODD_TEXTS) + text[end:]
            case 4:
                text = text[:at]
    return text


def of_list(rng: random.Random, items: Sequence[T], spoil: Any = None) -> list[T]:
    """Left out, twice, in another order; `spoil(item)` gives a changed one."""
    out = list(items)
    for _ in range(some(rng)):
        if not out:
            break
        at = rng.randrange(len(out))
        match rng.randrange(5):
            case 0:
                del out[at]
            case 1:
                out[at:at] = [out[at]] * rng.choice((1, 1, 3, 40))
            case 2:
                to = rng.randrange(len(out))
                out[at], out[to] = out[to], out[at]
            case 3:
                del out[at + 1 :]
            case 4 if spoil is not None:
                out[at] = spoil(out[at])
    return out


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


def of_json(rng: random.Random, value: Any, others: Sequence[Any] = ()) -> Any:
    """Fields changed to odd values, left out, renamed, nested, taken from elsewhere, repeated."""
    value = copy.deepcopy(value)
    for _ in range(some(rng)):
        places = _places(value)
        if not places or rng.random() < 0.02:
            return rng.choice(ODD_VALUES)
        *way, last = rng.choice(places)
        parent = value
        for step in way:
            parent = parent[step]
        inner = parent[last]
        match rng.randrange(9):
            case 0 | 1:
                parent[last] = copy.deepcopy(rng.choice(ODD_VALUES))
            case 2:
                del parent[last]
            case 3 if isinstance(parent, dict):
                del parent[last]
                parent[of_text(rng, last)] = inner
            case 4 if isinstance(parent, list):
                parent[last:last] = [copy.deepcopy(inner) for _ in range(rng.choice((1, 2, 60)))]
            case 5:
                parent[last] = _nested(rng, inner, str(last))
            case 6 if isinstance(inner, str):
                parent[last] = of_text(rng, inner)
            case 7:
                parent[last] = copy.deepcopy(_at(value, rng.choice(places)))
            case 8 if others:
                parent[last] = copy.deepcopy(rng.choice(others))
    return value


def _nested(rng: random.Random, inner: Any, name: str) -> Any:
    for _ in range(rng.choice((1, 3, 200))):
        inner = [inner] if rng.random() < 0.5 else {name: inner}
    return inner


def _at(value: Any, place: Sequence[Any]) -> Any:
    """What is at a place; None where nothing is any more."""
    for step in place[:-1]:
        value = value[step] if _has(value, step) else {}
    return value[place[-1]] if _has(value, place[-1]) else None


def _has(container: Any, key: Any) -> bool:
    if isinstance(container, dict):
        return key in container
    return isinstance(container, list) and isinstance(key, int) and key < len(container)


def fill(rng: random.Random, message: M, words: Sequence[bytes | str] = (), depth: int = 0) -> M:
    """Set some fields of a message to values that fit their types; `words` are such as the service knows."""
    for field in message.DESCRIPTOR.fields:
        nested = field.message_type
        if rng.random() < (0.5 if depth == 0 else 0.4) or (nested is not None and depth > 5):
            continue
        many = _is_repeated(field)
        if nested is not None and nested.GetOptions().map_entry:
            continue
        for _ in range(rng.choice((1, 1, 2, 20 if depth < 2 else 2)) if many else 1):
            if nested is not None:
                inner = getattr(message, field.name).add() if many else getattr(message, field.name)
                if not many:
                    inner.SetInParent()
                fill(rng, inner, words, depth + 1)
            else:
                value = _scalar(rng, field, words)
                if many:
                    getattr(message, field.name).append(value)
                else:
                    setattr(message, field.name, value)
    return message


def _is_repeated(field: _Field) -> bool:
    return bool(field.is_repeated)


def _scalar(rng: random.Random, field: _Field, words: Sequence[bytes | str]) -> Any:
    if field.type == _FD.TYPE_BOOL:
        return rng.random() < 0.5
    if field.enum_type is not None:
        return rng.choice([v.number for v in field.enum_type.values] * 2 + [77, -1, 2**31 - 1])
    if field.type in (_FD.TYPE_DOUBLE, _FD.TYPE_FLOAT):
        return rng.choice((0.0, -1.0, 1e30, float("inf"), float("nan")))
    if field.type in (_FD.TYPE_STRING, _FD.TYPE_BYTES):
        texts = [w for w in words if rng.random() < 0.7] or ["a"]
        word = rng.choice(texts) if rng.random() < 0.7 else rng.choice(ODD_TEXTS)
        data = word.encode("utf-8", "replace") if isinstance(word, str) else word
        return data if field.type == _FD.TYPE_BYTES else data.decode("utf-8", "replace")
    number = rng.choice((0, 1, 1, 2, 3, 5, rng.choice(INTEGERS)))
    bits = (
        32
        if field.type in (_FD.TYPE_INT32, _FD.TYPE_UINT32, _FD.TYPE_FIXED32, _FD.TYPE_SINT32, _FD.TYPE_SFIXED32)
        else 64
    )
    number %= 1 << bits
    signed = field.type not in (_FD.TYPE_UINT32, _FD.TYPE_UINT64, _FD.TYPE_FIXED32, _FD.TYPE_FIXED64)
    return number - (1 << bits) if signed and number >= 1 << (bits - 1) else number
