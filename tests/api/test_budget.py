"""No document, however hostile, costs more than the budget: each bomb is answered by name."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from rayplane.control_plane.api.errors import ApiError, BadRequest, Invalid, RequestEntityTooLarge
from rayplane.control_plane.api.machinery import budget, yaml_reader
from rayplane.control_plane.api.machinery.budget import Budget, TooDeep, TooManyValues
from rayplane.control_plane.api.machinery.decoding import JSON, PROTOBUF, YAML, decode_object
from rayplane.control_plane.api.machinery.patching import apply_patch, parse_patch
from rayplane.control_plane.api.machinery.schema import definition_of
from tests import bounded

REVIEW = ("authorization.k8s.io/v1", "SelfSubjectAccessReview")


def decode_review(body: bytes, media: str) -> Any:
    version, kind = REVIEW
    return decode_object(body, media, api_version=version, kind=kind, definition=definition_of(version, kind)).object


def refused(body: bytes, media: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode_review(body, media)
    return caught.value


# --- the bombs, each in a process of its own ---------------------------------------------------

ANSWER = """
from rayplane.control_plane.api.errors import ApiError
try:
    {statement}
except ApiError as error:
    print(error.code, error.status)
"""


def answer(setup: str, statement: str) -> str:
    return bounded.run(setup + ANSWER.format(statement=statement))


@pytest.mark.parametrize("merge", ["", "<<: "])
@pytest.mark.processes
def test_yaml_of_nested_aliases_is_refused(merge: str) -> None:
    setup = f"""
from rayplane.control_plane.api.machinery.decoding import decode
merge = {merge!r}
levels = ["a0: &a0 " + ("{{k: v}}" if merge else "[x,x,x,x,x,x,x,x]")]
for n in range(1, 10):
    refs = ",".join(f"*a{{n - 1}}" for _ in range(9))
    levels.append(f"a{{n}}: &a{{n}} " + ("{{<<: [" + refs + "]}}" if merge else "[" + refs + "]"))
body = "\\n".join(levels).encode()
"""
    assert "document contains excessive aliasing" in answer(setup, "decode(body, 'application/yaml')")


@pytest.mark.processes
def test_a_json_patch_whose_copies_double_a_map_is_refused() -> None:
    setup = """
from rayplane.control_plane.api.machinery.patching import apply_patch
operations = [{"op": "add", "path": "/data", "value": {"a": "x" * 1000}}]
operations += [{"op": "copy", "from": "/data", "path": f"/data/c{n}"} for n in range(25)]
"""
    shown = answer(setup, "apply_patch('json', {'kind': 'ConfigMap'}, operations, None)")
    assert shown.startswith("422")
    assert "Unable to complete the copy, the accumulated size increase of copy is" in shown
    assert "exceeding the limit 3145728" in shown


@pytest.mark.processes
def test_base_sixty_and_long_numbers_of_yaml_cost_nothing() -> None:
    setup = """
