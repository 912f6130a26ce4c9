"""Walks over typed objects: their fields, how two of them differ, one merged over another, fields taken out.

Nothing that is given is changed; results share parts with it. Raises NotTyped for values that their schema cannot
describe.
Source: kubernetes-sigs/structured-merge-diff, package typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from rayplane.control_plane.api.machinery.fieldsets import NOBODYS, FieldSet, Path, is_member, to_fields_v1
from rayplane.control_plane.api.machinery.shapes import (
    Place,
    always_written,
    below,
    elements,
    is_atomic,
    is_declared,
    item,
    member,
    shape_of,
)
from rayplane.control_plane.api.meta import Object

_ABSENT: Final = object()
_CONTAINERS: Final = frozenset({dict, list})


# --- fields --------------------------------------------------------------------------------------


def field_set(obj: Object, root: Place) -> FieldSet:
    """The fields an object sets: leaves, items of lists, and members whose names no schema declares."""
    return frozenset(_fields(obj, root, ()))


def _fields(value: Any, place: Place, path: Path) -> Iterator[Path]:
    match shape_of(value, place):
        case "map":
            for name, one in value.items():
                inside = (*path, f"f:{name}")
                yield from _fields(one, member(place, name), inside)
                if one is None or one == {} or not is_declared(place, name):
                    yield inside
        case "list" | "set":
            for element, items in _grouped(value, place).items():
                if len(items) == 1:
                    yield from _fields(items[0], item(place), (*path, element))
                yield (*path, element)
        case _:
            if path:
                yield path


def _grouped(value: list[Any], place: Place) -> dict[str, list[Any]]:
    """The items of a list by path element: more than one where it has duplicates."""
    found: dict[str, list[Any]] = {}
    for element, one in elements(value, place):
        found.setdefault(element, []).append(one)
    return found


def fields_of_new(obj: Object, root: Place, ignored: Iterable[Path] = ()) -> dict[str, Any]:
    """What a new object sets, as FieldsV1, without `ignored` subtrees and what nobody owns.

    The same as `compare` finds between it and an object that says nothing but its kind, made in one walk.
    """
    tree = _set_members(obj, root, absent=False)
    for path in ignored:
        _take(tree, path, below=True)
    for path in NOBODYS:
        _take(tree, path, below=False)
    return tree


def _set(value: Any, place: Place) -> dict[str, Any]:
    """The node of a value that was not there before."""
    shape = shape_of(value, place) if value else "leaf"
    if shape == "leaf":
        return {}
    if shape == "map":
        return {".": {}, **_set_members(value, place, absent=True)}
    found = _grouped(value, place)
    below = item(place)
    return {
        ".": {},
        **{element: _set(found[element][0], below) if len(found[element]) == 1 else {} for element in sorted(found)},
    }


def _set_members(value: dict[str, Any], place: Place, *, absent: bool) -> dict[str, Any]:
    """The nodes of a map's members; not `absent`: of a map that was there, without content."""
    written = always_written(place)
    nodes: dict[str, Any] = {}
    for name in sorted({**value, **written} if absent and written else value):
        one = value.get(name)
        if absent or name not in written:
            nodes[f"f:{name}"] = _set(one, member(place, name)) if one and type(one) in _CONTAINERS else {}
            continue
        empty, inside = written[name], member(place, name)
        if one and shape_of(one, inside) == "map":
            if below := _set_members(one, inside, absent=False):
                nodes[f"f:{name}"] = below
        elif one and shape_of(one, inside) != "leaf":
            nodes[f"f:{name}"] = {element: node for element, node in _set(one, inside).items() if element != "."}
        elif one != empty or type(one) is not type(empty):
            nodes[f"f:{name}"] = {}
    return nodes


def _take(tree: dict[str, Any], path: Path, *, below: bool) -> None:
    """Take a path out of a nested set, in place, and with `below` all that is inside it."""
    node = tree.get(path[0])
    if node is None:
        return
    if len(path) > 1:
        if node:
            _take(node, path[1:], below=below)
            if not node:
                del tree[path[0]]
            elif len(node) == 1 and "." in node:
                tree[path[0]] = {}
    elif below or not node or (len(node) == 1 and "." in node):
        del tree[path[0]]
    else:
        node.pop(".", None)


