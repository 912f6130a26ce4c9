"""RFC 7386 merge patch against a literal twin, RFC 6902 JSON patch, and patch media types."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import BadRequest, Invalid, UnsupportedMediaType
from rayplane.control_plane.api.machinery.patching import apply_patch, parse_patch, patch_kind

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


def rfc7386(target: Any, patch: Any) -> Any:
    """The pseudo code of RFC 7386 section 2, word for word."""
    if isinstance(patch, dict):
        if not isinstance(target, dict):
            target = {}
        for name, value in patch.items():
            if value is None:
                if name in target:
                    del target[name]
            else:
                target[name] = rfc7386(target.get(name), value)
        return target
    return patch


@given(OBJECTS, OBJECTS)
def test_merge_patch_does_what_the_rfc_says(target: dict[str, Any], patch: dict[str, Any]) -> None:
    before = copy.deepcopy((target, patch))
    result = apply_patch("merge", target, patch, None)
    assert (target, patch) == before
    assert result == rfc7386(copy.deepcopy(target), copy.deepcopy(patch))


@given(OBJECTS, OBJECTS)
def test_merge_patch_shares_nothing_with_its_arguments(target: dict[str, Any], patch: dict[str, Any]) -> None:
    before = copy.deepcopy((target, patch))
    todo: list[Any] = [apply_patch("merge", target, patch, None)]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += value.values()
            value.clear()
        elif isinstance(value, list):
            todo += value
            value.clear()
    assert (target, patch) == before


def test_json_patch_applies_in_order() -> None:
    obj = {"spec": {"replicas": 1}, "metadata": {"name": "x"}}
    patch = [
        {"op": "test", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/replicas", "value": 2},
        {"op": "add", "path": "/metadata/labels", "value": {}},
        {"op": "add", "path": "/metadata/labels/a~1b", "value": "c"},
    ]
    assert apply_patch("json", obj, patch, None) == {
        "spec": {"replicas": 2},
        "metadata": {"name": "x", "labels": {"a/b": "c"}},
    }
    assert obj["spec"] == {"replicas": 1}


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "test", "path": "/a", "value": 2}],
        [{"op": "remove", "path": "/missing"}],
        [{"op": "replace", "path": "/a/b/c", "value": 1}],
        [{"op": "explode", "path": "/a"}],
    ],
)
def test_json_patch_that_does_not_fit_is_invalid(patch: list[Any]) -> None:
    with pytest.raises(Invalid) as caught:
        apply_patch("json", {"a": 1}, patch, None)
    assert caught.value.code == 422


def test_a_failed_test_tells_no_value() -> None:
    """What is answered is kept, in audit logs for one."""
    with pytest.raises(Invalid) as caught:
        apply_patch("json", {"data": {"a": "hidden"}}, [{"op": "test", "path": "/data/a", "value": "guessed"}], None)
    told = str(caught.value.status)
    assert "testing value /data/a failed: test failed" in told
    assert "hidden" not in told


def patched(obj: Any, *operations: Any) -> Any:
    return apply_patch("json", obj, parse_patch("json", json.dumps(operations).encode()), None)


def refusal(obj: Any, *operations: Any) -> str:
    with pytest.raises((BadRequest, Invalid)) as caught:
        patched(obj, *operations)
    status = caught.value.status
    told = json.dumps(status)
    assert not any(word in told for word in ("NoneType", "dict", "'int'", "unhashable", "Traceback"))
    return str((status.get("details") or {"causes": [status]})["causes"][0]["message"])


@pytest.mark.parametrize(
    ("operation", "after"),
    [
        ({"op": "add", "path": "/l/-", "value": 9}, [1, 2, 3, 9]),
        ({"op": "add", "path": "/l/3", "value": 9}, [1, 2, 3, 9]),
        ({"op": "add", "path": "/l/-1", "value": 9}, [1, 2, 3, 9]),
        ({"op": "add", "path": "/l/0", "value": 9}, [9, 1, 2, 3]),
        ({"op": "add", "path": "/l/01", "value": None}, [1, None, 2, 3]),
        ({"op": "add", "path": "/l/1"}, [1, None, 2, 3]),
        ({"op": "remove", "path": "/l/-1"}, [1, 2]),
        ({"op": "remove", "path": "/l/-3"}, [2, 3]),
        ({"op": "replace", "path": "/l/-2", "value": 9}, [1, 9, 3]),
        ({"op": "move", "from": "/l/0", "path": "/l/-"}, [2, 3, 1]),
        ({"op": "copy", "from": "/l/-1", "path": "/l/0"}, [3, 1, 2, 3]),
        ({"op": "test", "path": "/l/-1", "value": 3}, [1, 2, 3]),
        ({"op": "test", "path": "/none", "value": None}, [1, 2, 3]),
        ({"op": "test", "path": "/none"}, [1, 2, 3]),
        ({"op": "test", "path": "", "value": {"l": [1, 2, 3]}}, [1, 2, 3]),
        ({"op": "replace", "path": "", "value": {"l": 5}}, 5),
    ],
)
def test_places_in_arrays_and_documents(operation: Any, after: Any) -> None:
    assert patched({"l": [1, 2, 3]}, operation)["l"] == after


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"op": "add", "path": "/l/5", "value": 1}, "Unable to access invalid index: 5: invalid index referenced"),
        ({"op": "add", "path": "/l/x", "value": 1}, "value was not a proper array index: 'x'"),
        ({"op": "add", "path": "/l/1_0", "value": 1}, "value was not a proper array index: '1_0'"),
        ({"op": "add", "path": "/a/b/c", "value": 1}, 'add operation does not apply: doc is missing path: "/a/b/c"'),
        ({"op": "add", "path": "l", "value": 1}, 'add operation does not apply: doc is missing path: "l"'),
        ({"op": "remove", "path": "/l/3"}, "Unable to access invalid index: 3"),
        ({"op": "remove", "path": "/none"}, "Unable to remove nonexistent key: none"),
        ({"op": "replace", "path": "/none", "value": 1}, "replace operation does not apply: doc is missing key: /none"),
        ({"op": "move", "from": "/none", "path": "/a"}, "error in move for path: '/none'"),
        ({"op": "move", "from": "/l", "path": "/l/0"}, "doc is missing path"),
        ({"op": "copy", "from": "/l/7", "path": "/a"}, "error in copy for path: '/l/7'"),
        ({"op": "test", "path": "/one", "value": True}, "testing value /one failed: test failed"),
        ({"op": "test", "path": "/one", "value": 1.0}, "testing value /one failed: test failed"),
        ({"op": "explode", "path": "/a"}, "Unexpected kind: explode"),
        (None, "Unexpected kind: unknown"),
        ({"op": "replace", "path": "", "value": []}, "the patch leaves no object"),
        ({"op": "remove", "path": ""}, "doc is missing path"),
        (1, "json: cannot unmarshal number into Go value of type jsonPatchOp"),
        ({"op": 1}, "json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"),
        ({"op": "add", "path": ["a"]}, "cannot unmarshal array into Go struct field jsonPatchOp.path of type string"),
    ],
)
def test_an_operation_that_does_not_fit_is_told_in_the_words_of_json(operation: Any, message: str) -> None:
    assert message in refusal({"l": [1, 2, 3], "one": 1}, operation)


@given(OBJECTS, st.lists(st.fixed_dictionaries({
    "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
    "path": st.sampled_from(["", "/", "/a", "/a/b", "/a/0", "/b/-", "/b/-1", "/c/~1", "x"]),
}, optional={"value": JSON, "from": st.sampled_from(["", "/a", "/b/0", "/c"])}), max_size=4))  # fmt: skip
def test_any_operations_are_applied_or_refused_and_change_nothing_given(obj: Any, operations: list[Any]) -> None:
    before = copy.deepcopy(obj)
    try:
        result = patched(obj, *operations)
    except (BadRequest, Invalid):
        pass
    else:
        assert type(result) is dict
    assert obj == before


def test_copies_are_bounded() -> None:
    twice = [{"op": "copy", "from": "", "path": "/a"}] * 200
    assert "exceeded max depth" in refusal({"a": 1}, *twice)
    grow = [{"op": "add", "path": "/x", "value": "y" * 1_000_000}] + [
        {"op": "copy", "from": "/x", "path": f"/x{n}"} for n in range(5)
    ]
    assert "Unable to complete the copy" in refusal({}, *grow)


def test_media_types() -> None:
    assert patch_kind("application/strategic-merge-patch+json; charset=utf-8") == "strategic"
    assert patch_kind("application/apply-patch+yaml") == "apply"
    for content_type, custom in (
        ("application/json", False),
        ("application/strategic-merge-patch+json", True),
    ):
        with pytest.raises(UnsupportedMediaType) as caught:
            patch_kind(content_type, custom=custom)
        assert caught.value.code == 415


def test_patch_documents_of_the_wrong_shape_are_refused() -> None:
    assert parse_patch("apply", b"a: 1") == {"a": 1}
    assert parse_patch("json", b"null") == [] and parse_patch("merge", b"null") == {}
    for kind, body in (("json", b"{}"), ("merge", b"[]"), ("strategic", b"{"), ("apply", b"[")):
        with pytest.raises(BadRequest):
            parse_patch(kind, body)  # type: ignore[arg-type]
