"""All names of a cluster, and who has an address: pure data that a feeder keeps current."""

import ipaddress
from collections.abc import Iterable, Sequence

from rayplane.node.dns.names import ServiceNames

_OCTETS = 8


class Zone:
    """The names of one cluster.

    `dns`: the address of the DNS service. `networks`: the cluster's own, of whose addresses nobody else knows names.
    """

    def __init__(self, dns: str, networks: Sequence[str] = ()) -> None:
        self.dns = dns
        self.serial = 0
        self.reverse = frozenset(_apexes(networks))
        """Where the cluster's own part of the tree of addresses begins: the octets in the order of the address."""
        self._services: dict[str, ServiceNames] = {}
        self._namespaces: set[str] = set()
        # Insertion-ordered sets, so that answers come in one order.
        self._of_services: dict[str, dict[str, None]] = {}
        self._of_endpoints: dict[str, dict[str, None]] = {}

    def set_namespace(self, name: str, *, exists: bool) -> None:
        if exists:
            self._namespaces.add(name)
        else:
            self._namespaces.discard(name)
        self.serial += 1

    def set_service(self, key: str, names: ServiceNames | None) -> None:
        """What there is now at the service namespace/name; None for nothing."""
        before = self._services.pop(key, None)
        for index, address, name in self._pointers(key, before):
            owners = index.get(address, {})
            owners.pop(name, None)
            if not owners:
                index.pop(address, None)
        if names is not None:
            self._services[key] = names
        for index, address, name in self._pointers(key, names):
            index.setdefault(address, {})[name] = None
        self.serial += 1

    def service(self, namespace: str, name: str) -> ServiceNames | None:
        return self._services.get(f"{namespace}/{name}")

    def has_namespace(self, name: str) -> bool:
        return name in self._namespaces

    def owners(self, address: str) -> list[str]:
        """Names of an address, as namespace/service or namespace/service/host: of the service that has it, else of
        endpoints.
        """
        return [*(self._of_services.get(address) or self._of_endpoints.get(address) or ())]

    def _pointers(self, key: str, names: ServiceNames | None) -> Iterable[tuple[dict[str, dict[str, None]], str, str]]:
        for entry in names.pointers() if names is not None else ():
            if entry.host:
                yield self._of_endpoints, entry.ip, f"{key}/{entry.host}"
            else:
                yield self._of_services, entry.ip, key


def _apexes(networks: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """Names begin and end at octets: a network of 13 bits has eight apexes of 16."""
    for text in networks:
        network = ipaddress.ip_network(text)
        octets = max(1, -(-network.prefixlen // _OCTETS))
        for part in network.subnets(new_prefix=octets * _OCTETS):
            yield tuple(str(part.network_address).split(".")[:octets])
