"""Good objects with one odd value in them, at every field that the schema knows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from rayplane.control_plane.api.machinery.schema import Definition, Type, definition_of
from rayplane.control_plane.api.meta import Object

_LONG = "a" * 5000
TEXTS = (
    "",
    " ",
    "a/b",
    "..",
    "%",
    "-1",
    "NaN",
    "inf",
    "1e400",
    "0.0000001",
    "300.1.1.1/8",
    "fe80::1%eth0",
    "99999999999999999999",
    "150%",
    "* * 31 2 *",
    "@every 0s",
    "TZ=x * * * * *",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    "PT-1S",
    "x,y=z!",
    "{",
    "\x00",
    "é\u2028",
    "(a+)+$",
    _LONG,
)
_INTEGERS = (-1, 0, 1, 65536, 2**31 - 1, -(2**31))
_LONG_INTEGERS = (*_INTEGERS, 2**63 - 1, -(2**63))
_QUANTITIES = ("0", "-1", "1e18", "9e99", "1n", "0.1", "99999999999999999999Ei", "", "1.5.1", -5, 2**63)
_BY_KIND: dict[str, tuple[Any, ...]] = {
    "string": TEXTS,
    "int32": _INTEGERS,
    "int64": _LONG_INTEGERS,
    "bool": (True, False),
    "double": (0, -1.5, 1e308),
    "bytes": ("", "!", "YQ==", _LONG),
    "quantity": _QUANTITIES,
    "int-or-string": (*_INTEGERS, *TEXTS),
    "time": ("", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-01-01", "2026-01-01T00:00:00.5+14:00"),
    "micro-time": ("0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z", "x"),
    "object": ({}, {"a": [{"b": None}]}),
    "any": (None, 5, "x", [], {}),
}
_DEPTH_MAX = 12
_RESOURCES = ("cpu", "memory", "pods", "storage", "example.com/x")
Path = tuple[str | int, ...]


def fields(api_version: str, kind: str) -> Iterator[tuple[Path, Any]]:
    """(path, odd value) for every field of a kind; a list has its index 0 in the path, a map the key `k`."""
    definition = definition_of(api_version, kind)
    assert definition is not None
    for name, field in definition.fields.items():
        if name not in ("apiVersion", "kind"):
            yield from _below((name,), field.type, (definition,))


def _below(path: Path, type_: Type, above: tuple[Definition, ...]) -> Iterator[tuple[Path, Any]]:
    if type_.kind == "struct":
        definition = type_.definition
        if definition in above or len(above) > _DEPTH_MAX:
            return
        yield path, {}
        for name, field in definition.fields.items():
            yield from _below((*path, name), field.type, (*above, definition))
    elif type_.kind == "list":
        yield path, []
        yield from _below((*path, 0), type_.element, above)
    elif type_.kind == "map":
        yield path, {}
        if type_.element.kind == "string":
            yield from ((path, {text: "v"}) for text in TEXTS)
        keys = _RESOURCES if type_.element.kind == "quantity" else ("k",)
        for key in keys:
            yield from _below((*path, key), type_.element, above)
    else:
        for value in _BY_KIND[type_.kind]:
            yield path, value


def placed(o: Object, path: Path, value: Any) -> Object:
    """A copy of the object with the value at the path; what is missing on the way is made."""
    made = copy.deepcopy(o)
    at: Any = made
    for part, following in pairwise(path):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(part, int):
            if not at:
                at.append(empty)
        elif at.get(part) is None:
            at[part] = empty
        at = at[part]
    last = path[-1]
    if isinstance(last, int):
        at[:1] = [value]
    else:
        at[last] = value
    return made
