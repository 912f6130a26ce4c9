"""Strategic merge patch: lists merge by key and keep order, directives do what they say."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import ApiError, BadRequest
from rayplane.control_plane.api.machinery.patching import PatchFailed, apply_patch, strategic_merge
from rayplane.control_plane.api.machinery.schema import definition_of

DEPLOYMENT = definition_of("apps/v1", "Deployment")
POD = definition_of("v1", "Pod")
SERVICE = definition_of("v1", "Service")


def deployment(**spec: Any) -> dict[str, Any]:
    containers = [
        {
            "name": "c1",
            "image": "i1:1",
            "args": ["x", "y"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        },
        {"name": "c2", "image": "i2:1"},
    ]
    return {
        "metadata": {"name": "web", "labels": {"x": "1"}, "finalizers": ["example.com/a"]},
        "spec": {
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {
                "spec": {
                    "containers": containers,
                    "tolerations": [{"key": "a"}],
                    "nodeSelector": {"k": "v"},
                    **spec,
                }
            },
        },
    }


def patch_pod_spec(patch: dict[str, Any], **spec: Any) -> dict[str, Any]:
    assert DEPLOYMENT is not None
    before = deployment(**spec)
    untouched = copy.deepcopy(before)
    result = strategic_merge(before, {"spec": {"template": {"spec": patch}}}, DEPLOYMENT)
    assert before == untouched
    return result["spec"]["template"]["spec"]


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["name"] for item in items]


def test_containers_and_env_merge_by_name_and_new_items_come_first() -> None:
    spec = patch_pod_spec({"containers": [{"name": "c1", "image": "i1:2", "env": [{"name": "C", "value": "3"}]}]})
    assert names(spec["containers"]) == ["c1", "c2"]
    first = spec["containers"][0]
    assert first["image"] == "i1:2" and first["args"] == ["x", "y"]
    assert names(first["env"]) == ["C", "A", "B"]


def test_delete_directive_removes_the_item_with_that_key() -> None:
    spec = patch_pod_spec({"containers": [{"name": "c1", "env": [{"$patch": "delete", "name": "A"}]}]})
    assert names(spec["containers"][0]["env"]) == ["B"]


def test_replace_directive_replaces_the_whole_list() -> None:
    spec = patch_pod_spec({"containers": [{"$patch": "replace"}, {"name": "only", "image": "o"}]})
    assert spec["containers"] == [{"name": "only", "image": "o"}]


def test_replace_and_delete_directives_on_maps() -> None:
    spec = patch_pod_spec({"nodeSelector": {"$patch": "replace", "z": "1"}})
    assert spec["nodeSelector"] == {"z": "1"}
    assert patch_pod_spec({"nodeSelector": {"$patch": "delete"}})["nodeSelector"] == {}


def test_null_removes_and_lists_without_merge_key_are_replaced() -> None:
    spec = patch_pod_spec({"nodeSelector": None, "tolerations": [{"key": "b"}]})
    assert "nodeSelector" not in spec
    assert spec["tolerations"] == [{"key": "b"}]


def test_set_element_order_orders_old_and_new_items() -> None:
    spec = patch_pod_spec(
        {
            "$setElementOrder/containers": [{"name": "c3"}, {"name": "c2"}, {"name": "c1"}],
            "containers": [{"name": "c3", "image": "i3"}],
        }
    )
    assert names(spec["containers"]) == ["c3", "c2", "c1"]


def test_set_element_order_keeps_server_only_items_near_their_neighbours() -> None:
    containers = [{"name": n} for n in ("a", "server", "b")]
    spec = patch_pod_spec({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}, containers=containers)
    assert names(spec["containers"]) == ["server", "b", "a"]


def test_patch_list_in_another_order_than_the_directive_is_refused() -> None:
    patch = {
        "$setElementOrder/containers": [{"name": "c3"}, {"name": "c2"}, {"name": "c1"}],
        "containers": [
            {"name": "c1", "env": [{"$patch": "delete", "name": "A"}]},
            {"name": "c3", "image": "i3"},
        ],
    }
    with pytest.raises(PatchFailed) as caught:
        patch_pod_spec(patch)
    assert caught.value.code == 500
    assert caught.value.message == (
        "The order in patch list:\n[map[env:[map[$patch:delete name:A]] name:c1] "
        "map[image:i3 name:c3]]\n doesn't match $setElementOrder list:\n"
        "[map[name:c3] map[name:c2] map[name:c1]]\n"
    )


def test_item_without_its_merge_key_is_refused() -> None:
    with pytest.raises(PatchFailed) as caught:
        patch_pod_spec({"containers": [{"image": "no-name"}]})
    assert caught.value.message == ("map: map[image:no-name] does not contain declared merge key: name")


def test_retain_keys_drops_the_rest_of_a_union() -> None:
    assert DEPLOYMENT is not None
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(deployment(), patch, DEPLOYMENT)["spec"]["strategy"] == {"type": "Recreate"}
    with pytest.raises(BadRequest):
        strategic_merge(
            deployment(),
            {"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}},
            DEPLOYMENT,
        )


def test_retain_keys_switches_the_source_of_a_volume() -> None:
    spec = patch_pod_spec(
        {"volumes": [{"$retainKeys": ["name", "emptyDir"], "name": "v", "emptyDir": {}}]},
        volumes=[{"name": "v", "hostPath": {"path": "/x"}}],
    )
    assert spec["volumes"] == [{"name": "v", "emptyDir": {}}]


def test_primitive_lists_merge_as_sets_and_delete_by_directive() -> None:
    assert DEPLOYMENT is not None
    added = strategic_merge(deployment(), {"metadata": {"finalizers": ["example.com/b"]}}, DEPLOYMENT)
    assert sorted(added["metadata"]["finalizers"]) == ["example.com/a", "example.com/b"]
    removed = strategic_merge(
        added,
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}},
        DEPLOYMENT,
    )
    assert removed["metadata"]["finalizers"] == ["example.com/b"]


def test_service_ports_merge_by_port() -> None:
    assert SERVICE is not None
    service = {"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}}
    patch = {"spec": {"ports": [{"port": 81, "targetPort": 8081}]}}
    assert strategic_merge(service, patch, SERVICE)["spec"]["ports"] == [
        {"port": 80, "name": "a"},
        {"port": 81, "name": "b", "targetPort": 8081},
    ]


def test_values_that_are_new_lose_their_nulls_and_directives() -> None:
    assert POD is not None
    patch = {
        "spec": {
            "nodeSelector": {"a": "b", "gone": None},
            "containers": [{"$patch": "delete", "name": "x"}, {"name": "y", "image": None}],
        }
    }
    assert apply_patch("strategic", {}, patch, POD) == {
        "spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "y"}]}
    }


def test_unknown_directive_is_refused() -> None:
    with pytest.raises(BadRequest, match="unknown patch type: explode"):
        patch_pod_spec({"nodeSelector": {"$patch": "explode"}})


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ({"containers": [{"name": "c1"}, "c2"]}, 400),
        ({"containers": [[]]}, 422),
        ({"containers": [{"$patch": "merge", "name": "c1"}]}, 400),
        ({"containers": [{"$patch": 5, "name": "c1"}]}, 400),
        ({"$setElementOrder/containers": 5, "containers": []}, 400),
        ({"$setElementOrder/containers": [{"name": "c1"}], "containers": {}}, 400),
        ({"$retainKeys": "containers"}, 400),
        ({"$retainKeys": ["volumes"], "containers": []}, 400),
    ],
)
def test_directives_of_another_form_are_the_clients_fault(patch: dict[str, Any], code: int) -> None:
    with pytest.raises(ApiError) as caught:
        patch_pod_spec(patch)
    assert caught.value.code == code


def test_what_is_new_keeps_no_map_with_a_directive() -> None:
    assert "affinity" not in patch_pod_spec({"affinity": {"$patch": "replace", "nodeAffinity": {}}})
    resources = {"$patch": "replace", "limits": {"a": "1"}}
    spec = patch_pod_spec({"containers": [{"name": "c1", "resources": resources}]})
    assert spec["containers"][0]["resources"] == {"limits": {"a": "1"}}, "a struct that is always there"


def test_all_items_of_a_key_are_deleted_and_the_first_is_merged() -> None:
    twice = [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]
    gone = patch_pod_spec({"containers": [{"name": "c", "env": [{"$patch": "delete", "name": "A"}]}]}, containers=twice)
    assert gone["containers"][0]["env"] == []
    merged = patch_pod_spec({"containers": [{"name": "c", "env": [{"name": "A", "value": "9"}]}]}, containers=twice)
    assert [e["value"] for e in merged["containers"][0]["env"]] == ["9", "2"]


NAMES = ["name", "containers", "env", "args", "nodeSelector", "volumes", "$patch", "$retainKeys"]
NAMES += [f"$setElementOrder/{name}" for name in ("containers", "env", "")] + ["$deleteFromPrimitiveList/args"]
DIRECTIVES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["c1", "delete", "replace", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=10,
)


@given(DIRECTIVES)
def test_any_patch_merges_or_is_refused_and_changes_nothing_given(patch: Any) -> None:
    assert DEPLOYMENT is not None
    before = deployment()
    with contextlib.suppress(ApiError):
        strategic_merge(before, {"spec": {"template": {"spec": patch}}}, DEPLOYMENT)
    assert before == deployment()
