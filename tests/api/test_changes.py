"""What became of objects between two instants: which, in which fields, and who says so."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery.changes import Change, FieldChange, changes
from rayplane.control_plane.api.meta import Object

SHIP, EDIT = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def entry(manager: str, time: str, fields: dict[str, Any], subresource: str = "") -> Object:
    one = {"manager": manager, "operation": "Update", "apiVersion": "apps/v1", "time": time}
    return one | {"fieldsType": "FieldsV1", "fieldsV1": fields, "subresource": subresource}


def deployment(version: int, *, image: str = "nginx", replicas: int = 1, managed: list[Object] | None = None) -> Object:
    container = {"name": "web", "image": image, "ports": [{"containerPort": 80, "protocol": "TCP"}]}
    metadata: Object = {"name": "web", "namespace": "default", "uid": "u1", "resourceVersion": str(version)}
    metadata |= {"creationTimestamp": SHIP, "managedFields": managed or []}
    spec = {"replicas": replicas, "template": {"spec": {"containers": [container]}}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def config_map(name: str, data: dict[str, str], version: int, uid: str = "u") -> Object:
    metadata = {"name": name, "namespace": "default", "uid": uid, "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


IMAGE: Object = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"web"}': {"f:image": {}}}}}}}


def test_a_field_in_a_list_is_told_by_its_key_with_who_wrote_it_and_when() -> None:
    before = deployment(5, managed=[entry("shop", SHIP, IMAGE)])
    after = deployment(9, image="nginx:2", replicas=3, managed=[entry("editor", EDIT, IMAGE)])
    [found] = changes([before], [after])
    assert (found.what, found.kind, found.namespace, found.name) == ("changed", "Deployment", "default", "web")
    image = 'spec.template.spec.containers[name="web"].image'
    assert found.fields == (
        FieldChange("spec.replicas", 1, 3),
        FieldChange(image, "nginx", "nginx:2", "editor", EDIT),
    ), "nobody owns the replicas, so nobody is named"
    assert (found.by, found.at) == ("editor", EDIT)


def test_what_came_and_went() -> None:
    old, new = config_map("old", {}, 1), config_map("new", {}, 2)
    new["metadata"] |= {"creationTimestamp": SHIP, "managedFields": [entry("shop", SHIP, {"f:data": {}})]}
    assert changes([old], [new]) == [
        Change("created", "v1", "ConfigMap", "default", "new", (), "shop", SHIP),
        Change("deleted", "v1", "ConfigMap", "default", "old"),
    ]


def test_another_object_of_the_name_is_told_even_where_it_is_the_same() -> None:
    [found] = changes([config_map("a", {"k": "v"}, 1, "one")], [config_map("a", {"k": "v"}, 2, "two")])
    assert (found.what, found.fields) == ("replaced", ())


def test_who_took_a_field_away_is_the_only_one_who_wrote_there_meanwhile() -> None:
    before = deployment(1, managed=[entry("shop", SHIP, IMAGE)])
    after = copy.deepcopy(before)
    del after["spec"]["replicas"]
    after["metadata"] |= {"resourceVersion": "2", "managedFields": [entry("editor", EDIT, IMAGE)]}
    status = entry("controller", EDIT, {"f:status": {"f:replicas": {}}}, "status")
    for more in ([], [status]):
        after["metadata"]["managedFields"] = [entry("editor", EDIT, IMAGE), *more]
        assert changes([before], [after])[0].fields == (FieldChange("spec.replicas", 1, None, "editor", EDIT),)
    after["metadata"]["managedFields"].append(entry("other", EDIT, {"f:spec": {}}))
    assert changes([before], [after])[0].by == "", "one of two: nobody knows which"


DATA = st.dictionaries(st.sampled_from("abcd"), st.text("xyz", max_size=2))


@given(DATA, DATA)
def test_exactly_the_fields_that_differ_are_told_with_both_values(old: dict[str, str], new: dict[str, str]) -> None:
    before, after = {"z": "", **old}, {"z": "", **new}
    found = changes([config_map("a", before, 1)], [config_map("a", after, 2)])
    told = {f.path.removeprefix("data."): (f.before, f.after) for one in found for f in one.fields}
    differ = {k for k in before | after if before.get(k) != after.get(k)}
    assert told == {k: (before.get(k), after.get(k)) for k in differ}


@given(DATA, DATA)
def test_looked_at_the_other_way_round_it_is_the_opposite(old: dict[str, str], new: dict[str, str]) -> None:
    one, other = [config_map("a", old, 1)], [config_map("a", new, 2)]
    there, back = changes(one, other), changes(other, one)
    assert [[(f.path, f.before, f.after) for f in c.fields] for c in there] == [
        [(f.path, f.after, f.before) for f in c.fields] for c in back
    ]


def test_an_unwritten_object_is_not_looked_into_and_a_custom_one_is() -> None:
    assert changes([config_map("a", {"k": "v"}, 7)], [config_map("a", {"k": "v"}, 7)]) == []
    custom = [
        {"apiVersion": "shop.example/v1", "kind": "Order", "metadata": {"name": "o"}, "spec": s}
        for s in ({}, {"n": [1]})
    ]
    [found] = changes(custom[:1], custom[1:])
    assert [(f.path, f.before, f.after) for f in found.fields] == [("spec.n", None, [1])]


def test_of_a_secret_it_is_told_which_keys_changed_and_no_value() -> None:
    def secret(version: int, **data: str) -> Object:
        applied = {"kubectl.kubernetes.io/last-applied-configuration": str(data)}
        found = config_map("door", data, version) | {"kind": "Secret"}
        found["metadata"] = found["metadata"] | {"annotations": applied}
        return found

    [changed] = changes([secret(1, key="b2xk", same="c2Ft", gone="Z29u")], [secret(2, key="bmV3", same="c2Ft")])
    told = {one.path: (one.before, one.after) for one in changed.fields if one.path.startswith("data")}
    assert told == {"data.key": ("*** (before)", "*** (after)"), "data.gone": ("*** (before)", None)}
    [all_new] = changes([config_map("door", {}, 1) | {"kind": "Secret", "data": None}], [secret(2, key="bmV3")])
    for one in (changed, all_new):
        assert not [value for value in ("b2xk", "bmV3", "c2Ft", "Z29u") if value in str(one.to_json())]
