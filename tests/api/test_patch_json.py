"""RFC 7386 merge patch against a literal twin, RFC 6902 JSON patch, and patch media types."""

from __future__ import annotations

import copy
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


def test_json_patch_of_nonsense_is_a_bad_request_or_invalid() -> None:
    for patch in ([1], [{"path": "/a"}], [{"op": "add"}], [{"op": "add", "path": 3, "value": 1}]):
        with pytest.raises((BadRequest, Invalid)):
            apply_patch("json", {"a": 1}, patch, None)


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
    for kind, body in (("json", b"{}"), ("merge", b"[]"), ("strategic", b"{"), ("apply", b"[")):
        with pytest.raises(BadRequest):
            parse_patch(kind, body)  # type: ignore[arg-type]