def with_named(fields: FieldSet, root: Place) -> FieldSet:
    """`fields` and the struct fields on the way to them, which are there as long as anything in them is."""
    known = _places_above(fields, root)
    named = (
        prefix
        for prefix in known
        if prefix and prefix[-1].startswith("f:") and is_declared(known[prefix[:-1]], prefix[-1][2:])
    )
    return fields.union(named)


def reconciled(fields: FieldSet, root: Place) -> FieldSet:
    """`fields` after a change of the schema: of what has become atomic, the whole is owned in place of parts."""
    atomic = {prefix for prefix, place in _places_above(fields, root).items() if prefix and is_atomic(place)}
    if not atomic:
        return fields
    return frozenset(next((path[:n] for n in range(1, len(path)) if path[:n] in atomic), path) for path in fields)


def _places_above(fields: FieldSet, root: Place) -> dict[Path, Place]:
    """The places of all that `fields` are in, by path."""
    known: dict[Path, Place] = {(): root}

    def place_of(prefix: Path) -> Place:
        found = known.get(prefix)
        if found is None:
            found = known[prefix] = below(place_of(prefix[:-1]), prefix[-1])
        return found

    for path in fields:
        place_of(path[:-1])
    return known


# --- differences ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """The fields that one object has and another had not, or otherwise (`changed`), and that it lacks (`removed`)."""

    changed: FieldSet
    removed: FieldSet

    @property
    def any(self) -> bool:
        return bool(self.changed or self.removed)


def compare(old: Object, new: Object, root: Place) -> Difference:
    """What `new` changed and removed, where both are of one type."""
    found = _Comparison()
    found.visit(old, new, root, ())
    return Difference(frozenset(found.changed), frozenset(found.removed))


class _Comparison:
    """Paths that differ between two values, collected from the top down."""

    __slots__ = ("changed", "removed")

    def __init__(self) -> None:
        self.changed: set[Path] = set()
        self.removed: set[Path] = set()

    def visit(self, a: Any, b: Any, place: Place, path: Path) -> None:
        """The absent side of an addition or a removal is `_ABSENT`; null is a container without content."""
        if a is b or (type(a) is type(b) and a == b):
            return
        left, right = shape_of(a, place), shape_of(b, place)
        if left != right and not (_is_nothing(a) or _is_nothing(b)):
            self._replaced(a, b, place, path)
            return
        shape = right if left == "leaf" else left
        if shape == "leaf" or not ((a and a is not _ABSENT) or (b and b is not _ABSENT)):
            self._leaf(a, b, path)
            return
        if shape == "map":
            self._members(a, b, place, path)
        else:
            self._items(a if left == shape else [], b if right == shape else [], place, path)
        if a is _ABSENT:
            self.changed.add(path)
        elif b is _ABSENT:
            self.removed.add(path)

    def _leaf(self, a: Any, b: Any, path: Path) -> None:
        if b is _ABSENT:
            self.removed.add(path)
        elif a is _ABSENT or a != b:
            self.changed.add(path)

    def _replaced(self, a: Any, b: Any, place: Place, path: Path) -> None:
        """A value of another shape: nothing stays of the old one."""
        self.removed.update(p for p in _fields(a, place, path) if p != path)
        self.changed.update(_fields(b, place, path))
        self.changed.add(path)

    def _members(self, a: Any, b: Any, place: Place, path: Path) -> None:
        left, right = a if type(a) is dict else {}, b if type(b) is dict else {}
        written = always_written(place)
        for name in {**left, **right, **written}:
            empty = written.get(name, _ABSENT)
            old = left.get(name, _ABSENT if a is _ABSENT else empty)
            new = right.get(name, _ABSENT if b is _ABSENT else empty)
            if old is not new:
                self.visit(old, new, member(place, name), (*path, f"f:{name}"))

    def _items(self, a: list[Any], b: list[Any], place: Place, path: Path) -> None:
        """Items of lists by key; several of one key are compared as one value."""
        olds, news = _grouped(a, place), _grouped(b, place)
        for element in {**olds, **news}:
            old, new, inside = olds.get(element, []), news.get(element, []), (*path, element)
            if len(old) <= 1 and len(new) <= 1:
                pair = (old[0] if old else _ABSENT, new[0] if new else _ABSENT)
                self.visit(*pair, item(place), inside)
            elif len(old) > 1 and len(new) > 1:
                if old != new:
                    self.changed.add(inside)
            elif len(old) > 1:
                if new:
                    self.visit(_ABSENT, new[0], item(place), inside)
                self.removed.add(inside)
            else:
                if old:
                    self.visit(old[0], _ABSENT, item(place), inside)
                self.changed.add(inside)


