"""Protobuf there and back: what every kind may hold comes back as it was, and what it may not hold is left out."""

from __future__ import annotations

import base64
import struct
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery import protobuf
from rayplane.control_plane.api.machinery.protobuf_encoding import encode, encode_event
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.api.machinery.schema import Definition, Type, definition, definition_of

Body = dict[str, Any]
_DEPTH_MAX = 7
_TEXTS = st.text(max_size=6)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXTS, inner, max_size=2),
    max_leaves=4,
)
_OBJECTS = st.dictionaries(_TEXTS, _JSON, max_size=2)
_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": _TEXTS,
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "bytes": st.binary(max_size=6).map(lambda data: base64.b64encode(data).decode()),
    "quantity": st.sampled_from(["0", "1", "250m", "1Gi", "1e3"]),
    "int-or-string": st.integers(-(2**31), 2**31 - 1) | _TEXTS,
    "time": st.datetimes().map(lambda m: f"{m.year:04}" + m.strftime("-%m-%dT%H:%M:%SZ")),
    "micro-time": st.datetimes().map(lambda m: f"{m.year:04}" + m.strftime("-%m-%dT%H:%M:%S.%fZ")),
    "object": _OBJECTS,
    "any": _OBJECTS,
}
# Values of types of their own: a schema, a list of schemas, of names, or whether there may be any.
_SCHEMA = st.fixed_dictionaries({"type": _TEXTS})
_UNIONS: dict[str, st.SearchStrategy[Any]] = {
    "items": _SCHEMA | st.lists(_SCHEMA, min_size=1, max_size=2),
    "additionalItems": _SCHEMA | st.booleans(),
    "additionalProperties": _SCHEMA | st.booleans(),
    "dependencies": st.dictionaries(_TEXTS, _SCHEMA | st.lists(_TEXTS, min_size=1, max_size=2), min_size=1, max_size=2),
}


def sized(number: int, body: bytes) -> bytes:
    """A length-delimited field of a short body."""
    size = [len(body)] if len(body) < 0x80 else [len(body) & 0x7F | 0x80, len(body) >> 7]
    return bytes([number << 3 | 2, *size]) + body


def values(kind: Type, depth: int) -> st.SearchStrategy[Any]:
    match kind.kind:
        case "list":
            return st.lists(values(kind.element, depth), min_size=1, max_size=2)
        case "map":
            return st.dictionaries(_TEXTS, values(kind.element, depth), min_size=1, max_size=2)
        case "struct":
            return structs(kind.reference, depth + 1)
    return _SCALARS[kind.kind]


@cache
def structs(name: str, depth: int = 0) -> st.SearchStrategy[Body]:
    """Objects of a definition, with some of its fields."""
    return st.deferred(lambda: _struct(definition(name), depth))


@cache
def sent_fields(name: str) -> frozenset[str]:
    """The JSON names of a message's fields."""
    found = protobuf.fields_of(name).values()
    return frozenset(field for field, _ in found if field).union(*(sent_fields(kind[1:]) for f, kind in found if not f))


def _struct(of: Definition, depth: int) -> st.SearchStrategy[Body]:
    sent = sent_fields(of.name)
    fields = {
        field: _UNIONS[field] if of.name.endswith("JSONSchemaProps") and field in _UNIONS else values(known.type, depth)
        for field, known in of.fields.items()
        if field in sent
    }
    if depth >= _DEPTH_MAX:
        fields = {field: values for field, values in fields.items() if of.fields[field].type.kind in _SCALARS}
    chosen = st.sets(st.sampled_from(sorted(fields)), max_size=4) if fields else st.just(set[str]())
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: fields[name] for name in sorted(names)}))


def whole(info: ResourceInfo) -> st.SearchStrategy[Body]:
    known = definition_of(info.api_version, info.kind)
    assert known is not None
    return structs(known.name).map(lambda body: {"apiVersion": info.api_version, "kind": info.kind, **body})


@pytest.mark.parametrize("info", builtin_registry().all(), ids=lambda info: f"{info.api_version}/{info.kind}")
def test_every_kind_comes_back_as_it_was(info: ResourceInfo) -> None:
    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(whole(info))
    def there_and_back(obj: Body) -> None:
        assert protobuf.decode(encode(obj)) == obj

    there_and_back()


# What messages do not have: an object's own kind, and what was new when the table of fields was made.
UNSENT = {"apiVersion", "kind", "compatibilityGroups", "derivedAttributes", "runningInUserNamespace"}


def test_the_messages_have_all_fields() -> None:
    todo, seen = [info.definition for info in builtin_registry().all()], set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for field, known in definition(name).fields.items():
            assert field in sent_fields(name) | UNSENT, (name, field)
            kind = known.type
            while kind.kind in ("list", "map"):
                kind = kind.element
            if kind.reference and field not in UNSENT:
                todo.append(kind.reference)
    assert len(seen) > 300


def listed(info: ResourceInfo, *items: Body) -> Body:
    meta = {"resourceVersion": "7", "continue": "c"}
    return {"apiVersion": info.api_version, "kind": info.list_kind, "metadata": meta, "items": list(items)}


@pytest.mark.parametrize(
    "info",
    [i for i in builtin_registry().all() if "list" in i.verbs],
    ids=lambda info: f"{info.api_version}/{info.kind}",
)
def test_a_list_of_every_kind(info: ResourceInfo) -> None:
    body = listed(info, {"metadata": {"name": "a"}}, {"metadata": {"name": "b", "labels": {"x": ""}}})
    assert protobuf.decode(encode(body)) == body


def test_what_the_table_does_not_know_is_left_out() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"nodeName": "n"}}
    odd = {**pod, "bogus": {"x": [1]}, "spec": {"nodeName": "n", "bogus": None}}
    assert protobuf.decode(encode(odd)) == pod
    # A field that a newer client sends: 9999, of each wire type.
    envelope = encode(pod)
    _, _, raw = protobuf.decode_envelope(envelope)
    newer = b"\xf8\xf0\x04\x05" + b"\xfa\xf0\x04\x03new" + b"\xf9\xf0\x04" + bytes(8) + b"\xfd\xf0\x04" + bytes(4)
    assert protobuf.decode_message("io.k8s.api.core.v1.Pod", raw + newer) == {
        key: value for key, value in pod.items() if key in ("metadata", "spec")
    }


def test_null_and_empty_lists_are_as_if_they_were_not_there() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": None, "finalizers": []}, "spec": {}}
    assert protobuf.decode(encode(pod)) == {**pod, "metadata": {}}


def test_a_watch_event_is_a_frame_around_an_envelope() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    frame = encode_event("ADDED", pod)
    (length,) = struct.unpack(">I", frame[:4])
    assert length == len(frame) - 4
    assert frame[4:] == sized(1, b"ADDED") + sized(2, sized(1, encode(pod)))


def test_errors_have_a_protobuf_form_and_custom_resources_have_none() -> None:
    status = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
    assert protobuf.decode(encode(status)) == status
    with pytest.raises(protobuf.ProtobufError):
        encode({"apiVersion": "example.com/v1", "kind": "Foo"})
