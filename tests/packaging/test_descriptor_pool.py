"""rayplane's messages live in one process with other packages that define the same names."""

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from rayplane.proto.csi import csi_pb2
from rayplane.proto.etcd import kv_pb2, rpc_pb2
from rayplane.proto.pool import POOL
from rayplane.proto.rayplane.v1 import objects_pb2
from tests.tiers import todays_part

_OURS = "from rayplane.proto.etcd import rpc_pb2; import rayplane.control_plane.client"
_USED = "assert rpc_pb2.RangeRequest.FromString(rpc_pb2.RangeRequest(key=b'k').SerializeToString()).key == b'k'"


def run(program: str, **environment: str) -> None:
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path} | environment, check=True)


# etcd3's generated code is for protobuf's Python implementation alone, unless it is older than 4.
@pytest.mark.processes
@pytest.mark.parametrize(
    ("package", "implementation"), todays_part(3, [("aetcd", "upb"), ("aetcd", "python"), ("etcd3", "python")])
)
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_an_etcd_client_can_be_imported_beside_ours(package: str, implementation: str, first: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    imports = [_OURS, f"import {package}"]
    program = "\n".join([*(imports if first == "ours" else reversed(imports)), _USED])
    run(program, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)


@pytest.mark.processes
def test_no_name_of_ours_is_taken_for_others() -> None:
    """Whoever defines the same names differently in the pool that all share is not refused."""
    run("from tests.packaging.test_descriptor_pool import define_ours_as_foreigners; define_ours_as_foreigners()")


def define_ours_as_foreigners() -> None:
    for ours in (rpc_pb2.DESCRIPTOR, kv_pb2.DESCRIPTOR, csi_pb2.DESCRIPTOR, objects_pb2.DESCRIPTOR):
        theirs = descriptor_pb2.FileDescriptorProto(name=ours.name, package=ours.package, syntax="proto3")
        for message in ours.message_types_by_name:
            theirs.message_type.add(name=message).field.add(name="other", number=1, label=1, type=9)
        file = descriptor_pool.Default().AddSerializedFile(theirs.SerializeToString())
        for message, descriptor in file.message_types_by_name.items():
            foreign: Any = message_factory.GetMessageClass(descriptor)
            assert foreign(other="theirs").other == "theirs", message


def test_messages_are_those_of_the_fast_implementation() -> None:
    """As fast as protobuf's own generated code: its C library (upb) makes the classes of any pool."""
    from google.protobuf.internal import api_implementation

    assert api_implementation.Type() == "upb"
    assert type(rpc_pb2.RangeRequest).__module__.startswith("google._upb")


def test_generated_modules_are_as_protocs() -> None:
    assert rpc_pb2.RangeRequest.__module__ == "rayplane.proto.etcd.rpc_pb2"
    assert (rpc_pb2.NOSPACE, rpc_pb2.AlarmType.Name(1)) == (1, "NOSPACE")
    assert (rpc_pb2.Compare.EQUAL, rpc_pb2.Compare.CompareResult.Name(0)) == (0, "EQUAL")
    assert rpc_pb2.RangeResponse(kvs=[kv_pb2.KeyValue(key=b"k")]).kvs[0].key == b"k"
    assert rpc_pb2.RangeResponse.DESCRIPTOR.file.pool is POOL
    assert csi_pb2.ProbeResponse(ready={"value": True}).ready.value is True
