"""Types of expressions: scalars, lists, maps, objects with declared fields, optional and opaque types.

A type may say how large its values can be (`size_max`), which cost estimation goes by; two types are equal whatever
they say of sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

OPTIONAL_NAME: Final = "optional_type"


@dataclass(frozen=True, slots=True)
class Type:
    """A type by its kind, parameters and name; `kind` is `object` or `opaque` where the name tells which."""

    kind: str
    params: tuple[Type, ...] = ()
    name: str = ""
    fields: Mapping[str, Type] = field(default_factory=dict, compare=False, repr=False)
    """Fields of an object, by the names expressions use."""
    properties: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """JSON names of fields that expressions name otherwise."""
    size_max: int | None = field(default=None, compare=False, repr=False)
    """The most characters, bytes, items or entries of a value; None if nobody knows."""
    size_min_json: int = field(default=1, compare=False, repr=False)
    """The fewest bytes a value has in JSON."""
    equality: str = field(default="", compare=False, repr=False)
    """`set` or `map` for lists whose order says nothing."""
    keys: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Keys of the items of a list whose equality is `map`."""

    def __str__(self) -> str:
        if self.kind in ("object", "opaque"):
            inner = f"({', '.join(map(str, self.params))})" if self.params else ""
            return self.name + inner
        if self.kind == "parameter":
            return self.name.split("@")[0]
        if self.params:
            return f"{self.kind}({', '.join(map(str, self.params))})"
        return self.kind

    @property
    def element(self) -> Type:
        """The type of a list's items, a map's values, or of what an optional has."""
        return self.params[-1] if self.params else DYN


NULL: Final = Type("null")
BOOL: Final = Type("bool")
INT: Final = Type("int")
UINT: Final = Type("uint")
DOUBLE: Final = Type("double")
STRING: Final = Type("string")
BYTES: Final = Type("bytes")
TIMESTAMP: Final = Type("timestamp")
DURATION: Final = Type("duration")
DYN: Final = Type("dyn")
TYPE: Final = Type("type")
ERROR: Final = Type("error")
_SIMPLE: Final = {t.kind: t for t in (NULL, BOOL, INT, UINT, DOUBLE, STRING, BYTES, TIMESTAMP, DURATION, DYN, TYPE)}
_FIXED: Final = frozenset({"bool", "int", "uint", "double", "timestamp", "duration", "type"})


def list_of(element: Type, **notes: object) -> Type:
    return replace(Type("list", (element,)), **notes)  # type: ignore[arg-type]


def map_of(key: Type, value: Type, **notes: object) -> Type:
    return replace(Type("map", (key, value)), **notes)  # type: ignore[arg-type]


class AnyField(dict[str, Type]):
    """Fields of an object of which nobody knows which it has: every name is one, of any type."""

    def get(self, name: object, default: object = None) -> Type:  # type: ignore[override]
        return DYN


def loose_object(name: str) -> Type:
    """An object of a name whose fields nobody knows."""
    return Type("object", (), name, fields=AnyField())


def optional_of(value: Type) -> Type:
    return Type("opaque", (value,), OPTIONAL_NAME)


def opaque(name: str) -> Type:
    return Type("opaque", (), name)


def is_optional(t: Type) -> bool:
    return t.kind == "opaque" and t.name == OPTIONAL_NAME


def is_fixed_size(t: Type) -> bool:
    """Whether values have no size that an expression could make larger."""
    return t.kind in _FIXED or (is_optional(t) and is_fixed_size(t.element))


# --- the notation of signatures ------------------------------------------------------------------

_TOKEN: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9_.]*|[<>,()])")


@lru_cache(maxsize=512)
def parse_type(text: str) -> Type:
    """A type as signatures write it: `list<T>`, `map<K, V>`, `optional<string>`, `net.IP`."""
    parsed, rest = _parse(_TOKEN.findall(text))
    assert not rest, text
    return parsed


def _parse(tokens: list[str]) -> tuple[Type, list[str]]:
    name, tokens = tokens[0], tokens[1:]
    params: list[Type] = []
    if tokens[:1] == ["<"]:
        while tokens[0] != ">":
            one, tokens = _parse(tokens[1:])
            params.append(one)
        tokens = tokens[1:]
    if name in _SIMPLE:
        return replace(_SIMPLE[name], params=tuple(params)), tokens
    if name in ("list", "map"):
        return Type(name, tuple(params)), tokens
    if name == "optional":
        return optional_of(params[0]), tokens
    if len(name) == 1 and name.isupper():
        return Type("parameter", (), name), tokens
    return opaque(name), tokens


@lru_cache(maxsize=512)
def parse_signature(text: str) -> tuple[tuple[Type, ...], Type, bool]:
    """Arguments, result and whether it is a method: `string.(string) bool`, `(list<T>, T) bool`."""
    target, _, rest = text.partition("(")
    arguments, _, result = rest.rpartition(") ")
    inner = [parse_type(one) for one in _split(arguments)]
    if target:
        inner.insert(0, parse_type(target.rstrip(".")))
    return tuple(inner), parse_type(result), bool(target)


def _split(text: str) -> list[str]:
    found, depth, start = [], 0, 0
    for at, sign in enumerate(text):
        depth += (sign == "<") - (sign == ">")
        if sign == "," and not depth:
            found.append(text[start:at])
            start = at + 1
    return [one for one in (*found, text[start:]) if one.strip()]
