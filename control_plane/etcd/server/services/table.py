"""The services that clients are served, each with who may call it."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from rayplane.control_plane.etcd.callers import CLIENT_METHODS, PEER_METHODS
from rayplane.control_plane.etcd.server.codec import PEER
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.services.peer import PeerService
from rayplane.control_plane.rpc import Service, each
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd import v3election_pb2 as election_pb
from rayplane.proto.etcd import v3lock_pb2 as lock_pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

_DESCRIPTORS: dict[str, ServiceDescriptor] = {
    **pb.DESCRIPTOR.services_by_name,
    **lock_pb.DESCRIPTOR.services_by_name,
    **election_pb.DESCRIPTOR.services_by_name,
    "Standings": wire.DESCRIPTOR.services_by_name["Standings"],
    "Convoys": wire.DESCRIPTOR.services_by_name["Convoys"],
}


def client_services(config: MemberConfig, handlers: dict[str, Any]) -> Sequence[Service]:
    """`handlers`: by the services' names, without a package."""
    return [
        Service(
            _DESCRIPTORS[name],
            handler,
            callers=each(config.client_callers, *CLIENT_METHODS[name].split()),
            request_bytes_max=config.max_message_bytes,
        )
        for name, handler in handlers.items()
    ]


def peer_service(config: MemberConfig, handler: PeerService) -> Service:
    """The service of the other members."""
    return Service(PEER, handler, callers=each(config.peer_callers, *PEER_METHODS.split()))
