"""Stubs of a client's servers, by service and address."""

from collections.abc import Mapping

from google.protobuf.descriptor import ServiceDescriptor

from rayplane.control_plane.client.endpoints import Endpoints
from rayplane.control_plane.rpc import Network, Stub


class Stubs:
    """The stubs that were asked for. Servers come and go: those of addresses that are listed no more are forgotten."""

    def __init__(self, network: Network, services: Mapping[str, ServiceDescriptor], endpoints: Endpoints) -> None:
        self._network, self._services, self._endpoints = network, services, endpoints
        self._made: dict[tuple[str, str], Stub] = {}

    def __len__(self) -> int:
        return len(self._made)

    def of(self, service: str, address: str) -> Stub:
        stub = self._made.get((service, address))
        if stub is None:
            stub = Stub(self._network.channel(address), self._services[service])
            listed = self._endpoints.addresses
            self._made = {place: one for place, one in self._made.items() if place[1] in listed}
            self._made[service, address] = stub
        return stub
