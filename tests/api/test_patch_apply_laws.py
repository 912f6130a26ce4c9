"""Laws of server-side apply over whole objects: keyed lists, sets, maps, what is owned as one, duplicates."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import BadRequest, Conflict
from rayplane.control_plane.api.machinery.apply import BEFORE_FIRST_APPLY, apply, check_config, track_update
from rayplane.control_plane.api.machinery.fieldsets import from_fields_v1
from rayplane.control_plane.api.machinery.schema import Type, definition_of
from rayplane.control_plane.api.machinery.typed import compare, field_set, merge, remove

POD = definition_of("v1", "Pod")
assert POD is not None
ROOT = (Type.struct(POD), None)
FIRST, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"
Object = dict[str, Any]

WORDS = st.sampled_from(["1", "2", "3"])
ENV = st.fixed_dictionaries({"name": st.sampled_from("AB")}, optional={"value": WORDS})
PORT = st.fixed_dictionaries({"containerPort": st.sampled_from([80, 81])}, optional={"protocol": st.just("UDP")})


def container(unique: bool) -> st.SearchStrategy[Object]:
    optional = {
        "image": WORDS,
        "args": st.lists(WORDS, min_size=1, max_size=2),
        "env": st.lists(ENV, min_size=1, max_size=3, unique_by=(lambda e: e["name"]) if unique else None),
        "ports": st.lists(PORT, min_size=1, max_size=2, unique_by=lambda p: (p["containerPort"], p.get("protocol"))),
    }
    return st.fixed_dictionaries({"name": st.sampled_from("xyz")}, optional=optional)


def pods(unique: bool) -> st.SearchStrategy[Object]:
    metadata = st.fixed_dictionaries(
        {"name": st.just("p")},
        optional={
            "labels": st.dictionaries(st.sampled_from("lmn"), WORDS, min_size=1, max_size=2),
            "finalizers": st.lists(st.sampled_from(["a/1", "a/2", "a/3"]), min_size=1, max_size=2, unique=True),
        },
    )
    spec = st.fixed_dictionaries(
        {},
        optional={
            "containers": st.lists(container(unique), min_size=1, max_size=3, unique_by=lambda c: c["name"]),
            "nodeSelector": st.dictionaries(st.sampled_from("uv"), WORDS, min_size=1, max_size=2),
            "securityContext": st.fixed_dictionaries({"runAsUser": st.integers(1, 3)}),
            "priority": st.integers(0, 2),
        },
    )
    fixed = {"apiVersion": st.just("v1"), "kind": st.just("Pod"), "metadata": metadata}
    return st.fixed_dictionaries(fixed, optional={"spec": spec})


CONFIGS, LIVES = pods(unique=True), pods(unique=False)


def applied(live: Object | None, config: Object, manager: str = "m", time: str = FIRST) -> Object:
    return apply(live, config, POD, manager=manager, time=time, force=True)


def owned(obj: Object) -> dict[str, frozenset[tuple[str, ...]]]:
    return {
        entry["manager"]: frozenset(from_fields_v1(entry["fieldsV1"]))
        for entry in obj["metadata"].get("managedFields", ())
    }


def bare(obj: Object) -> Object:
    """An object without its owners, and without what has nothing in it."""
    meta = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    return {k: v for k, v in {**obj, "metadata": meta}.items() if v != {}}


def made_by(creator: str, obj: Object) -> Object:
    track_update(None, obj, POD, manager=creator, time=FIRST)
    return obj


@given(LIVES, CONFIGS)
def test_applying_twice_is_applying_once(live: Object, config: Object) -> None:
    once = applied(made_by("other", live), config)
    assert applied(once, config, time=LATER) == once


@given(LIVES, CONFIGS)
def test_the_result_has_what_was_applied_and_its_applier_owns_it(live: Object, config: Object) -> None:
    after = applied(made_by("other", live), config)
    assert not compare(after, merge(after, config, ROOT), ROOT).any
    wanted = frozenset(p for p in field_set(config, ROOT) if p[0] == "f:spec" or len(p) > 2)
    assert owned(after).get("m", frozenset()) == wanted


@given(CONFIGS, CONFIGS)
def test_letting_go_of_all_leaves_what_was_there_before(mine: Object, theirs: Object) -> None:
    before = applied(None, theirs, "they")
    shared = apply_or_none(before, mine)
    if shared is None:
        return
    left = applied(shared, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})
    assert "m" not in owned(left)
    assert not compare(bare(before), bare(left), ROOT).removed, "nothing of theirs is gone"
    assert field_set(bare(left), ROOT) <= field_set(bare(before), ROOT), "nothing of mine stays"


def apply_or_none(live: Object, config: Object) -> Object | None:
    try:
        return apply(live, config, POD, manager="m", time=FIRST)
    except Conflict:
        return None


@given(LIVES, CONFIGS)
def test_a_conflict_names_fields_of_others_that_the_apply_would_change(live: Object, config: Object) -> None:
    before = made_by("other", live)
    changes = compare(before, merge(before, config, ROOT), ROOT).changed & owned(before).get("other", frozenset())
    assert (apply_or_none(before, config) is None) == bool(changes)
    taken = owned(applied(before, config)).get("other", frozenset())
    assert not taken & changes, "who is forced out of a field has it no more"


@given(CONFIGS, CONFIGS)
def test_merging_takes_nothing_away_and_changes_neither(live: Object, config: Object) -> None:
    was = repr((live, config))
    merged = merge(live, config, ROOT)
    assert repr((live, config)) == was
    assert not compare(live, merged, ROOT).removed


@given(LIVES)
def test_an_object_without_all_its_fields_is_empty(live: Object) -> None:
    assert remove(live, field_set(live, ROOT), ROOT) == {}
    assert not compare(live, live, ROOT).any


@given(LIVES, LIVES)
def test_an_update_owns_what_it_changed_and_others_keep_the_rest(old: Object, new: Object) -> None:
    live = made_by("first", old)
    had = owned(live).get("first", frozenset())
    track_update(live, new, POD, manager="second", time=LATER)
    difference = compare(bare(live), bare(new), ROOT)
    owners = owned(new)
    assert owners.get("first", frozenset()) == had - difference.changed - difference.removed
    assert owners.get("second", frozenset()) <= difference.changed


@given(st.lists(st.tuples(st.sampled_from("pq"), CONFIGS), min_size=1, max_size=5))
def test_what_is_applied_never_belongs_to_nobody(steps: list[tuple[str, Object]]) -> None:
    live: Object | None = None
    for manager, config in steps:
        live = applied(live, config, manager)
        everything = frozenset[tuple[str, ...]]().union(*owned(live).values())
        assert set(owned(live)) <= {"p", "q", BEFORE_FIRST_APPLY}
        fields = {p for p in field_set(bare(live), ROOT) if p[0] == "f:spec" or len(p) > 2}
        assert fields <= everything


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.sampled_from(["", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "containers", "a"]), inner),
    max_leaves=8,
)


@given(LIVES, st.dictionaries(st.sampled_from(["metadata", "spec", "data", "status"]), JSON))
def test_any_configuration_is_applied_or_refused_as_a_bad_request(live: Object, config: Object) -> None:
    config = {"apiVersion": "v1", "kind": "Pod", **config}
    try:
        check_config(config, POD)
        applied(live, config)
    except BadRequest as error:
        assert error.code == 400
