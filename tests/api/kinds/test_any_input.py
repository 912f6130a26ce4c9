"""Odd values in objects of any kind, several at once and of any type: refused in words or stored, never a fault."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.registry import rules_by_object, rules_for
from rayplane.control_plane.api.kinds.strategy import prepare_for_create, prepare_for_status_update, prepare_for_update
from rayplane.control_plane.api.kinds.validation import validate_create, validate_status_update, validate_update
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.machinery.strict import DecodeError, conform
from tests.api.kinds import (
    test_admission_rules,
    test_network_rules,
    test_policy_rules,
    test_rules,
    test_storage_rules,
    test_validation,
    test_workload_rules,
)
from tests.api.kinds.changes import REGISTRY, status_refused
from tests.api.odd_values import fields, placed
from tests.tiers import examples

Object = dict[str, Any]
_BY_KIND = {kind: {"apiVersion": version, "kind": kind, **body} for version, kind, body, _ in test_rules.CASES}
for module in (test_admission_rules, test_network_rules, test_policy_rules, test_storage_rules, test_workload_rules):
    _BY_KIND |= module.GOOD
_BY_KIND |= test_validation.GOOD
GOOD = {(good["apiVersion"], kind): {**good, "kind": kind} for kind, good in _BY_KIND.items()}
KINDS = sorted({(info.api_version, info.kind) for info in REGISTRY.all() if definition_of(info.api_version, info.kind)})
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@functools.cache
def odd_fields(api_version: str, kind: str) -> list[tuple[tuple[str | int, ...], Any]]:
    return list(fields(api_version, kind))


def odd(data: st.DataObject, good: Object) -> Object | None:
    """The object with one to four values that are odd for their field, or of no type that fits; None for no object."""
    places = odd_fields(good["apiVersion"], good["kind"])
    made = copy.deepcopy(good)
    for _ in range(data.draw(st.integers(1, 4))):
        path, value = places[data.draw(st.integers(0, len(places) - 1))]
        if data.draw(st.integers(0, 3)) == 0:
            value = data.draw(ANYTHING)
        try:
            made = placed(made, path, copy.deepcopy(value))
        except (TypeError, AttributeError, KeyError, IndexError):
            continue  # What was placed before is in the way.
    definition = definition_of(good["apiVersion"], good["kind"])
    assert definition is not None
    try:
        conform(made, definition)
    except (DecodeError, ApiError):
        return None
    return made


@settings(max_examples=examples(300))
@given(st.data())
def test_nothing_that_is_written_is_a_fault(data: st.DataObject) -> None:
    api_version, kind = data.draw(st.sampled_from(KINDS))
    info = REGISTRY.by_kind(api_version, kind)
    assert info is not None
    space = {"namespace": "ns"} if info.namespaced else {}
    bare = {"apiVersion": api_version, "kind": kind}
    good = {**GOOD.get((api_version, kind), bare), "metadata": {"name": "x", "uid": "u", **space}}
    made, again = odd(data, good), odd(data, good)
    if made is None or again is None:
        return
    try:
        stored, status, changed = (copy.deepcopy(made) for _ in range(3))
        for each in (stored, status, changed):
            default(each)
        prepare_for_create(stored, info)
        assert all(map(str, validate_create(stored, info)))
        rules_for(info).warnings(stored, None)
        default(again)
        for write in (again, copy.deepcopy(changed)):
            prepare_for_update(write, stored, info)
            assert all(map(str, validate_update(write, stored, info)))
            rules_for(info).warnings(write, stored)
        if "status" in info.subresources:
            prepare_for_status_update(status, stored, info)
            assert all(map(str, validate_status_update(status, stored, info)))
    except ApiError as e:
        assert e.code < 500


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("5", []),
        ("-5", ["status.resourceVersion: Invalid value: -5: must be greater than or equal to 0"]),
        (f"-{'9' * 5000}", ["value out of range"]),
        ("9" * 18, []),
        ("9" * 19, ["value out of range"]),
        ("\u0663", ["invalid syntax"]),
    ],
)
def test_versions_of_migrations_are_numbers(version: str, found: list[str]) -> None:
    spec = {"resource": {"group": "", "resource": "pods"}}
    good = {"apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration", "spec": spec}
    problems = status_refused(good, {}, {"resourceVersion": version})
    assert [problem[-len(text) :] for problem, text in zip(problems, found, strict=True)] == found


@pytest.mark.parametrize(("version", "kind"), KINDS)
def test_defaults_leave_status_and_metadata_alone_where_writes_of_the_status_go_without_them(
    version: str, kind: str
) -> None:
    good = {**GOOD.get((version, kind), {"apiVersion": version, "kind": kind}), "metadata": {"name": "x"}}
    if rules_by_object(good).defaults_in_status:
        return
    definition = definition_of(version, kind)
    assert definition is not None
    makes: list[Object] = [{}, {"status": {}}]
    for path, value in odd_fields(version, kind):
        if path[0] == "status":
            makes.append({"status": placed({}, path[1:], value)} if path[1:] else {"status": value})
    for make in makes:
        obj = {**copy.deepcopy(good), **copy.deepcopy(make)}
        try:
            conform(obj, definition)
        except (DecodeError, ApiError):
            continue
        before = copy.deepcopy(obj.get("status"))
        default(obj)
        assert (obj.get("status"), obj["metadata"]) == (before, {"name": "x"})