def _is_nothing(value: Any) -> bool:
    return value is _ABSENT or value is None


# --- merging and removing ------------------------------------------------------------------------


def merge(live: Object, config: Object, root: Place) -> Object:
    """`config` over `live`: what it says replaces, what it leaves out stays."""
    merged: Object = _merge(live, config, root)
    return merged


def _merge(live: Any, config: Any, place: Place) -> Any:
    shape = shape_of(config, place)
    if config is None:
        # A null takes nothing away from what has content, and replaces what is a leaf.
        return live if live and shape_of(live, place) != "leaf" else None
    if shape == "map" and type(live) is dict:
        merged = dict(live)
        for name, value in config.items():
            merged[name] = _merge(live[name], value, member(place, name)) if name in live else value
        return merged
    if shape in ("list", "set") and type(live) is list:
        return _merge_items(live, config, place)
    return config


def _merge_items(live: list[Any], config: list[Any], place: Place) -> list[Any]:
    """Items of `config` in its order; those that only `live` has stay as near to their neighbours as that allows."""
    left, right = list(elements(live, place)), list(elements(config, place))
    given, had = dict(right), _grouped(live, place)
    shared = iter([element for element, _ in right if element in had])
    awaited, merged, out = next(shared, None), set[str](), list[Any]()
    at = next_right = 0
    while at < len(left) or next_right < len(right):
        if at < len(left):
            element, old = left[at]
            meets = next_right < len(right) and element == right[next_right][0]
            if element not in given:
                out.append(old)
                at += 1
                continue
            if not meets and next_right < len(right) and awaited not in (None, element):
                at += 1  # both have it; it comes where the config has it
                continue
            at += meets or element in merged
        if next_right < len(right):
            element, new = right[next_right]
            next_right += 1
            merged.add(element)
            olds = had.get(element, [])
            # Of several items with the key none is more the new item's old value than the others.
            out.append(_merge(olds[0], new, item(place)) if len(olds) == 1 else new)
            if element == awaited:
                awaited = next(shared, None)
    return out


def remove(obj: Object, fields: Iterable[Path], root: Place) -> Object:
    """`obj` without `fields`, and without what has nothing in it any more."""
    gone = to_fields_v1(fields)
    left: Object = _without(obj, gone, root) if gone else obj
    return left if left is not None else {}


def _without(value: Any, gone: dict[str, Any], place: Place) -> Any:
    """None when nothing is left."""
    kept: Any
    match shape_of(value, place):
        case "map":
            kept = {}
            for name, one in value.items():
                node = gone.get(f"f:{name}")
                if node is not None and is_member(node):
                    continue
                left = _without(one, node, member(place, name)) if node is not None else one
                if left is not None or node is None:
                    kept[name] = left
        case "list" | "set":
            kept = []
            for element, one in elements(value, place):
                node = gone.get(element)
                if node is not None and is_member(node):
                    continue
                left = _without(one, node, item(place)) if node is not None else one
                if left is not None or node is None:
                    kept.append(left)
        case _:
            return None if type(value) in (dict, list) else value
    return kept or None
