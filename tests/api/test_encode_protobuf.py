"""Protobuf answers: what is encoded is read back as it was."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from rayplane.control_plane.api.bootstrap import bootstrap_objects
from rayplane.control_plane.api.machinery import protobuf
from rayplane.control_plane.api.machinery.protobuf_encoding import encode, encode_event

META = {"name": "x", "namespace": "d", "creationTimestamp": "0099-01-02T03:04:05Z", "generation": 3}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {**META, "labels": {"a": "", "b": "ö"}, "finalizers": ["example.com/f"]},
    "spec": {
        "priority": -1,
        "hostNetwork": False,
        "containers": [
            {
                "name": "c",
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": True}}}],
                "resources": {"limits": {"cpu": "100m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 10},
                "readinessProbe": {"tcpSocket": {"port": 80}},
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "s", "secret": {"secretName": "s"}}],
    },
}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "foos.example.com"},
    "spec": {
        "group": "example.com",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "a": {"type": "array", "items": {"type": "string", "default": "x"}},
                            "b": {"type": "object", "additionalProperties": {"type": "number", "maximum": 1.5}},
                            "c": {"enum": [1, "a", None]},
                        },
                    }
                },
            }
        ],
    },
}
OTHERS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Secret", "metadata": META, "data": {"a": "/w==", "b": ""}},
    {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": META,
        "spec": {"renewTime": "1969-12-31T23:59:59.123456Z", "leaseTransitions": 0},
    },
    {
        "apiVersion": "v1",
        "kind": "ConfigMapList",
        "metadata": {"resourceVersion": "7", "remainingItemCount": 2},
        "items": [{"metadata": META, "data": {"a": "b"}}, {"metadata": {"name": "y"}}],
    },
    {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "SelfSubjectReview",
        "status": {"userInfo": {"username": "u", "extra": {"scopes": ["a", "b"]}}},
    },
]


OBJECTS = [POD, DEFINITION, *OTHERS, *bootstrap_objects()]


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda o: f"{o['kind']}-{(o.get('metadata') or {}).get('name')}")
def test_what_is_encoded_is_read_back(obj: dict[str, Any]) -> None:
    # A list without items is one that is not there.
    assert protobuf.decode(encode(obj)) == {field: value for field, value in obj.items() if value != []}


def test_an_event_of_a_watch_is_framed() -> None:
    frame = encode_event("ADDED", POD)
    [length] = struct.unpack(">I", frame[:4])
    assert length == len(frame) - 4
    event = protobuf.decode_message("io.k8s.api.core.v1.LocalObjectReference", frame[4:])
    assert event["name"] == "ADDED"  # a string in field 1, as in the event
    assert protobuf.MAGIC in frame


def test_a_status_is_encoded() -> None:
    parts = {"metadata": {}, "message": "no", "code": 404, "details": {"kind": "pods"}}
    _, kind, raw = protobuf.decode_envelope(encode({"kind": "Status", "apiVersion": "v1", **parts}))
    assert kind == "Status"
    assert protobuf.decode_message("io.k8s.apimachinery.pkg.apis.meta.v1.Status", raw) == parts


def test_a_kind_without_a_protobuf_form_and_one_too_deep_are_refused() -> None:
    with pytest.raises(protobuf.ProtobufError):
        encode({"apiVersion": "example.com/v1", "kind": "Foo"})
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"not": schema}
    deep = {**DEFINITION, "spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}}
    with pytest.raises(protobuf.ProtobufError):
        encode(deep)
