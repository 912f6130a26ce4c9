"""One walk over an incoming object: types checked, unknown fields dropped and named, nulls gone.

Kubernetes decodes JSON into Go structs; this walk leaves an object as that round trip would:
null means "not given" (so do zero values of fields that Go marks omitempty), quantities are in
canonical form, times in UTC. Wordings are those of Go's encoding/json and of Kubernetes' strict
decoder.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NoReturn

import orjson

from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.remembering import remembered
from rayplane.control_plane.api.machinery.schema import (
    ANY,
    BOOL,
    BYTES,
    DOUBLE,
    INT32,
    INT64,
    INT_OR_STRING,
    LIST,
    MAP,
    MICRO_TIME,
    OBJECT,
    QUANTITY,
    STRING,
    STRUCT,
    TIME,
    Definition,
    Type,
)

# A path is a chain of (parent, segment): a str is a field, an int an index, a _Key a map's key.
_Path = tuple[Any, Any] | None


class _Key(str):
    __slots__ = ()


class DecodeError(ValueError):
    """A value that Kubernetes' decoder refuses; the message is the decoder's, without prefix."""


_INT32: Final = range(-(2**31), 2**31)
_INT64: Final = range(-(2**63), 2**63)
_ZERO: Final[dict[str, Any]] = {
    STRING: "", BYTES: "", BOOL: False, INT32: 0, INT64: 0, DOUBLE: 0.0, QUANTITY: "0",
    INT_OR_STRING: 0, OBJECT: None, ANY: None, TIME: None, MICRO_TIME: None,
}  # fmt: skip
_FINDINGS_MAX: Final = 100  # as in Kubernetes
_TIME: Final = re.compile(r"(?a)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")


def conform(obj: dict[str, Any], definition: Definition, *, lenient: bool = False, as_given: bool = False) -> list[str]:
    """Bring `obj` into the shape of `definition`, in place; returns the unknown fields' paths.

    Unknown fields, those of closed feature gates and nulls are removed. A value of the wrong type raises
    DecodeError, or with `lenient` (custom resources, whose types are a matter of validation) is left as it is: but in
    metadata, which is the same in all kinds. With `as_given` nulls and zero values stay, as they have a meaning in an
    applied configuration.
    Paths are as Kubernetes writes them: `spec.template.spec.containers[0].bogus`.
    """
    walk = _Walk(lenient, as_given)
    try:
        if lenient and (metadata := definition.fields.get("metadata")) and obj.get("metadata") is not None:
            strict = _Walk(False, as_given)
            strict.value(metadata.type, obj["metadata"], definition, (None, "metadata"))
            walk.unknown += strict.unknown
        if lenient:
            _whole_numbers(obj)
        walk.struct(obj, definition, None)
    except RecursionError:
        raise DecodeError("exceeded max depth") from None
    return walk.unknown


def _whole_numbers(value: Any) -> None:
    """Write 1.0 and 1e3 as 1 and 1000, in place, as Go does with what has no type of its own."""
    for key, item in value.items() if type(value) is dict else enumerate(value):
        if type(item) is float:
            if item.is_integer() and int(item) in _INT64:
                value[key] = int(item)
        elif type(item) is dict or type(item) is list:
            _whole_numbers(item)


def prune(obj: dict[str, Any], definition: Definition) -> list[str]:
    """Drop unknown fields and nulls in place without judging types; returns the dropped paths."""
    return conform(obj, definition, lenient=True)


def strict_errors(unknown: list[str], duplicates: list[str]) -> list[str]:
    """The single findings: `unknown field "spec.x"`, `duplicate field "spec.y"`."""
    found = [f'duplicate field "{path}"' for path in duplicates[:_FINDINGS_MAX]]
    found += [f'unknown field "{path}"' for path in unknown[: _FINDINGS_MAX - len(found)]]
    return found


def strict_message(errors: list[str]) -> str:
    return "strict decoding error: " + ", ".join(errors)


class _Walk:
    __slots__ = ("as_given", "lenient", "unknown")

    def __init__(self, lenient: bool, as_given: bool) -> None:
        self.lenient = lenient
        self.as_given = as_given
        self.unknown: list[str] = []

    def struct(self, value: dict[str, Any], definition: Definition, path: _Path) -> None:
        fields = definition.fields
        dropped: list[str] | None = None
        changed: dict[str, Any] | None = None
        for key, item in value.items():
            field = fields.get(key)
            if field is None:
                if definition.preserve_unknown:
                    continue
                self.unknown.append(render_path((path, key)))
            elif item is not None:
                if type(item) is field.exact and (item or not field.omit_zero):
                    continue
                new = self.value(field.type, item, definition, (path, key))
                if (new or not field.omit_zero or self.as_given) and not field.dropped:
                    if new is not item:
                        changed = changed or {}
                        changed[key] = new
                    continue
            elif self.as_given or field.nullable:
                continue
            dropped = dropped or []
            dropped.append(key)
        if dropped:
            for key in dropped:
                del value[key]
        if changed:
            value.update(changed)

    def value(self, type_: Type, item: Any, owner: Definition, path: _Path) -> Any:
        """The value as it is to be kept: the same object unless its form changes."""
        type_ = type_.form_of(item) if type_.forms else type_
        kind = type_.kind
        if kind is STRUCT or kind == STRUCT:
            if type(item) is dict:
                self.struct(item, type_.definition, path)
                return item
        elif kind == LIST:
            if type(item) is list:
                return self.list(type_.element, item, owner, path)
        elif kind == MAP:
            if type(item) is dict:
                return self.map(type_.element, item, owner, path)
        else:
            try:
                return _scalar(kind, item)
            except DecodeError:
                if self.lenient:
                    return item
                raise
            except TypeError:
                pass
        if self.lenient:
            return item
        mismatch(type_, item, owner, path)

    def list(self, element: Type, items: list[Any], owner: Definition, path: _Path) -> list[Any]:
        kind = element.kind
        if kind == STRING and all(type(item) is str for item in items):
            return items
        definition = element.definition if kind == STRUCT else None
        for index, item in enumerate(items):
            if item is None:
                items[index] = None if self.lenient else _zero(element)
            elif definition is not None and type(item) is dict:
                self.struct(item, definition, (path, index))
            else:
                items[index] = self.value(element, item, owner, (path, index))
        return items

    def map(self, element: Type, items: dict[str, Any], owner: Definition, path: _Path) -> Any:
        if element.kind == STRING and all(type(item) is str for item in items.values()):
            return items
        for key, item in items.items():  # values change, keys do not
            if item is None:
                items[key] = None if self.lenient else _zero(element)
            else:
                items[key] = self.value(element, item, owner, (path, _Key(key)))
        return items


def _zero(type_: Type) -> Any:
    if type_.kind == LIST:
        return []
    return _ZERO.get(type_.kind, {})


def _scalar(kind: str, item: Any) -> Any:
    """The value in its kept form. TypeError when its JSON type does not fit."""
    accepted = _ACCEPTED.get(kind)
    if accepted is not None and type(item) not in accepted:
        raise TypeError(kind)
    read = _READERS.get(kind)
    return item if read is None else read(item)


def _int32(item: int) -> int:
    if item not in _INT32:
        raise TypeError(INT32)
    return item


def _int64(item: int) -> int:
    if item not in _INT64:
        raise TypeError(INT64)
    return item


def _int_or_string(item: Any) -> int | str:
    if type(item) is str or (type(item) is int and item in _INT32):
        return item
    what = _json_type(item, integer=True)
    raise DecodeError(f"json: cannot unmarshal {what} into Go value of type int32")


def _quantity(item: Any) -> str:
    try:
        return quantity.canonical(item if type(item) is str else json.dumps(item))
    except quantity.QuantityError as error:
        raise DecodeError(str(error)) from error


def _base64(text: str) -> str:
    try:
        base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        bad = re.search(r"[^A-Za-z0-9+/\r\n]", text)
        at = bad.start() if bad else len(text) - len(text) % 4
        raise DecodeError(f"illegal base64 data at input byte {at}") from None
    return text


def _time(text: Any, *, micro: bool) -> str:
    if type(text) is not str:
        what = _json_type(text)
        raise DecodeError(f"json: cannot unmarshal {what} into Go value of type string")
    return _moment(text, micro)


@remembered(4096)
def _moment(text: str, micro: bool) -> str:
    layout = "2006-01-02T15:04:05.000000Z07:00" if micro else "2006-01-02T15:04:05Z07:00"
    try:
        if not _TIME.match(text):
            raise ValueError(text)
        moment = datetime.fromisoformat(text)
        if len(text) == 20 and text[-1] == "Z" and not micro:
            return text
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise DecodeError(f'parsing time "{text}" as "{layout}": cannot parse "{text}" as "2006"') from None
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds" if micro else "seconds") + "Z"


# JSON types that a kind takes; those without an entry look for themselves, or are kept as they are.
_ACCEPTED: dict[str, tuple[type, ...]] = {
    INT32: (int,),
    INT64: (int,),
    BYTES: (str,),
    DOUBLE: (int, float),
    STRING: (str,),
    BOOL: (bool,),
}
_READERS: dict[str, Callable[[Any], Any]] = {
    INT32: _int32,
    INT64: _int64,
    INT_OR_STRING: _int_or_string,
    QUANTITY: _quantity,
    BYTES: _base64,
    TIME: partial(_time, micro=False),
    MICRO_TIME: partial(_time, micro=True),
}


def _json_type(item: Any, *, integer: bool = False) -> str:
    match item:
        case bool():
            return "bool"
        case int() | float():
            return f"number {json.dumps(item)}" if integer else "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def mismatch(type_: Type, item: Any, owner: Definition, path: _Path) -> NoReturn:
    """Raise what encoding/json says of a value that does not fit the Go type of its field."""
    what = _json_type(item, integer=type_.kind in (INT32, INT64))
    field = ".".join(s for s in _segments(path) if type(s) is str)
    raise DecodeError(
        f"json: cannot unmarshal {what} into Go struct field {owner.short_name}.{field} of type {type_.go_name}"
    )


def _segments(path: _Path) -> list[Any]:
    segments: list[Any] = []
    while path is not None:
        path, segment = path
        segments.append(segment)
    segments.reverse()
    return segments


def render_path(path: _Path) -> str:
    """`spec.containers[0].name`."""
    text = ""
    for segment in _segments(path):
        if type(segment) is int:
            text += f"[{segment}]"
        else:
            text += f".{segment}" if text else segment
    return text


# --- duplicates ------------------------------------------------------------------------------


class _Doubled(dict[str, Any]):
    """An object in which some keys stood more than once."""

    names: tuple[str, ...] = ()


def json_duplicates(body: bytes | str) -> list[str]:
    """Paths of the fields that stand twice in one object of a valid JSON text.

    Raises DecodeError for a text nested too deeply to look at.
    """
    if _is_kept_whole(body):
        return []
    found = False

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        made = dict(pairs)
        if len(made) == len(pairs):
            return made
        found = True
        doubled = _Doubled(made)
        seen: set[str] = set()
        names = [name for name, _ in pairs if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        doubled.names = tuple(dict.fromkeys(names))
        return doubled

    try:
        text = body.decode(errors="replace") if isinstance(body, bytes) else body
        tree = json.loads(text, object_pairs_hook=collect)
        return list(_doubled_paths(tree, None)) if found else []
    except RecursionError:
        raise DecodeError("exceeded max depth") from None


def _is_kept_whole(body: bytes | str) -> bool:
    """Whether all texts of a JSON text are still there when it has been parsed: then no key stands twice.

    Told by the quotes alone: a key that is lost takes two with it. A quote in a text is written as two characters by
    everybody, but for those who name it by its number.
    """
    data = body if type(body) is bytes else str(body).encode(errors="surrogatepass")
    try:
        return b"u0022" not in data and orjson.dumps(orjson.loads(data)).count(b'"') == data.count(b'"')
    except (ValueError, TypeError):  # too deep, or not to orjson's liking
        return False


def _doubled_paths(value: Any, path: _Path) -> Iterator[str]:
    if isinstance(value, dict):
        for name in getattr(value, "names", ()):
            yield render_path((path, name))
        for name, item in value.items():
            yield from _doubled_paths(item, (path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _doubled_paths(item, (path, index))
