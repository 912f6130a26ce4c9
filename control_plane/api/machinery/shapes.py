"""Shapes in which values are owned by server-side apply: as one, by member, by keyed item, by item of a set.

What a schema doesn't describe (unknown fields that are kept) is owned by member, its lists as one.
Source: kubernetes-sigs/structured-merge-diff, the API's notes `x-kubernetes-list-type` and `-map-type`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from rayplane.control_plane.api.errors import FINDINGS_MAX
from rayplane.control_plane.api.machinery.decoding import go_format
from rayplane.control_plane.api.machinery.fieldsets import key_element, render, value_element
from rayplane.control_plane.api.machinery.schema import (
    ANY,
    BOOL,
    BYTES,
    DOUBLE,
    INT32,
    INT64,
    LIST,
    MAP,
    MICRO_TIME,
    OBJECT,
    STRING,
    STRUCT,
    TIME,
    Field,
    Type,
)

Shape = Literal["leaf", "map", "list", "set"]
Place = tuple[Type | None, Field | None]
"""A value's type and what is noted of it; no type where the schema says nothing."""

UNDESCRIBED: Final[Place] = (None, None)
_STRINGS: Final = frozenset({STRING, BYTES, TIME, MICRO_TIME})
_NUMBERS: Final = frozenset({INT32, INT64, DOUBLE})


class NotTyped(ValueError):
    """A value that its schema cannot describe, so that nobody can own parts of it; the message is Kubernetes'."""


def shape_of(value: Any, place: Place) -> Shape:
    """The shape of a value; `leaf` for what is owned as one, whatever is in it."""
    type_, field = place
    if type(value) is dict:
        if field is not None and field.map_type == "atomic":
            return "leaf"
        if type_ is None or type_.kind in (MAP, OBJECT):
            return "map"
        return "map" if type_.kind == STRUCT and type_.definition.map_type != "atomic" else "leaf"
    if type(value) is list:
        return list_shape(place)
    return "leaf"


def list_shape(place: Place) -> Shape:
    type_, field = place
    if type_ is not None and type_.kind == LIST and field is not None:
        if field.list_type == "map" and field.list_keys:
            return "list"
        if field.list_type == "set":
            return "set"
    return "leaf"


def is_atomic(place: Place) -> bool:
    """Whether a schema has values of a place, maps or lists, owned as one."""
    type_, field = place
    if type_ is None:
        return False
    if type_.kind == LIST:
        return list_shape(place) == "leaf"
    if type_.kind == STRUCT and type_.definition.map_type == "atomic":
        return True
    return type_.kind in (STRUCT, MAP) and field is not None and field.map_type == "atomic"


def is_declared(place: Place, name: str) -> bool:
    """Whether a member is a field of a struct, as others than a map's keys are."""
    type_ = place[0]
    return type_ is not None and type_.kind == STRUCT and name in type_.definition.fields


def always_written(place: Place) -> Mapping[str, Any]:
    """The fields of a struct that Kubernetes has, empty or null, where they are not given."""
    type_ = place[0]
    return type_.definition.written if type_ is not None and type_.kind == STRUCT else {}


def member(place: Place, name: str) -> Place:
    """The place of a map's or struct's member."""
    type_ = place[0]
    if type_ is None:
        return UNDESCRIBED
    if type_.kind == STRUCT:
        field = type_.definition.fields.get(name)
        return (field.type, field) if field is not None else UNDESCRIBED
    return (type_.items, type_.item)


def item(place: Place) -> Place:
    """The place of a list's items."""
    type_ = place[0]
    return (type_.items, type_.item) if type_ is not None and type_.kind == LIST else UNDESCRIBED


def below(place: Place, element: str) -> Place:
    """The place of what a path element leads to."""
    return member(place, element[2:]) if element.startswith("f:") else item(place)


def elements(value: list[Any], place: Place) -> Iterator[tuple[str, Any]]:
    """Each item of a keyed list or a set with its path element, in order. Raises NotTyped."""
    keyed = list_shape(place) == "list"
    for index, one in enumerate(value):
        try:
            yield (_keys_of(one, place) if keyed else _value_of(one)), one
        except ValueError as error:
            raise NotTyped(f"element {index}: {error}") from None


