"""Changes of good objects, and what is said of them: tables of rules are written in these."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.strategy import (
    prepare_for_create,
    prepare_for_status_update,
    prepare_for_update,
)
from rayplane.control_plane.api.kinds.validation import validate_create, validate_status_update, validate_update
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.api.meta import Object

REGISTRY = builtin_registry()
GONE: Any = object()
"""The value of a field that is taken away."""
Changes = dict[str, Any]
Case = tuple[Changes, list[str]]
"""What is changed, and the findings in their order; `path: value`, with numbers for items of lists."""


def tables(**cases: list[Case]) -> list[Any]:
    """The cases of all tables, for `parametrize`: each is known by its table's name and its place in it."""
    return [pytest.param(*case, id=f"{table}-{i}") for table, rows in cases.items() for i, case in enumerate(rows)]


def info_of(obj: Object) -> ResourceInfo:
    info = REGISTRY.by_kind(obj["apiVersion"], obj["kind"])
    assert info is not None
    return info


def with_changes(obj: Object, changes: Changes) -> Object:
    made = copy.deepcopy(obj)
    for path, value in changes.items():
        *parents, last = path.split(".")
        at: Any = made
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        key: Any = int(last) if isinstance(at, list) else last
        if value is GONE:
            del at[key]
        elif isinstance(at, list) and key == len(at):
            at.append(copy.deepcopy(value))
        else:
            at[key] = copy.deepcopy(value)
    return made


def created(good: Object, changes: Changes) -> tuple[Object, list[str]]:
    """The object as it would be stored, and what is wrong with it."""
    info = info_of(good)
    space = {"namespace": "ns"} if info.namespaced else {}
    obj = with_changes({**good, "metadata": {"name": "x", "uid": "u", **space, **good.get("metadata", {})}}, changes)
    default(obj)
    prepare_for_create(obj, info)
    return obj, [str(error) for error in validate_create(obj, info)]


def refused(good: Object, changes: Changes) -> list[str]:
    return created(good, changes)[1]


def updated(good: Object, before: Changes, changes: Changes, *, sound: bool = True) -> tuple[Object, list[str]]:
    """A good object, changed before it is stored and once more after: what it becomes, and what is wrong with that.

    Not `sound`: it was stored under laxer rules, by which nothing was wrong with it.
    """
    old, problems = created(good, before)
    assert not (sound and problems)
    new = with_changes(old, changes)
    default(new)
    prepare_for_update(new, old, info_of(good))
    return new, [str(error) for error in validate_update(new, old, info_of(good))]


def status_refused(good: Object, before: Any, after: Any) -> list[str]:
    """What is wrong with one status after another."""
    old, problems = created(good, {})
    assert problems == []
    old["status"] = before
    new = with_changes(old, {"status": after})
    default(new)
    prepare_for_status_update(new, old, info_of(good))
    return [str(error) for error in validate_status_update(new, old, info_of(good))]
