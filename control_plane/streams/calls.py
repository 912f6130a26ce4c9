"""Calls that streams into pods are made of: those of `rayplane.v1.Node`, to a node host or within one."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from rayplane.control_plane.rpc import Stub
from rayplane.proto.rayplane.v1 import node_pb2


class PodCalls(Protocol):
    """A node host, or what stands for one. Calls raise RpcError."""

    def Exec(self, requests: AsyncIterator[node_pb2.ExecRequest]) -> AsyncGenerator[node_pb2.ExecResponse, None]: ...

    def PortForward(
        self, requests: AsyncIterator[node_pb2.PortForwardRequest]
    ) -> AsyncGenerator[node_pb2.PortForwardResponse, None]: ...


Calls = Stub | PodCalls