def _keys_of(one: Any, place: Place) -> str:
    type_, field = item(place)[0], place[1]
    assert field is not None
    if type(one) is not dict:
        what = "a null element" if one is None else "non-map elements"
        raise NotTyped(f"associative list with keys may not have {what}")
    keys: dict[str, Any] = {}
    for name in field.list_keys:
        found = one.get(name)
        if found is None and type_ is not None and type_.kind == STRUCT:
            declared = type_.definition.fields.get(name)
            found = declared.default if declared is not None else None
        if found is not None:
            keys[name] = int(found) if type(found) is float and found.is_integer() else found
    if not keys:
        names = " ".join(f'"{name}"' for name in field.list_keys)
        raise NotTyped(
            f"associative list with keys has an element that omits all key fields [{names}] "
            "(and doesn't have default values for any key fields)"
        )
    return key_element(keys)


def _value_of(one: Any) -> str:
    if type(one) is dict:
        raise NotTyped("associative list without keys has an element that's a map type")
    if type(one) is list:
        raise NotTyped("not supported: associative list with lists as elements")
    if one is None:
        raise NotTyped("associative list without keys has an element that's an explicit null")
    return value_element(one)


# --- checking ------------------------------------------------------------------------------------


def type_errors(value: Any, place: Place) -> list[str]:
    """What is wrong with the types of a value, as `.spec.replicas: expected numeric (int or float), got string`."""
    found = _Check()
    found.visit(value, place, ())
    return found.errors


class _Check:
    __slots__ = ("errors",)

    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, path: tuple[str, ...], text: str) -> None:
        if len(self.errors) < FINDINGS_MAX:
            self.errors.append(f"{render(path)}: {text}" if path else text)

    def visit(self, value: Any, place: Place, path: tuple[str, ...]) -> None:
        kind = place[0].kind if place[0] is not None else ANY
        if value is None or kind in (ANY, OBJECT):
            return
        if kind in (STRUCT, MAP):
            if type(value) is not dict:
                self.error(path, f"expected map, got &{{{go_format(value)}}}")
            else:
                self.map(value, place, path)
        elif kind == LIST:
            if type(value) is not list:
                self.error(path, f"expected list, got &{{{go_format(value)}}}")
            else:
                self.list(value, place, path)
        else:
            self.scalar(value, kind, path)

    def map(self, value: dict[str, Any], place: Place, path: tuple[str, ...]) -> None:
        type_ = place[0]
        assert type_ is not None
        closed = type_.kind == STRUCT and type_.definition.fields and not type_.definition.preserve_unknown
        for name, one in value.items():
            if closed and not is_declared(place, name):
                self.error((*path, f"f:{name}"), "field not declared in schema")
                return
            self.visit(one, member(place, name), (*path, f"f:{name}"))

    def list(self, value: list[Any], place: Place, path: tuple[str, ...]) -> None:
        if list_shape(place) == "leaf":
            for index, one in enumerate(value):
                self.visit(one, item(place), (*path, f"i:{index}"))
            return
        seen: set[str] = set()
        try:
            for element, one in elements(value, place):
                if element in seen:
                    self.error(path, f"duplicate entries for key {render((element,))}")
                seen.add(element)
                self.visit(one, item(place), (*path, element))
        except NotTyped as error:
            self.error(path, str(error))

    def scalar(self, value: Any, kind: str, path: tuple[str, ...]) -> None:
        if kind in _STRINGS:
            if type(value) is not str:
                self.error(path, f"expected string, got &value.valueUnstructured{{Value:{go_format(value)}}}")
        elif kind in _NUMBERS:
            if type(value) not in (int, float):
                self.error(path, f"expected numeric (int or float), got {_GO_TYPES[type(value)]}")
        elif kind == BOOL:
            if type(value) is not bool:
                self.error(path, f"expected boolean, got &{{{go_format(value)}}}")
        elif type(value) in (dict, list):
            self.error(path, f"expected any scalar, got &{{{go_format(value)}}}")


_GO_TYPES: Final = {str: "string", bool: "bool", dict: "map[string]interface {}", list: "[]interface {}"}
