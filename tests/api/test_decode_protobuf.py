"""Protobuf bodies: as kubectl 1.37 sends them, as a tiny encoder writes them, and broken ones."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import ApiError, BadRequest
from rayplane.control_plane.api.machinery import protobuf
from rayplane.control_plane.api.machinery.decoding import PROTOBUF, decode_object
from rayplane.control_plane.api.machinery.schema import definition_of

# Bodies of `kubectl create deployment web --image=nginx --replicas=0 --port=80` and the like.
BODIES = Path(__file__).with_name("test_decode_bodies.json")
RECORDED: dict[str, bytes] = {name: base64.b64decode(text) for name, text in json.loads(BODIES.read_text()).items()}


def decoded(body: bytes, api_version: str, kind: str) -> dict[str, Any]:
    definition = definition_of(api_version, kind)
    return decode_object(body, PROTOBUF, api_version=api_version, kind=kind, definition=definition).object


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "deployments",
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web", "labels": {"app": "web"}},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": {"app": "web"}},
                    "strategy": {},
                    "template": {
                        "metadata": {"labels": {"app": "web"}},
                        "spec": {
                            "containers": [
                                {
                                    "name": "nginx",
                                    "image": "nginx",
                                    "ports": [{"containerPort": 80}],
                                    "resources": {},
                                }
                            ]
                        },
                    },
                },
                "status": {},
            },
        ),
        (
            "secrets",
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "s1"},
                "data": {"a": "Yg=="},
            },
        ),
        (
            "services",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "np", "labels": {"app": "np"}},
                "spec": {
                    "ports": [{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080}],
                    "selector": {"app": "np"},
                    "type": "NodePort",
                },
                "status": {"loadBalancer": {}},
            },
        ),
        (
            "resourcequotas",
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "q1"},
                "spec": {"hard": {"cpu": "1", "memory": "1Gi"}},
                "status": {},
            },
        ),
        (
            "poddisruptionbudgets",
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": {"name": "p1"},
                "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}},
                "status": {
                    "currentHealthy": 0,
                    "desiredHealthy": 0,
                    "disruptionsAllowed": 0,
                    "expectedPods": 0,
                },
            },
        ),
    ],
)
def test_what_kubectl_sends_is_what_kubectl_means(name: str, wanted: dict[str, Any]) -> None:
    assert decoded(RECORDED[name], wanted["apiVersion"], wanted["kind"]) == wanted


def test_inlined_messages_stand_in_their_parent() -> None:
    ingress = decoded(RECORDED["ingresses"], "networking.k8s.io/v1", "Ingress")
    assert ingress["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/c"


def test_every_recorded_body_conforms_to_its_kind() -> None:
    for name, body in RECORDED.items():
        api_version, kind, _ = protobuf.decode_envelope(body)
        assert definition_of(api_version, kind) is not None, name
        assert decoded(body, api_version, kind)["kind"] == kind


def test_a_body_of_another_kind_is_refused() -> None:
    with pytest.raises(BadRequest, match="cannot be handled as a Pod"):
        decoded(RECORDED["secrets"], "v1", "Pod")


# --- a tiny encoder ----------------------------------------------------------------------------


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    meta = field(1, api_version) + field(2, kind)
    return b"k8s\x00" + field(1, meta) + field(2, raw) + field(3, "") + field(4, "")


TEXTS = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4)


@given(TEXTS, st.dictionaries(st.text(max_size=8), st.binary(max_size=20), max_size=4))
def test_config_maps_round_trip(data: dict[str, str], binary: dict[str, bytes]) -> None:
    raw = field(1, field(1, "x"))
    raw += b"".join(field(2, field(1, k) + field(2, v)) for k, v in data.items())
    raw += b"".join(field(3, field(1, k) + field(2, v)) for k, v in binary.items())
    made = protobuf.decode(envelope("v1", "ConfigMap", raw))
    assert made.get("data", {}) == data
    assert {k: base64.b64decode(v) for k, v in made.get("binaryData", {}).items()} == binary


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_keep_their_sign(value: int) -> None:
    definition = "io.k8s.api.apps.v1.DeploymentSpec"
    assert protobuf.decode_message(definition, field(1, value)) == {"replicas": value}


def test_times_are_rendered_and_the_zero_time_is_left_out() -> None:
    stamped = field(1, field(1, "x") + field(8, field(1, 86400)))
    body = envelope("v1", "ConfigMap", stamped)
    assert decoded(body, "v1", "ConfigMap")["metadata"] == {
        "name": "x",
        "creationTimestamp": "1970-01-02T00:00:00Z",
    }
    unset = envelope("v1", "ConfigMap", field(1, field(1, "x") + field(8, b"")))
    assert decoded(unset, "v1", "ConfigMap")["metadata"] == {"name": "x"}
    lease = field(2, field(4, field(1, 1) + field(2, 5_000)))
    made = protobuf.decode(envelope("coordination.k8s.io/v1", "Lease", lease))
    assert made["spec"]["renewTime"] == "1970-01-01T00:00:01.000005Z"


def test_packed_and_unpacked_integers_and_raw_json() -> None:
    spec = "io.k8s.api.core.v1.PodSecurityContext"
    packed = field(4, varint(1) + varint(2))
    assert protobuf.decode_message(spec, packed) == {"supplementalGroups": [1, 2]}
    assert protobuf.decode_message(spec, field(4, 1) + field(4, 2)) == {"supplementalGroups": [1, 2]}
    revision = field(2, field(1, b'{"a":[1]}')) + field(3, 7)
    made = protobuf.decode(envelope("apps/v1", "ControllerRevision", revision))
    assert made["data"] == {"a": [1]} and made["revision"] == 7


def test_fields_newer_than_the_table_are_skipped() -> None:
    raw = field(1, field(1, "x")) + field(900, "new") + varint(901 << 3 | 1) + struct.pack("<d", 1)
    assert protobuf.decode(envelope("v1", "ConfigMap", raw))["metadata"] == {"name": "x"}


@given(st.sampled_from(sorted(RECORDED)), st.data())
def test_damaged_bodies_are_bad_requests_and_nothing_else(name: str, data: st.DataObject) -> None:
    body = bytearray(RECORDED[name])
    at = data.draw(st.integers(0, len(body) - 1))
    if data.draw(st.booleans()):
        del body[at:]
    else:
        body[at] = data.draw(st.integers(0, 255))
    api_version, kind, _ = protobuf.decode_envelope(RECORDED[name])
    try:
        decoded(bytes(body), api_version, kind)
    except ApiError as error:
        assert error.code == 400


def test_a_body_without_the_prefix_is_named_so() -> None:
    with pytest.raises(BadRequest, match="does not appear to be a protobuf message"):
        decoded(b"\x0a\x00", "v1", "Pod")
