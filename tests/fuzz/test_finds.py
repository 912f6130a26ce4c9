"""What the fuzzer found, each named for what it showed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml
from google.protobuf.message import Message

from rayplane.control_plane.rpc.grpc_wire import frame as message_of
from rayplane.control_plane.rpc.http2 import encode_headers
from rayplane.control_plane.rpc.http2 import frames as f
from rayplane.proto.csi import csi_pb2
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import node_pb2, objects_pb2, raft_pb2, supervisor_pb2
from tests.apiserver.test_encryption import aesgcm, config
from tests.fuzz import engine
from tests.fuzz.__main__ import all_targets
from tests.fuzz.targets import _objects, grpc_node
from tests.rpc.grpc_peers import WATCH, watch
from tests.rpc.http2_peer import REQUEST, frame, settings

_WATCH_FIELDS = [(n, WATCH.encode() if n == b":path" else v) for n, v in REQUEST]


def _session(*frames: bytes) -> list[bytes]:
    return [b"s", f.PREFACE + settings(), *frames]


def _call(path: str, request: Message) -> tuple[str, tuple[bytes, ...], bool]:
    return path, (request.SerializeToString(),), True


def _alarm(number: int) -> Any:
    alarm = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, alarm=number)  # type: ignore[arg-type]
    return [
        _call("/etcdserverpb.Maintenance/Alarm", alarm),
        _call("/etcdserverpb.Maintenance/Status", pb.StatusRequest()),
    ]


def _patch(kind: str) -> Any:
    return (("Content-Type", f"application/{kind}".encode()),)


#: Its key's kind is 1.3.117.112.
_CSR = b"""-----BEGIN CERTIFICATE REQUEST-----
MH8wMwIBADAAMCowBQYDK3VwAyEAO2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBI
oYtZ2imgADAFBgMrZXADQQA5PaOwaP0FfUjRPNXCBNXg5ZvKn/8DG03PoDMnrDrx
PaXebfdTAoUD2fSxzLkssAzKrPwbmSZL0I9pMlbi1YUP
-----END CERTIFICATE REQUEST-----
"""
_VERSION_9 = base64.b64encode(_CSR.replace(b"MH8wMwIBAD", b"MH8wMwIBCT")).decode()
_REQUEST = (
    "certificates.k8s.io/v1",
    "certificatesigningrequests",
    "CertificateSigningRequest",
    {"spec": {"request": _VERSION_9, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}},
)
_HALF = json.dumps(yaml.safe_load(config(aesgcm("a")).replace(b"name: a", b'name: "\\ud800"'))).encode()
_TIMES = ("yesterday", "0001-01-01T00:00:00+14:00")
_MODE = csi_pb2.VolumeCapability()
_MODE.access_mode.mode = 77  # type: ignore[assignment]
_DEPLOYMENT = next(s for s in _objects.SEEDS if s[1] == "deployments")
_SCALE = f"{_objects.collection(_DEPLOYMENT)}/a/scale"
_JSON = (("Content-Type", b"application/json"),)
_CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"

FINDS: list[tuple[str, str, Any]] = [
    (
        "a stream of requests that ends within a message is the client's fault, and not traced",
        "http2",
        _session(
            frame(f.HEADERS, f.END_HEADERS, 1, encode_headers(_WATCH_FIELDS)),
            frame(f.DATA, f.END_STREAM, 1, message_of(watch(b"k").SerializeToString())[:-1]),
        ),
    ),
    ("an alarm of a kind that nobody knows was kept, and no status could be told any more", "grpc_member", _alarm(77)),
    ("an alarm that has no byte ended every member that applied it", "grpc_member", _alarm(300)),
    ("an alarm below zero ended every member that applied it", "grpc_member", _alarm(-1)),
    (
        "a change of membership that is none is refused before it is in the log",
        "grpc_member",
        [_call("/rayplane.raft.v1.Peer/ProposeChange", raft_pb2.Change(data=d)) for d in (b"", b"\0" * 8 + b"\7")],
    ),
    (
        "a precondition that one of a collection does not meet was an internal error",
        "rest",
        [
            ("POST", _CONFIG_MAPS, _JSON, b'{"metadata":{"name":"a"}}'),
            ("DELETE", _CONFIG_MAPS, _JSON, b'{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"x"}}'),
        ],
    ),
    (
        "a refusal that quotes a header which is no text could not be written",
        "gateway",
        [("POST", "/v3/kv/range", (("Grpc-Timeout", b"\xd0"),), b"{}")],
    ),
    (
        "half a surrogate pair as the name of an enum's value was an internal error",
        "gateway",
        [("POST", "/v3/kv/range", (), b'{"key":"YQ==","sort_order":"\\ud800"}')],
    ),
    (
        "null in a list of names was an internal error",
        "gateway",
        [("POST", "/v3/cluster/member/add", (), b'{"peerURLs":[null]}')],
    ),
    (
        "a request for a certificate with a key of a kind that nobody knows was an internal error",
        "grpc_supervisor",
        (False, [_call("/rayplane.v1.Supervisor/Renew", supervisor_pb2.RenewRequest(name="member-0", csr=_CSR))]),
    ),
    (
        "a request for a certificate of a version that nobody knows was an internal error",
        "rest",
        [("POST", _objects.collection(_REQUEST), _JSON, json.dumps(_objects.good(_REQUEST)).encode())],
    ),
    ("a name of a key that is no text was no typed error", "config_files", ("encryption", _HALF)),
    ("a certificate that is none to the letter broke its connection", "tokens", ("certificate", b"0\x82")),
    ("a token that is no text was no token", "tokens", ("token", b"Bearer a.\xff.c")),
    ("a damaged ledger of volumes was not told as such", "config_files", ("reservations", b'{"local/a":')),
    ("a ledger of volumes that is no ledger was taken for one", "config_files", ("reservations", b'{"local/a":"5"}')),
    (
        "a client that leaves before its watch begins was told as a fault of ours",
        "ports",
        ("pipe", [b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: a\r\n\r\n"], "close"),
    ),
    (
        "a server-side apply of a scale, and a scale without metadata, were internal errors",
        "rest",
        [
            ("POST", _objects.collection(_DEPLOYMENT), _JSON, json.dumps(_objects.good(_DEPLOYMENT)).encode()),
            ("PATCH", f"{_SCALE}?fieldManager=m", _patch("apply-patch+yaml"), b'{"spec":{"replicas":3}}'),
            ("PATCH", _SCALE, _patch("merge-patch+json"), b'{"metadata":5}'),
        ],
    ),
    (
        "a patch of a type that nobody knows was an internal error",
        "grpc_apiserver",
        [
            _call(
                "/rayplane.v1.Objects/Patch",
                objects_pb2.PatchRequest(ref=objects_pb2.ResourceRef(resource="pods"), type=77),  # type: ignore[arg-type]
            )
        ],
    ),
    (
        "logs since a time that is none were an internal error",
        "grpc_node",
        ("", [_call("/rayplane.v1.Node/Logs", node_pb2.LogsRequest(ref=grpc_node.REF, since_time=t)) for t in _TIMES]),
    ),
    (
        "a call that ends before it has begun was an internal error",
        "grpc_node",
        ("", [("/rayplane.v1.Node/Exec", (), True), ("/rayplane.v1.Node/PortForward", (), True)]),
    ),
    (
        "an access mode of a volume that nobody knows was an internal error",
        "grpc_node",
        (
            "rayplane.io/local",
            [
                _call(
                    "/csi.v1.Controller/CreateVolume",
                    csi_pb2.CreateVolumeRequest(name="a", volume_capabilities=[_MODE]),
                )
            ],
        ),
    ),
]


@pytest.mark.parametrize(("target", "case"), [f[1:] for f in FINDS], ids=[f[0] for f in FINDS])
def test_what_was_found_stays_mended(target: str, case: Any) -> None:
    async def problem() -> str:
        async with engine.judged_world(all_targets()[target]) as (world, judge):
            return await engine.problem_of(world, judge, case)

    assert not engine.runs(problem())
