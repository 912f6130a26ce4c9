"""JSON and YAML bodies: what is refused, in which words, and what an accepted object looks like."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import ApiError, BadRequest, Invalid, UnsupportedMediaType
from rayplane.control_plane.api.machinery.decoding import (
    JSON,
    YAML,
    Decoded,
    conform_patched,
    decode_object,
    decode_options,
    go_format,
)
from rayplane.control_plane.api.machinery.gates import DROPPED
from rayplane.control_plane.api.machinery.patching import parse_patch
from rayplane.control_plane.api.machinery.schema import definition_of, from_openapi, raw_definitions
from rayplane.control_plane.api.machinery.strict import conform, json_duplicates, prune

POD = definition_of("v1", "Pod")


def decode_pod(body: bytes | dict[str, Any], content_type: str = JSON, **options: Any) -> Decoded:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return decode_object(raw, content_type, api_version="v1", kind="Pod", definition=POD, **options)


def refusal(body: bytes | dict[str, Any], content_type: str = JSON, **options: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        decode_pod(body, content_type, **options)
    assert caught.value.code == 400
    return caught.value.message


def test_fields_of_closed_gates_are_known_checked_and_dropped() -> None:
    mounts = [{"name": "v", "mountPath": "/v", "bindMountOptions": ["noexec"]}]
    volumes: list[dict[str, Any]] = [
        {"name": "v", "emptyDir": {"medium": "Memory", "mode": 448}},
        {"name": "c", "configMap": {"name": "c", "defaultUser": 7, "items": [{"key": "k", "path": "p", "user": 7}]}},
    ]
    spec = {"containers": [{"name": "c", "volumeMounts": mounts}], "volumes": volumes}
    decoded = decode_pod({"spec": copy.deepcopy(spec)}, field_validation="Strict")
    mounts[0].pop("bindMountOptions")
    volumes[0]["emptyDir"].pop("mode")
    volumes[1]["configMap"] = {"name": "c", "items": [{"key": "k", "path": "p"}]}
    assert decoded.object["spec"] == spec
    assert "EmptyDirVolumeSource" in refusal({"spec": {"volumes": [{"name": "v", "emptyDir": {"mode": "rwx"}}]}})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b'"a\xffb"', "a\ufffdb"),
        (b'"cut \\ud83d"', "cut \ufffd"),
        (b'"\\ude00\\ud83d\\ude00"', "\ufffd\U0001f600"),
        (b'"\xed\xa0\xbd\\\\ud83d"', "\ufffd\ufffd\ufffd\\ud83d"),
    ],
)
def test_what_is_no_unicode_is_replaced(written: bytes, read: str) -> None:
    body = b'{"metadata": {"annotations": {"a": %s, "a": %s}}}' % (written, written)
    decoded = decode_pod(body)
    assert decoded.object["metadata"] == {"annotations": {"a": read}}
    assert [str(one) for one in decoded.warnings] == ['duplicate field "metadata.annotations.a"']
    assert parse_patch("merge", body)["metadata"] == {"annotations": {"a": read}}


@pytest.mark.parametrize(
    "body", [b'{"a": NaN, "b": "\xff"}', b'{"\xff"', b'{"\xff": ' + b"[" * 100_000, b'["\xff"' + b",0" * 100_001 + b"]"]
)
def test_what_is_no_json_is_refused_with_odd_bytes_too(body: bytes) -> None:
    assert "json parse error" in refusal(body)


def test_every_closed_field_is_one() -> None:
    known = {f"{name.rpartition('.')[2]}.{field}" for name, one in raw_definitions().items() for field in one["fields"]}
    assert known >= DROPPED


PREFIX = 'Pod in version "v1" cannot be handled as a Pod: '


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"spec": {"containers": "nope"}},
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            {"spec": {"containers": [{"env": [{"name": "A", "value": True}]}]}},
            "json: cannot unmarshal bool into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            {"metadata": {"labels": {"a": 1}}},
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            {"spec": {"priority": 1.5}},
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            {"spec": {"priority": 2**31}},
            "json: cannot unmarshal number 2147483648 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            {"spec": {"hostNetwork": "yes"}},
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        ),
        (
            {"spec": {"containers": [{"resources": {"limits": {"cpu": "abc"}}}]}},
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            {"metadata": {"creationTimestamp": "x"}},
            'parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"',
        ),
        (
            {"kind": "Pod", "apiVersion": "v1", "metadata": []},
            "json: cannot unmarshal array into Go struct field Pod.metadata of type v1.ObjectMeta",
        ),
    ],
)
def test_values_of_the_wrong_type(body: dict[str, Any], message: str) -> None:
    assert refusal(body) == PREFIX + message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a":', "unexpected end of JSON input"),
        (b"{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1}}', "invalid character '}' after top-level value"),
        (b'{"a":x}', "invalid character 'x' looking for beginning of value"),
    ],
)
def test_malformed_json(body: bytes, message: str) -> None:
    assert refusal(body) == (
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; "
        f"json parse error: {message} ({body.decode()})"
    )


def test_long_and_binary_bodies_are_shown_short() -> None:
    assert refusal(b'{"a":"' + b"x" * 100).endswith('({"a":"xxxxxxxxxxxxxxxxxxxxxxxx ...)')
    assert refusal(b"").endswith("(<empty>)")
    assert refusal(b"[1]").endswith("(5b315d)")


def test_another_kind_or_version() -> None:
    assert refusal({"apiVersion": "v1", "kind": "Service"}) == (
        'Service in version "v1" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion'
    )
    assert refusal({"apiVersion": "v2", "kind": "Pod"}).startswith(
        'Pod in version "v2" cannot be handled as a Pod: no kind "Pod" is registered for version "v2" in scheme'
    )
    assert "version/kind" in refusal({"apiVersion": 1, "kind": "Pod"})


def test_kind_and_version_are_filled_in() -> None:
    assert decode_pod({}).object == {"apiVersion": "v1", "kind": "Pod"}


def test_unknown_and_duplicate_fields_by_validation_level() -> None:
    body = (
        b'{"spec":{"containers":[{"name":"a","name":"b","bogus":1,"env":[{"x":2}]}]},'
        b'"metadata":{"labels":{"l":"1","l":"2"}}}'
    )
    findings = [
        'duplicate field "spec.containers[0].name"',
        'duplicate field "metadata.labels.l"',
        'unknown field "spec.containers[0].bogus"',
        'unknown field "spec.containers[0].env[0].x"',
    ]
    warned = decode_pod(body, field_validation="Warn")
    assert warned.warnings == findings
    assert warned.object["spec"] == {"containers": [{"name": "b", "env": [{}]}]}
    ignored = decode_pod(body, field_validation="Ignore")
    assert ignored.warnings == [] and ignored.object == warned.object
    assert refusal(body, field_validation="Strict") == (PREFIX + "strict decoding error: " + ", ".join(findings))


def test_objects_come_back_as_a_go_round_trip_leaves_them() -> None:
    body = {
        "metadata": {"name": "x", "creationTimestamp": None, "labels": {}, "generation": 0},
        "spec": {
            "hostNetwork": False,
            "terminationGracePeriodSeconds": 0,
            "nodeName": "",
            "tolerations": [],
            "containers": [
                {
                    "name": "",
                    "env": [{"name": "A", "value": ""}],
                    "resources": {"limits": {"cpu": "1000m", "memory": 1024}},
                    "command": [None],
                }
            ],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
        "status": {"startTime": "2026-01-01T02:00:00.5+02:00"},
    }
    made = decode_pod(body).object
    assert made["metadata"] == {"name": "x"}
    assert made["spec"] == {
        "terminationGracePeriodSeconds": 0,  # a pointer in Go: zero is a value
        "containers": [
            {
                "name": "",
                "env": [{"name": "A"}],
                "resources": {"limits": {"cpu": "1", "memory": "1024"}},
                "command": [""],
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }
    assert made["status"] == {"startTime": "2026-01-01T00:00:00Z"}


def test_yaml_is_read_as_kubernetes_reads_it() -> None:
    body = b"""
