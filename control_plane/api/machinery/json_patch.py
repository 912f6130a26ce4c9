"""JSON patch (RFC 6902) as Kubernetes applies it.

Unlike the RFC's, an index may be negative and counts from the end, and a value that is left out is null.
Numbers and booleans are different values, and so are 1 and 1.0.
Source: RFC 6902, RFC 6901; evanphx/json-patch v4, which API servers use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import orjson

from rayplane.control_plane.api.machinery import budget
from rayplane.control_plane.api.machinery.decoding import json_kind

_MISSING: Final = object()
_INDEX: Final = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_APPEND: Final = "-"


class JsonPatchError(ValueError):
    """An operation that doesn't fit the document. The message holds no value: whoever keeps it would keep secrets."""


class TestFailed(JsonPatchError):
    """An operation `test` whose value is not there."""

    __test__ = False


class MalformedOperation(ValueError):
    """An operation that is none, in the words of Go's encoding/json."""


def _check(operations: list[Any]) -> None:
    """Raises MalformedOperation for what cannot be read as operations."""
    for operation in operations:
        if operation is None:
            continue
        if type(operation) is not dict:
            raise MalformedOperation(f"json: cannot unmarshal {json_kind(operation)} into Go value of type jsonPatchOp")
        for field in ("op", "path", "from"):
            value = operation.get(field)
            if value is not None and type(value) is not str:
                raise MalformedOperation(
                    f"json: cannot unmarshal {json_kind(value)} into Go struct field jsonPatchOp.{field} of type string"
                )


def apply(doc: Any, operations: list[Any]) -> Any:
    """The document after all operations; it and their values are changed and shared.

    Raises JsonPatchError, MalformedOperation, budget.CopiesTooMuch.
    """
    _check(operations)
    copies = budget.CopyMeter()
    for given in operations:
        operation = given or {}
        kind, value = operation.get("op") or "unknown", operation.get("value")
        path = _place(operation, "path", kind)
        source = _place(operation, "from", kind) if kind in ("copy", "move") else ""
        if kind == "test":
            _test(doc, path, value)
        elif kind == "copy":
            text = orjson.dumps(_found(doc, source, kind))
            copies.copy(len(text))
            doc = _add(doc, path, orjson.loads(text), kind)
        elif kind == "move":
            moved = _found(doc, source, kind)
            _remove(doc, source, kind)
            doc = _add(doc, path, moved, kind)
        elif kind in _CHANGES:
            doc = _CHANGES[kind](doc, path, value, kind)
        else:
            raise JsonPatchError(f"Unexpected kind: {kind}")
    return doc


def _place(operation: dict[str, Any], field: str, kind: str) -> str:
    place: str | None = operation.get(field)
    if place is None and kind != "unknown":
        raise JsonPatchError(f"{kind} operation failed to decode {field}: missing value")
    return place or ""


# --- the operations --------------------------------------------------------------------------------


def _add(doc: Any, path: str, value: Any, kind: str) -> Any:
    if not path:
        return value
    parent, key = _parent(doc, path, kind)
    if type(parent) is dict:
        parent[key] = value
    elif key == _APPEND:
        parent.append(value)
    else:
        parent.insert(_index(parent, key, path, kind, more=1), value)
    return doc


def _remove(doc: Any, path: str, kind: str) -> Any:
    parent, key = _parent(doc, path, kind)
    if type(parent) is list:
        del parent[_index(parent, key, path, kind)]
    elif key in parent:
        del parent[key]
    else:
        raise JsonPatchError(
            f"error in {kind} for path: '{path}': Unable to remove nonexistent key: {key}: missing value"
        )
    return doc


def _replace(doc: Any, path: str, value: Any, kind: str) -> Any:
    if not path:
        return value
    parent, key = _parent(doc, path, kind)
    if _get(parent, key) is _MISSING:
        raise JsonPatchError(f"{kind} operation does not apply: doc is missing key: {path}: missing value")
    parent[key if type(parent) is dict else _index(parent, key, path, kind)] = value
    return doc


def _test(doc: Any, path: str, value: Any) -> None:
    parent, key = _parent(doc, path, "test") if path else ({"": doc}, "")
    found = _get(parent, key)
    if not _same(None if found is _MISSING else found, value):
        raise TestFailed(f"testing value {path} failed: test failed")


_CHANGES: Final[dict[str, Callable[[Any, str, Any, str], Any]]] = {
    "add": _add,
    "remove": lambda doc, path, _, kind: _remove(doc, path, kind),
    "replace": _replace,
}


# --- places ----------------------------------------------------------------------------------------


def _parent(doc: Any, path: str, kind: str) -> tuple[Any, str]:
    """The object or array that a path leads into, and its last part."""
    first, *parts = path.split("/")
    found = doc if parts and not first else _MISSING
    for part in parts[:-1]:
        found = _get(found, _unescaped(part))
    if type(found) not in (dict, list):
        raise JsonPatchError(f'{kind} operation does not apply: doc is missing path: "{path}": missing value')
    return found, _unescaped(parts[-1])


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def _get(container: Any, key: str) -> Any:
    """A member or item; `_MISSING` where there is none."""
    if type(container) is dict:
        return container.get(key, _MISSING)
    if type(container) is list and _INDEX.fullmatch(key):
        at = int(key)
        return container[at] if -len(container) <= at < len(container) else _MISSING
    return _MISSING


def _found(doc: Any, path: str, kind: str) -> Any:
    if not path:
        return doc
    parent, key = _parent(doc, path, kind)
    found = _get(parent, key)
    if found is _MISSING:
        raise JsonPatchError(f"error in {kind} for path: '{path}': Unable to get nonexistent key: {key}: missing value")
    return found


def _index(items: list[Any], key: str, path: str, kind: str, *, more: int = 0) -> int:
    """A place in an array; with `more`, one behind its end too."""
    if not _INDEX.fullmatch(key):
        raise JsonPatchError(f"error in {kind} for path: '{path}': value was not a proper array index: '{key}'")
    at, size = int(key), len(items) + more
    if not -size <= at < size:
        raise JsonPatchError(
            f"error in {kind} for path: '{path}': Unable to access invalid index: {key}: invalid index referenced"
        )
    return at % size


def _same(a: Any, b: Any) -> bool:
    """Whether two values are one JSON; stops at the first difference, so it costs no more than the smaller."""
    if type(a) is not type(b):
        return False
    if type(a) is dict:
        return len(a) == len(b) and all(key in b and _same(value, b[key]) for key, value in a.items())
    if type(a) is list:
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
