"""Calls between components: services found by their protobuf descriptor, called over gRPC or in memory.

Owns the `Network` seam (real gRPC, an in-memory fabric for simulation and for components of one process), TLS
material, caller identity, who may call what, what a port bears with, how failed calls are logged, and the one error
type of calls. Does not own any service. A handler runs as its own task on the server's event loop; stopping a server
cancels the handlers that are left.
"""

from rayplane.control_plane.rpc.callers import ADMINISTRATORS, EVERYONE, Callers, Identity, each
from rayplane.control_plane.rpc.errors import RpcError
from rayplane.control_plane.rpc.network import Channel, Network, Server, Stub, Traffic, WebHandler
from rayplane.control_plane.rpc.service import Context, Encoded, Method, Service, methods_of
from rayplane.control_plane.rpc.tls import expiry, identity_of_transport

__all__ = [
    "ADMINISTRATORS",
    "EVERYONE",
    "Callers",
    "Channel",
    "Context",
    "Encoded",
    "Identity",
    "Method",
    "Network",
    "RpcError",
    "Server",
    "Service",
    "Stub",
    "Traffic",
    "WebHandler",
    "each",
    "expiry",
    "identity_of_transport",
    "methods_of",
]
