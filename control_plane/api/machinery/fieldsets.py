"""Sets of fields: which fields an object sets, how two objects differ, the FieldsV1 form.

A set is a frozenset of paths; a path is a tuple of FieldsV1 elements: `f:name` a field or map
key, `k:{...}` an item of a list keyed by fields, `v:...` an item of a set.
Source: Kubernetes documentation "Server-Side Apply"; the FieldsV1 format of meta/v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.schema import KEY_DEFAULTS, LIST, MAP, STRUCT, Field, Type
from rayplane.control_plane.api.meta import Object

Path = tuple[str, ...]
FieldSet = frozenset[Path]

# Fields that nobody owns.
_STRIPPED: Final = frozenset(
    [("f:apiVersion",), ("f:kind",), ("f:metadata",)]
    + [
        ("f:metadata", f"f:{name}")
        for name in (
            "name", "namespace", "creationTimestamp", "selfLink", "uid", "generation",
            "managedFields", "resourceVersion",
        )
    ]
)  # fmt: skip


class TypedError(ApiError):
    """An object that does not fit its own list keys; a plain 500 in Kubernetes."""

    default_reason, default_code = "", 500


def render(path: Path) -> str:
    """`.spec.containers[name="c"].image`."""
    text = ""
    for element in path:
        if element.startswith("f:"):
            text += f".{element[2:]}"
        elif element.startswith("k:"):
            keys = orjson.loads(element[2:])
            pairs = (f"{name}={orjson.dumps(value).decode()}" for name, value in keys.items())
            text += f"[{','.join(pairs)}]"
        else:
            text += f"[={element[2:]}]"
    return text


def shape_of(value: Any, type_: Type | None, field: Field | None) -> str:
    """How a value is owned: `map`, `list` (keyed), `set`, or `leaf` (as one)."""
    if type(value) is dict:
        if (field is not None and field.map_type == "atomic") or not value:
            return "leaf"
        if type_ is None or type_.kind == MAP:
            return "map"
        if type_.kind == STRUCT:
            return "leaf" if type_.definition.map_type == "atomic" else "map"
    elif type(value) is list and field is not None and value:
        if field.list_type == "map":
            return "list" if field.list_keys else "leaf"
        if field.list_type == "set":
            return "set"
    return "leaf"


def member(type_: Type | None, name: str) -> tuple[Type | None, Field | None]:
    if type_ is None:
        return None, None
    if type_.kind == STRUCT:
        field = type_.definition.fields.get(name)
        return (field.type, field) if field is not None else (None, None)
    return type_.items, None


def item_type(type_: Type | None) -> Type | None:
    return type_.items if type_ is not None and type_.kind == LIST else None


def _item_element(item: Any, field: Field, *, strict: bool) -> str:
    """The `k:` element of a list's item. TypedError where a key is missing, if strict."""
    keys: dict[str, Any] = {}
    for name in sorted(field.list_keys):
        value = item.get(name) if type(item) is dict else None
        if value is None:
            value = KEY_DEFAULTS.get(name)
            if strict and (value is None or name in ("name", "type")):
                raise TypedError(
                    f"failed to create typed patch object: .{field.name}: associative list with "
                    f'keys has an element that omits key field "{name}" (and doesn\'t have '
                    "default value)"
                )
        keys[name] = value
    return "k:" + orjson.dumps(keys).decode()


def elements(value: list[Any], shape: str, field: Field, *, strict: bool = False) -> dict[str, Any]:
    """A list's items by path element, in order; of equal ones the first."""
    found: dict[str, Any] = {}
    for item in value:
        if shape == "set":
            element = "v:" + orjson.dumps(item).decode()
        else:
            element = _item_element(item, field, strict=strict)
        if strict and element in found:
            raise TypedError(
                f"failed to create typed patch object: .{field.name}: duplicate entries for key {render((element,))}"
            )
        found.setdefault(element, item)
    return found


def field_set(obj: Object, root: Type | None, *, strict: bool = False) -> FieldSet:
    """The fields an object sets, as its applier comes to own them."""
    paths = set(_walk(obj, root, None, (), strict))
    return frozenset(paths - _STRIPPED)


def _walk(value: Any, type_: Type | None, field: Field | None, path: Path, strict: bool) -> Iterator[Path]:
    shape = shape_of(value, type_, field)
    if shape == "map":
        keyed = type_ is not None and type_.kind == MAP
        for name, item in value.items():
            below = (*path, f"f:{name}")
            if keyed:
                yield below
            yield from _walk(item, *member(type_, name), below, strict)
    elif shape in ("list", "set") and field is not None:
        for element, item in elements(value, shape, field, strict=strict).items():
            yield (*path, element)
            if shape == "list":
                yield from _walk(item, item_type(type_), None, (*path, element), strict)
    elif path:
        yield path


