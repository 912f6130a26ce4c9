"""What a new object sets, found in one walk: the same as the comparison with an object that says nothing."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from rayplane.control_plane.api.machinery.fieldsets import ownable, to_fields_v1, without_below
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.machinery.schema import LIST, MAP, STRUCT, Type, definition
from rayplane.control_plane.api.machinery.shapes import UNDESCRIBED, NotTyped, Place
from rayplane.control_plane.api.machinery.typed import compare, fields_of_new
from rayplane.control_plane.api.meta import Object

KINDS = sorted({info.definition: info for info in builtin_registry().all() if info.definition}.items())
IGNORED = ((), (("f:status",),), (("f:spec",), ("f:metadata", "f:labels"), ("f:metadata", "f:ownerReferences")))
_DEPTH = 6


def drawn(rng: Random, type_: Type, depth: int = 0) -> Any:
    """A value of a type; now and then one that is empty, or null."""
    chance = rng.random()
    if chance < 0.05:
        return None
    if type_.kind == STRUCT:
        names = [n for n in sorted(type_.definition.fields) if chance > 0.1 and depth < _DEPTH and rng.random() < 0.6]
        return {name: drawn(rng, type_.definition.fields[name].type, depth + 1) for name in names}
    if type_.kind in (LIST, MAP):
        items = [drawn(rng, type_.element, depth + 1) for _ in range(rng.randrange(3) if depth < _DEPTH else 0)]
        return items if type_.kind == LIST else {f"k{n}": one for n, one in enumerate(items)}
    return rng.choice(["a", "b"])


def slow(obj: Object, root: Place, ignored: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    bare = {"apiVersion": obj["apiVersion"], "kind": obj["kind"]}
    changed = compare(bare, obj, root).changed
    return to_fields_v1(ownable(without_below(changed, frozenset(ignored))))


def check(obj: Object, root: Place) -> int:
    """Whether there was anything to compare."""
    for ignored in IGNORED:
        try:
            expected = slow(obj, root, ignored)
        except NotTyped:
            with pytest.raises(NotTyped):
                fields_of_new(obj, root, ignored)
            return 0
        found = fields_of_new(obj, root, ignored)
        assert found == expected
        assert repr(found) == repr(expected), "in the same order"
    return 1


@pytest.mark.parametrize(("name", "info"), KINDS, ids=[name for name, _ in KINDS])
def test_of_every_kind_it_is_what_a_comparison_finds(name: str, info: Any) -> None:
    known = definition(name)
    assert known is not None
    compared = 0
    for seed in range(40):
        rng = Random(f"{name}{seed}")
        drawn_one = drawn(rng, Type.struct(known)) or {}
        obj = {**drawn_one, "apiVersion": info.api_version, "kind": info.kind}
        obj.setdefault("metadata", {"name": "a", "labels": {"x": "y"}})
        compared += check(obj, (Type.struct(known), None))
    assert compared


def test_what_no_schema_describes_is_owned_by_member() -> None:
    spec = {"a": {"b": {}, "c": [1], "d": {"e": None}}, "f": None}
    assert check({"apiVersion": "v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": spec}, UNDESCRIBED)