from rayplane.control_plane.api.machinery.decoding import decode
body = b"a: !!int '" + b"1:" * 700_000 + b"1'"
"""
    assert "unsupported value" in answer(setup, "decode(body, 'application/yaml')")
    body = b"a: " + b"1" * 1_000_000 + b"x"
    assert yaml_reader.parse(body) == {"a": "1" * 1_000_000 + "x"}


def test_directives_of_yaml_are_counted() -> None:
    body = b"".join(b"%%TAG !a%d! b\n" % n for n in range(100_000)) + b"--- {}\n"
    assert "%TAG directives" in refused(body, YAML).message


# --- depth and values ----------------------------------------------------------------------------


@pytest.mark.parametrize("media", [JSON, YAML, "application/apply-patch+yaml"])
@pytest.mark.parametrize("depth", [129, 300, 1000, 2000, 100_000, 1_000_000])
@pytest.mark.parametrize(("opener", "closer"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_deep_document_is_a_bad_request(media: str, depth: int, opener: bytes, closer: bytes) -> None:
    body = b'{"spec":' + opener * depth + b"1" + closer * depth + b"}"
    if media.startswith("application/apply"):
        with pytest.raises(BadRequest, match="depth"):
            parse_patch("apply", body)
    else:
        error = refused(body, media)
        assert (error.code, "depth" in error.message) == (400, True)


@pytest.mark.parametrize("text", [b"- " * 1000, b"? " * 1000, b"[" * 100_000, b"{" * 100_000, b"a:\n" + b" - " * 999])
def test_deep_yaml_is_refused_before_it_is_composed(text: bytes) -> None:
    with pytest.raises(yaml_reader.YamlError):
        yaml_reader.parse(text)


def test_many_small_values_are_too_large() -> None:
    assert refused(b'{"a":[' + b"[]," * 900_000 + b"1]}", JSON).code == 413
    assert refused(b"a: [" + b"a," * 900_000 + b"1]", YAML).code == 413


def test_many_small_fields_of_protobuf_are_too_large() -> None:
    raw = b"\x0a\x00" * 1_000_000  # field 1 of the review, empty, again and again

    version, kind = (text.encode() for text in REVIEW)
    meta = b"\x0a" + bytes([len(version)]) + version + b"\x12" + bytes([len(kind)]) + kind
    size = len(raw)
    length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    envelope = b"k8s\0" + b"\x0a" + bytes([len(meta)]) + meta + b"\x12" + length + raw
    assert refused(envelope, PROTOBUF).code == 413


def test_documents_at_the_limits_are_taken() -> None:
    deepest = b'{"a":' * 128 + b"1" + b"}" * 128
    for parse in (parse_patch_merge, yaml_reader.parse):
        assert parse(deepest)
    limits = Budget(values=10)
    budget.check([1] * 10, limits)
    with pytest.raises(TooManyValues):
        budget.check([1] * 11, limits)
    with pytest.raises(TooDeep):
        budget.check([[[]]], Budget(depth=2))


def parse_patch_merge(body: bytes) -> Any:
    return parse_patch("merge", body)


def test_brackets_and_commas_inside_texts_do_not_count() -> None:
    text = "[{," * 100_000
    body = orjson.dumps({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": text}})
    definition = definition_of("v1", "ConfigMap")
    found = decode_object(body, JSON, api_version="v1", kind="ConfigMap", definition=definition).object
    assert found["data"]["a"] == text


# --- YAML that means something else here ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5e-3", -0.0015),
        ("12:30:45", "12:30:45"),
        ("2001-01-01", "2001-01-01"),
        ("!!timestamp 2001-01-01", "2001-01-01"),
        ("123456789012345678901234567890", 1.2345678901234568e29),
        ("1e", "1e"),
        ("-", [None]),
        ("&a {x: 1, y: &b [1]}", {"x": 1, "y": [1]}),
        ("[&a {x: 1}, *a]", [{"x": 1}, {"x": 1}]),
        ("[&a {x: 1}, {<<: *a, y: 2}]", [{"x": 1}, {"x": 1, "y": 2}]),
    ],
)
def test_yaml_values(text: str, value: Any) -> None:
    assert yaml_reader.parse(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "&a [*a]",
        "&a {k: *a}",
        "!!omap [a: 1]",
        "!!set {a}",
        ".inf",
        "1e999",
        "!!int x",
        "!!python/none x",
        "!!int ''",
        "!!float ''",
        "!!bool x",
        "!!null [",
        "!!map x",
        "!!seq x",
        "!!binary é",
        "? {a: 1}\n: 2",
    ],
)
def test_yaml_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(yaml_reader.YamlError):
        yaml_reader.parse(text.encode())


# --- patches -------------------------------------------------------------------------------------


def test_a_json_patch_has_ten_thousand_operations() -> None:
    with pytest.raises(RequestEntityTooLarge) as caught:
        apply_patch("json", {}, [{"op": "test", "path": "", "value": {}}] * 10_001, None)
    assert caught.value.message == "The allowed maximum operations in a JSON patch is 10000, got 10001"


def test_a_json_patch_cannot_nest_what_could_not_be_read() -> None:
    operations: list[Any] = []
    for n in range(1, 200):
        operations.append({"op": "add", "path": "/a" * n, "value": {}})
    with pytest.raises(Invalid) as caught:
        apply_patch("json", {}, operations, None)
    assert caught.value.status["details"]["causes"][0]["message"] == "exceeded max depth"
    doubled = [{"op": "add", "path": "/a", "value": {}}]
    doubled += [{"op": "copy", "from": "/a", "path": "/a" * n} for n in range(2, 400)]
    with pytest.raises(Invalid):
        apply_patch("json", {}, doubled, None)


MALFORMED: list[Any] = [
    1, "x", None, [], {}, {"op": "copy"}, {"op": "copy", "from": 1, "path": "/a"},
    {"op": "copy", "from": "/b", "path": "/a"}, {"op": "add", "path": {}},
]  # fmt: skip


@pytest.mark.parametrize("operation", MALFORMED)
def test_malformed_operations_are_the_clients_fault(operation: Any) -> None:
    with pytest.raises(ApiError) as caught:
        apply_patch("json", {"kind": "x"}, [operation], None)
    assert caught.value.code in (400, 422)


def test_long_lists_are_merged_in_one_pass() -> None:
    count = 30_000
    pod = {"spec": {"containers": [{"name": f"c{n}", "image": "a"} for n in range(count)]}}
    order = [{"name": f"c{n}"} for n in reversed(range(count))]
    patch = {
        "spec": {
            "$setElementOrder/containers": order,
            "containers": [{"name": f"c{n}", "image": "b"} for n in reversed(range(0, count, 2))]
            + [{"name": f"c{n}", "$patch": "delete"} for n in range(1, count, 2)],
        }
    }
    made = apply_patch("strategic", pod, patch, definition_of("v1", "Pod"))
    assert [c["name"] for c in made["spec"]["containers"]] == [f"c{n}" for n in reversed(range(0, count, 2))]
    finalizers = [f"example.com/{n}" for n in range(count)]
    live = {"metadata": {"finalizers": finalizers}}
    gone = {"metadata": {"$deleteFromPrimitiveList/finalizers": finalizers[1:]}}
    assert apply_patch("strategic", live, gone, definition_of("v1", "Pod"))["metadata"]["finalizers"] == finalizers[:1]


def test_json_numbers_without_end_are_a_bad_request() -> None:
    for number in (b"1" * 100_000, b"1e999", b"-" + b"9" * 5000):
        assert refused(b'{"spec":' + number + b"}", JSON).code == 400
    assert json.loads("1" * 300)
