"""Sets of fields and the FieldsV1 form they are stored in.

A set is a frozenset of paths; a path is a tuple of FieldsV1 elements: `f:name` a field or map
key, `k:{...}` an item of a list keyed by fields, `v:...` an item of a set, `i:0` a place in a list.
Source: Kubernetes documentation "Server-Side Apply"; the FieldsV1 format of meta/v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

Path = tuple[str, ...]
FieldSet = frozenset[Path]
EMPTY: Final[FieldSet] = frozenset()

NOBODYS: Final[FieldSet] = frozenset(
    [("f:apiVersion",), ("f:kind",), ("f:metadata",)]
    + [
        ("f:metadata", f"f:{name}")
        for name in (
            "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation",
            "managedFields", "resourceVersion",
        )
    ]
)  # fmt: skip
"""Fields that nobody owns."""


def render(path: Iterable[str]) -> str:
    """`.spec.containers[name="c"].image`."""
    text = ""
    for element in path:
        if element.startswith("f:"):
            text += f".{element[2:]}"
        elif element.startswith("k:"):
            keys = orjson.loads(element[2:])
            pairs = (f"{name}={orjson.dumps(value).decode()}" for name, value in keys.items())
            text += f"[{','.join(pairs)}]"
        elif element.startswith("v:"):
            text += f"[={element[2:]}]"
        else:
            text += f"[{element[2:]}]"
    return text


def ownable(fields: FieldSet) -> FieldSet:
    """`fields` without those that nobody owns: the object's identity and what the server counts."""
    return fields - NOBODYS


def without_below(fields: FieldSet, roots: FieldSet) -> FieldSet:
    """`fields` without `roots` and all that is inside them."""
    if not roots:
        return fields
    lengths = {len(root) for root in roots}
    return frozenset(p for p in fields if not any(p[:n] in roots for n in lengths))


def only_below(fields: FieldSet, patterns: Sequence[Path]) -> FieldSet:
    """Those of `fields` on the way to and inside what a pattern names, in which `*` is any element."""
    return frozenset(p for p in fields if any(_on_the_way(p, pattern) for pattern in patterns))


def _on_the_way(path: Path, pattern: Path) -> bool:
    return all(wanted in ("*", element) for wanted, element in zip(pattern, path, strict=False))


@dataclass(frozen=True, slots=True)
class Reach:
    """The fields that somebody may come to own through an endpoint: the others it resets."""

    without: FieldSet = EMPTY
    """Subtrees that are reset."""
    only: tuple[Path, ...] = ()
    """Patterns of the subtrees that are not, where they are few."""

    def counted(self, fields: FieldSet) -> FieldSet:
        fields = without_below(fields, self.without)
        return only_below(fields, self.only) if self.only else fields


EVERYTHING: Final = Reach()


def to_fields_v1(fields: Iterable[Path]) -> dict[str, Any]:
    """The nested form: a member with members below it carries `.`."""
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for element in path[:-1]:
            below = node.get(element)
            if below is None:
                below = node[element] = {}
            elif not below:
                below["."] = {}
            node = below
        node[path[-1]] = {}
    return tree


def is_member(node: dict[str, Any]) -> bool:
    """Whether a node of the nested form is in the set itself, not only something below it."""
    return not node or "." in node


def from_fields_v1(tree: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of a nested set, the inverse of `to_fields_v1`. ValueError if it is none."""
    if type(tree) is not dict:
        raise ValueError(f"a FieldsV1 node must be an object, not {tree!r}")
    for element, below in tree.items():
        if element == ".":
            if path:
                yield path
            continue
        place = (*path, _element(element))
        if below:
            yield from from_fields_v1(below, place)
        elif type(below) is dict:
            yield place
        else:
            raise ValueError(f"a FieldsV1 node must be an object, not {below!r}")


def _element(text: str) -> str:
    """A path element as this module writes it. ValueError if it is none."""
    if text.startswith("f:"):
        return text
    kind, colon, rest = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} is no FieldsV1 path element")
    match kind:
        case "i":
            return f"i:{int(rest)}"
        case "k":
            keys = orjson.loads(rest)
            if type(keys) is dict:
                return key_element(keys)
        case "v":
            return value_element(orjson.loads(rest))
    raise ValueError(f"{text!r} is no FieldsV1 path element")


def key_element(keys: dict[str, Any]) -> str:
    """The element of a list's item with these keys."""
    return "k:" + _json(keys)


def value_element(value: Any) -> str:
    """The element of a set's item."""
    return "v:" + _json(value)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError as error:
        raise ValueError(f"no key of a list: {error}") from error