apiVersion: v1
kind: Pod
metadata:
  annotations: {day: 2020-01-01, span: 1:30, 80: "a", exp: "1e3"}
spec:
  hostNetwork: yes
  terminationGracePeriodSeconds: 0x10
  containers:
  - &base {name: a, image: i}
  - <<: *base
    name: b
"""
    made = decode_pod(body, YAML).object
    assert made["metadata"]["annotations"] == {
        "day": "2020-01-01",
        "span": "1:30",
        "80": "a",
        "exp": "1e3",
    }
    assert made["spec"]["hostNetwork"] is True
    assert made["spec"]["terminationGracePeriodSeconds"] == 16
    assert made["spec"]["containers"] == [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]


def test_yaml_errors_and_duplicates() -> None:
    assert "error converting YAML to JSON" in refusal(b"a: [\n", YAML)
    body = b"kind: Pod\nspec:\n  nodeName: a\n  nodeName: b\n"
    assert 'line 4: key "nodeName" already set in map' in refusal(body, YAML, field_validation="Strict")


def test_unknown_media_type() -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        decode_pod(b"{}", "text/plain")
    assert caught.value.code == 415


def test_delete_options_of_any_version() -> None:
    body = {"apiVersion": "meta.k8s.io/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
    assert decode_options(orjson.dumps(body))["gracePeriodSeconds"] == 0
    assert decode_options(b"") == {}
    with pytest.raises(BadRequest):
        decode_options(b'{"kind":"Pod"}')
    with pytest.raises(BadRequest, match="gracePeriodSeconds of type int64"):
        decode_options(b'{"gracePeriodSeconds":"x"}')


def test_results_of_patches_are_invalid_rather_than_bad() -> None:
    obj = {"apiVersion": "v1", "kind": "Pod", "spec": {"priority": "x"}}
    with pytest.raises(Invalid) as caught:
        conform_patched(copy.deepcopy(obj), POD)
    assert caught.value.code == 422
    assert caught.value.message.startswith(' "" is invalid: patch: Invalid value: "{\\"apiVersion')
    with pytest.raises(Invalid, match=r"map\[spec:map\[bogus:1\]\].*unknown field"):
        conform_patched({"spec": {"bogus": 1}}, POD, field_validation="Strict", patch={"spec": {"bogus": 1}})
    assert conform_patched({"spec": {"bogus": 1}}, POD) == ['unknown field "spec.bogus"']


def test_custom_resources_are_pruned_by_their_schema_and_keep_wrong_types() -> None:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "size": {"type": "integer"},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    "port": {"x-kubernetes-int-or-string": True},
                    "byName": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            }
        },
    }
    definition = from_openapi("com.example.v1.Foo", schema, root=True)
    obj = {
        "apiVersion": "example.com/v1",
        "kind": "Foo",
        "metadata": {"name": "x", "bogus": 1},
        "spec": {"size": "big", "free": {"a": {"b": 1}}, "port": "http", "other": 1},
    }
    assert sorted(prune(obj, definition)) == ["metadata.bogus", "spec.other"]
    assert obj["spec"] == {"size": "big", "free": {"a": {"b": 1}}, "port": "http"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metadata", "spec", "containers", "name", "labels", "env", "ports", "limits", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status", "x"]), VALUES))
def test_any_object_is_accepted_once_and_for_all_or_refused(obj: dict[str, Any]) -> None:
    try:
        made = decode_pod(orjson.dumps(obj)).object
    except ApiError as error:
        assert error.code == 400
        return
    except TypeError:  # orjson cannot write integers beyond 64 bits
        return
    again = copy.deepcopy(made)
    assert POD is not None and conform(again, POD) == []
    assert again == made


def twin_duplicates(pairs: list[tuple[str, str]]) -> list[str]:
    seen: list[str] = []
    found: list[str] = []
    for name, _ in pairs:
        if name in seen and name not in found:
            found.append(name)
        seen.append(name)
    return found


WRITTEN = {"a": "a", "b": "\\u0062", '"': '\\"', '"c': "\\u0022c", "u0022": "u0022", "\\": "\\\\", ": ": ": ", "é": "é"}


@given(
    st.lists(st.tuples(st.sampled_from(sorted(WRITTEN)), st.sampled_from(sorted(WRITTEN))), max_size=6),
    st.sampled_from([":", " : ", "\n:\t"]),
)
def test_duplicates_are_found(pairs: list[tuple[str, str]], colon: str) -> None:
    text = "{" + ",".join(f'"{WRITTEN[name]}"{colon}"{WRITTEN[value]}"' for name, value in pairs) + "}"
    assert json_duplicates(text) == twin_duplicates(pairs)


def test_quotes_that_are_named_by_number_hide_no_duplicate() -> None:
    assert json_duplicates('{"a":1,"a":2,"b":"\\u0022\\u0022"}') == ["a"]


def test_deep_nesting_is_refused_and_does_no_harm() -> None:
    kind = "CustomResourceDefinition"
    props = b'{"properties":{"a":' * 400 + b"{}" + b"}}" * 400
    schema = b'{"openAPIV3Schema":' + props + b"}"
    body = b'{"spec":{"versions":[{"schema":' + schema + b"}]}}"
    with pytest.raises(BadRequest, match="max depth"):
        decode_object(
            body,
            api_version="apiextensions.k8s.io/v1",
            kind=kind,
            definition=definition_of("apiextensions.k8s.io/v1", kind),
        )
    with pytest.raises(BadRequest):
        decode_pod(b'{"a":' * 100_000)


def test_go_format() -> None:
    value = {"b": [1, "x", None], "a": {"c": True}}
    assert go_format(value) == "map[a:map[c:true] b:[1 x <nil>]]"
