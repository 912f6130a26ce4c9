"""Server-side apply: ownership, conflicts, removal of what is no longer applied."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import BadRequest, Conflict
from rayplane.control_plane.api.machinery.apply import BEFORE_FIRST_APPLY, LAST_APPLIED, apply, track_update
from rayplane.control_plane.api.machinery.fieldsets import Reach, from_fields_v1, to_fields_v1
from rayplane.control_plane.api.machinery.schema import definition_of

CONFIG_MAP = definition_of("v1", "ConfigMap")
DEPLOYMENT = definition_of("apps/v1", "Deployment")
T1, T2, T3 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"


def config_map(**data: str) -> dict[str, Any]:
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    return {**made, "data": data} if data else made  # as decoding leaves it


def deployment(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    pod = {"containers": list(containers)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {"spec": pod}, **spec},
    }


def owners(obj: dict[str, Any]) -> dict[str, Any]:
    return {e["manager"]: e["fieldsV1"] for e in obj["metadata"].get("managedFields", ())}


def containers_of(obj: dict[str, Any]) -> list[dict[str, Any]]:
    return obj["spec"]["template"]["spec"]["containers"]


def test_the_first_apply_creates_and_owns_what_it_sets() -> None:
    made = apply(None, config_map(a="1", b="2"), CONFIG_MAP, manager="m1", time=T1)
    assert made["data"] == {"a": "1", "b": "2"}
    assert made["metadata"]["managedFields"] == [
        {
            "manager": "m1",
            "operation": "Apply",
            "apiVersion": "v1",
            "time": T1,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:a": {}, "f:b": {}}},
        }
    ]


def test_what_is_no_longer_applied_is_removed() -> None:
    made = apply(None, config_map(a="1", b="2"), CONFIG_MAP, manager="m1", time=T1)
    again = apply(made, config_map(a="1"), CONFIG_MAP, manager="m1", time=T2)
    assert again["data"] == {"a": "1"}
    assert owners(again) == {"m1": {"f:data": {"f:a": {}}}}


def test_applying_the_same_again_changes_nothing() -> None:
    made = apply(None, config_map(a="1"), CONFIG_MAP, manager="m1", time=T1)
    assert apply(made, config_map(a="1"), CONFIG_MAP, manager="m1", time=T2) == made


def test_another_value_for_an_owned_field_is_a_conflict_until_forced() -> None:
    made = apply(None, config_map(a="1"), CONFIG_MAP, manager="m1", time=T1)
    with pytest.raises(Conflict) as caught:
        apply(made, config_map(a="9"), CONFIG_MAP, manager="m2", time=T2)
    status = caught.value.status
    assert status["code"] == 409 and status["reason"] == "Conflict"
    assert status["message"] == 'Apply failed with 1 conflict: conflict with "m1": .data.a'
    assert status["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "m1"', "field": ".data.a"}
    ]
    forced = apply(made, config_map(a="9"), CONFIG_MAP, manager="m2", time=T2, force=True)
    assert forced["data"] == {"a": "9"}
    assert owners(forced) == {"m2": {"f:data": {"f:a": {}}}}


def test_two_managers_share_a_field_of_the_same_value_and_both_must_let_go() -> None:
    made = apply(None, config_map(a="1"), CONFIG_MAP, manager="m1", time=T1)
    shared = apply(made, config_map(a="1"), CONFIG_MAP, manager="m2", time=T2)
    assert owners(shared) == {"m1": {"f:data": {"f:a": {}}}, "m2": {"f:data": {"f:a": {}}}}
    one_left = apply(shared, config_map(), CONFIG_MAP, manager="m1", time=T3)
    assert one_left["data"] == {"a": "1"}
    none_left = apply(one_left, config_map(), CONFIG_MAP, manager="m2", time=T3)
    assert not none_left.get("data")


def test_several_conflicts_are_listed_by_manager() -> None:
    made = apply(None, config_map(a="1", b="2"), CONFIG_MAP, manager="m1", time=T1)
    with pytest.raises(Conflict) as caught:
        apply(made, config_map(a="8", b="9"), CONFIG_MAP, manager="m2", time=T2)
    assert caught.value.message == ('Apply failed with 2 conflicts: conflicts with "m1":\n- .data.a\n- .data.b')


def test_list_items_are_owned_by_key() -> None:
    first = deployment({"name": "c", "image": "i", "ports": [{"containerPort": 80}]})
    made = apply(None, first, DEPLOYMENT, manager="m1", time=T1)
    pod = owners(made)["m1"]["f:spec"]["f:template"]["f:spec"]
    assert pod["f:containers"]['k:{"name":"c"}'] == {
        ".": {},
        "f:image": {},
        "f:name": {},
        "f:ports": {
            'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}},
        },
    }
    side = deployment({"name": "sidecar", "image": "s"})
    both = apply(made, side, DEPLOYMENT, manager="m2", time=T2)
    assert [c["name"] for c in containers_of(both)] == ["c", "sidecar"]
    gone = apply(both, deployment(), DEPLOYMENT, manager="m1", time=T3)
    assert [c["name"] for c in containers_of(gone)] == ["sidecar"]


def test_removing_an_item_takes_its_defaulted_fields_along() -> None:
    made = apply(
        None,
        deployment({"name": "a", "image": "1"}, {"name": "b", "image": "2"}),
        DEPLOYMENT,
        manager="m1",
        time=T1,
    )
    for container in containers_of(made):
        container["imagePullPolicy"] = "Always"  # as defaulting does; nobody owns it
    rest = apply(made, deployment({"name": "b", "image": "2"}), DEPLOYMENT, manager="m1", time=T2)
    assert containers_of(rest) == [{"name": "b", "image": "2", "imagePullPolicy": "Always"}]


def test_the_order_of_the_config_is_followed() -> None:
    made = apply(None, deployment({"name": "a"}, {"name": "b"}), DEPLOYMENT, manager="m1", time=T1)
    turned = apply(
        made,
        deployment({"name": "b"}, {"name": "new"}, {"name": "a"}),
        DEPLOYMENT,
        manager="m1",
        time=T2,
    )
    assert [c["name"] for c in containers_of(turned)] == ["b", "new", "a"]


def test_conflict_path_names_the_item() -> None:
    made = apply(None, deployment({"name": "c", "image": "1"}), DEPLOYMENT, manager="m1", time=T1)
    with pytest.raises(Conflict, match=r'\.spec\.template\.spec\.containers\[name="c"\]\.image'):
        apply(made, deployment({"name": "c", "image": "2"}), DEPLOYMENT, manager="m2", time=T2)


def test_an_object_made_otherwise_belongs_to_before_first_apply() -> None:
    live = config_map(a="1", b="2")
    same = apply(live, config_map(a="1"), CONFIG_MAP, manager="m1", time=T1)
    assert set(owners(same)) == {"m1", BEFORE_FIRST_APPLY}
    with pytest.raises(Conflict, match=r'"before-first-apply" using v1: \.data\.a'):
        apply(live, config_map(a="9"), CONFIG_MAP, manager="m1", time=T1)


def test_kubectl_takes_over_from_its_own_client_side_apply() -> None:
    live = config_map(a="1", b="2")
    live["metadata"]["annotations"] = {LAST_APPLIED: '{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"1"}}'}
    taken = apply(live, config_map(a="9"), CONFIG_MAP, manager="kubectl", time=T1)
    assert taken["data"] == {"a": "9", "b": "2"}
    assert '"data":{"a":"9"}' in taken["metadata"]["annotations"][LAST_APPLIED], "kept in step"
    with pytest.raises(Conflict):
        apply(live, config_map(b="9"), CONFIG_MAP, manager="kubectl", time=T1)


def test_updates_take_ownership_of_what_they_change() -> None:
    made = apply(None, config_map(a="1", b="2"), CONFIG_MAP, manager="m1", time=T1)
    changed = {**made, "data": {"a": "9", "z": "26"}, "metadata": {"name": "x"}}
    track_update(made, changed, CONFIG_MAP, manager="edit", time=T2)
    assert "m1" not in owners(changed)  # a was taken over, b is gone
    assert owners(changed)["edit"] == {"f:data": {"f:a": {}, "f:z": {}}}
    with pytest.raises(Conflict, match=r'"edit" using v1: \.data\.a'):
        apply(changed, config_map(a="1"), CONFIG_MAP, manager="m1", time=T3)


def test_an_update_that_changes_nothing_keeps_the_entries() -> None:
    made = apply(None, config_map(a="1"), CONFIG_MAP, manager="m1", time=T1)
    same = {**made, "metadata": dict(made["metadata"])}
    track_update(made, same, CONFIG_MAP, manager="edit", time=T2)
    assert same == made


def test_managed_fields_can_be_reset() -> None:
    made = apply(None, config_map(a="1"), CONFIG_MAP, manager="m1", time=T1)
    reset = {**made, "metadata": {"name": "x", "managedFields": []}}
    track_update(made, reset, CONFIG_MAP, manager="edit", time=T2)
    assert "managedFields" not in reset["metadata"]


def test_managed_fields_that_a_client_writes_are_taken_unless_unreadable() -> None:
    made = apply(None, config_map(a="1"), CONFIG_MAP, manager="m1", time=T1)
    entries = [{**made["metadata"]["managedFields"][0], "manager": "renamed"}]
    moved = {**made, "metadata": {"name": "x", "managedFields": entries}}
    track_update(made, moved, CONFIG_MAP, manager="edit", time=T2)
    assert set(owners(moved)) == {"renamed"}
    unreadable: tuple[dict[str, Any], ...] = ({"bogus": {}}, {"k:{": {}}, {"k:1": {}}, {"f:a": [1]})
    for nonsense in unreadable:
        broken = [{**entries[0], "fieldsV1": nonsense}]
        kept = {**made, "metadata": {"name": "x", "managedFields": broken}}
        track_update(made, kept, CONFIG_MAP, manager="edit", time=T2)
        assert set(owners(kept)) == {"m1"}


def test_fields_that_the_endpoint_resets_are_not_owned() -> None:
    config = {**deployment({"name": "c"}), "status": {"replicas": 3}}
    made = apply(None, config, DEPLOYMENT, manager="m1", time=T1, reach=Reach(frozenset({("f:status",)})))
    assert "f:status" not in owners(made)["m1"]


def test_bad_requests() -> None:
    with pytest.raises(BadRequest, match="managedFields must be nil"):
        bad = config_map()
        bad["metadata"]["managedFields"] = [{"manager": "x"}]
        apply(None, bad, CONFIG_MAP, manager="m", time=T1)


PATHS = st.frozensets(
    st.lists(st.sampled_from(["f:a", "f:b", 'k:{"name":"c"}', 'v:"d"']), min_size=1, max_size=4).map(tuple),
    max_size=8,
)


@given(PATHS)
def test_fields_v1_round_trip(fields: frozenset[tuple[str, ...]]) -> None:
    assert frozenset(from_fields_v1(to_fields_v1(fields))) == fields


DATA = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12"), max_size=4)


@given(st.lists(st.tuples(st.sampled_from(["m1", "m2"]), DATA), min_size=1, max_size=6))
def test_forced_applies_leave_the_union_of_what_each_manager_last_applied(
    steps: list[tuple[str, dict[str, str]]],
) -> None:
    """Twin: the last value wins; a key lives as long as an owner of its value applies it."""
    live: dict[str, Any] | None = None
    value: dict[str, str] = {}
    owned: dict[str, set[str]] = {"m1": set(), "m2": set()}
    for manager, data in steps:
        live = apply(live, config_map(**data), CONFIG_MAP, manager=manager, time=T1, force=True)
        other = "m2" if manager == "m1" else "m1"
        for name in owned[manager] - set(data) - owned[other]:
            del value[name]
        for name, new in data.items():
            if value.get(name, new) != new:
                owned[other].discard(name)
            value[name] = new
        owned[manager] = set(data)
        assert (live.get("data") or {}) == value
        fields = {m: f.get("f:data", {}) for m, f in owners(live).items()}
        fields.pop(BEFORE_FIRST_APPLY, None)
        assert {m: {name[2:] for name in f} for m, f in fields.items()} == {
            m: names for m, names in owned.items() if names
        }