def without_ignored(fields: FieldSet, ignore: tuple[Path, ...]) -> FieldSet:
    kept = fields - _STRIPPED
    if not ignore:
        return kept
    return frozenset(p for p in kept if not any(p[: len(i)] == i for i in ignore))


def without_below(fields: FieldSet, removed: FieldSet) -> FieldSet:
    """`fields` without those inside a removed subtree."""
    if not removed:
        return fields
    return frozenset(p for p in fields if not any(p[:n] in removed for n in range(1, len(p))))


def with_ancestors(fields: FieldSet) -> FieldSet:
    return frozenset(path[:n] for path in fields for n in range(1, len(path) + 1))


@dataclass(slots=True)
class Difference:
    changed: FieldSet
    removed: FieldSet

    @property
    def any(self) -> bool:
        return bool(self.changed or self.removed)


_ABSENT: Final = object()


def compare(old: Object, new: Object, root: Type | None) -> Difference:
    """What was added or modified, and what was removed, between two objects of one type."""
    found = _Comparison()
    found.visit(old, new, root, None, ())
    return Difference(frozenset(found.changed) - _STRIPPED, frozenset(found.removed) - _STRIPPED)


class _Comparison:
    """Paths that differ between two values, collected from the top down."""

    __slots__ = ("changed", "removed")

    def __init__(self) -> None:
        self.changed: set[Path] = set()
        self.removed: set[Path] = set()

    def visit(self, a: Any, b: Any, type_: Type | None, field: Field | None, path: Path) -> None:
        if a is b:
            return
        if b is _ABSENT:
            self.removed.add(path)
            self.removed.update(_walk(a, type_, field, path, False))
            return
        shape = shape_of(b, type_, field)
        if shape == "leaf" or (a is not _ABSENT and type(a) is not type(b)):
            self._replace(a, b, type_, field, path)
            return
        struct = type_ is not None and type_.kind == STRUCT
        if a is _ABSENT and path and not (shape == "map" and struct):
            self.changed.add(path)
        if shape == "map":
            left = a if type(a) is dict else {}
            for name in {**left, **b}:
                sub = member(type_, name)
                pair = (left.get(name, _ABSENT), b.get(name, _ABSENT))
                self.visit(*pair, *sub, (*path, f"f:{name}"))
            return
        assert field is not None
        self._elements(a, b, shape, type_, field, path)

    def _replace(self, a: Any, b: Any, type_: Type | None, field: Field | None, path: Path) -> None:
        """A value in the place of another of which no part stays."""
        if a is not _ABSENT and shape_of(a, type_, field) != "leaf":
            self.removed.update(p for p in _walk(a, type_, field, path, False) if p != path)
            if not b and type(a) is type(b):
                return  # emptied: what stays has not changed hands
        if a is _ABSENT or a != b:
            self.changed.add(path)

    def _elements(self, a: Any, b: Any, shape: str, type_: Type | None, field: Field, path: Path) -> None:
        """Elements of lists that have keys or are sets."""
        olds = elements(a, shape, field) if type(a) is list else {}
        news = elements(b, shape, field)
        for element in {**olds, **news}:
            below = (*path, element)
            if element not in olds:
                self.changed.add(below)
            if shape == "list" or element not in news:
                pair = (olds.get(element, _ABSENT), news.get(element, _ABSENT))
                self.visit(*pair, item_type(type_), None, below)


def to_fields_v1(fields: Iterable[Path]) -> dict[str, Any]:
    """The nested form: a member with members below it carries `.`."""
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for depth, element in enumerate(path):
            if element not in node:
                node[element] = {}
            elif depth < len(path) - 1 and not node[element] and path[: depth + 1] in fields:
                node[element]["."] = {}
            node = node[element]
    return tree


def from_fields_v1(tree: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of a nested set, the inverse of `to_fields_v1`. ValueError if it is none."""
    if type(tree) is not dict:
        raise ValueError(f"a FieldsV1 node must be an object, not {tree!r}")
    for element, below in tree.items():
        if element == ".":
            yield path
            continue
        kind, colon, rest = element.partition(":")
        if kind not in ("f", "k", "v") or not colon:
            raise ValueError(f"{element!r} is no FieldsV1 path element")
        if kind != "f":
            value = orjson.loads(rest)
            if kind == "k" and type(value) is not dict:
                raise ValueError(f"{element!r} is no FieldsV1 key")
        if below:
            yield from from_fields_v1(below, (*path, element))
        else:
            yield (*path, element)
