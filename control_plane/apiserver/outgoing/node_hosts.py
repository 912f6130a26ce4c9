"""Finding the node host that runs a pod, and what its refusals mean to clients of the API."""

import grpc

from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    InternalError,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
)
from rayplane.control_plane.api.meta import Object, annotations
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.proto.rayplane.v1 import node_pb2

_NODE = node_pb2.DESCRIPTOR.services_by_name["Node"]
_STATUS_OF_CODE = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: BadRequest,
    grpc.StatusCode.FAILED_PRECONDITION: BadRequest,
    grpc.StatusCode.UNIMPLEMENTED: BadRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooManyRequests,
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailable,
}


def node_error(error: RpcError) -> ApiError:
    """What the API answers when a node host refuses."""
    return _STATUS_OF_CODE.get(error.code, InternalError)(error.message)


async def address_of(pod: Object, lookup: Lookup) -> tuple[str, str]:
    """Where the node host that runs a pod is reached, and the node's name. Raises ApiError."""
    name = (pod.get("spec") or {}).get("nodeName") or ""
    if not name:
        raise BadRequest(f"pod {pod['metadata']['name']} does not have a host assigned")
    node = await lookup.get("nodes", name)
    if node is None:
        raise NotFound.of("nodes", name)
    return address_of_node(node), name


def address_of_node(node: Object) -> str:
    """Where a node's host is reached. Raises ServiceUnavailable."""
    address = annotations(node).get(HOST_ADDRESS)
    if not address:
        text = f"node {node['metadata']['name']} does not say where its host is reached ({HOST_ADDRESS})"
        raise ServiceUnavailable(text)
    return str(address)


def node_stub(network: Network, address: str) -> Stub:
    """The service of the node host at an address."""
    return Stub(network.channel(address), _NODE)


async def host_of(pod: Object, lookup: Lookup, network: Network) -> tuple[Stub, str]:
    """The service of the node host that runs a pod, and the node's name. Raises ApiError."""
    address, name = await address_of(pod, lookup)
    return node_stub(network, address), name
