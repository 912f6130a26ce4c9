"""Addresses and ports of services: chosen here, and reserved in the transaction that stores the service.

A reservation is a key of its own under /rayplane/allocations whose absence is a guard of the transaction: two servers
can never hand out the same address. It goes away in the transaction that removes the service or the address.
"""

import ipaddress
from collections.abc import Iterable, Sequence

from rayplane.control_plane.api.errors import FieldError, Invalid, invalid
from rayplane.control_plane.api.machinery.addresses import Block, block_of
from rayplane.control_plane.api.meta import Object, condition_is, is_deleting, key
from rayplane.control_plane.apiserver.admission.plugins import only
from rayplane.control_plane.apiserver.admission.request import DELETE, AdmissionRequest
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.storage.store import absent, delete_op, put_op
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.storage.env import Env

BLOCKS = "servicecidrs.networking.k8s.io"
_ROOT = "/rayplane/allocations/"
_NO_ADDRESS = ("", "None")
_TRIES = 64
# Addresses below this are left to those who ask for one, as far as there are others.
_STATIC_BAND = 16
# A block of fewer addresses has none between its first and its last.
_SMALLEST = 4


def _ip_key(address: str) -> str:
    return f"{_ROOT}clusterips/{address}"


def _port_key(protocol: str, port: int) -> str:
    return f"{_ROOT}nodeports/{protocol}/{port}"


def reservations(service: Object | None) -> dict[str, None]:
    """The keys that a service holds, in order; none where it has not the shape of a service."""
    try:
        return _reservations(service)
    except (AttributeError, KeyError, TypeError, ValueError):
        # Written past the API: it must not keep all others from their addresses.
        return {}


def _reservations(service: Object | None) -> dict[str, None]:
    spec = (service or {}).get("spec") or {}
    if not spec or spec.get("type") == "ExternalName":
        return {}
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    keys = {_ip_key(a): None for a in addresses if a not in _NO_ADDRESS}
    for port in spec.get("ports") or ():
        if port.get("nodePort"):
            keys[_port_key(port.get("protocol") or "TCP", port["nodePort"])] = None
    if spec.get("healthCheckNodePort"):
        keys[_port_key("TCP", spec["healthCheckNodePort"])] = None
    return keys


def _ready_blocks(cidrs: Object) -> list[Block]:
    """The blocks of a ServiceCIDR that may be used; none where it has not the shape of one."""
    try:
        if is_deleting(cidrs) or not condition_is(cidrs, "Ready"):
            return []
        return [found for text in cidrs["spec"]["cidrs"] if (found := block_of(text)) is not None]
    except (AttributeError, KeyError, TypeError, ValueError):
        # Written past the API, as above.
        return []


class ServiceAddresses:
    """A plugin that gives services cluster addresses and node ports, and takes them back."""

    def __init__(self, config: ApiServerConfig, env: Env, lookup: Lookup) -> None:
        self._network = ipaddress.ip_network(config.service_cidr)
        self._ports = config.node_port_range
        self._env = env
        self._lookup = lookup

    @only(lambda request: request.info.name == "services" and not request.subresource)
    async def admit(self, request: AdmissionRequest) -> None:
        old = reservations(request.old)
        if request.operation == DELETE:
            request.effects += [delete_op(k) for k in old]
            return
        service = request.object
        taken = {k for s in await self._lookup.list("services") if key(s) != key(service) for k in reservations(s)}
        networks = [self._network, *await self._more()]
        self._assign(service, request.old, taken, networks)
        self._check(service, old, taken, networks)
        new = reservations(service)
        owner = key(service).encode()
        for k in new:
            if k not in old:
                request.guards.append(absent(k))
                request.effects.append(put_op(k, owner))
        request.effects += [delete_op(k) for k in old if k not in new]

    async def _more(self) -> list[Block]:
        """The blocks that users added, in the order of their names, where they are ready and of the same family."""
        return [
            block
            for one in await self._lookup.list(BLOCKS)
            for block in _ready_blocks(one)
            if block.version == self._network.version and block != self._network
        ]

    def _assign(self, service: Object, old: Object | None, taken: set[str], networks: Sequence[Block]) -> None:
        spec = service["spec"]
        kind = spec.get("type") or "ClusterIP"
        if kind == "ExternalName":
            if old is not None and (old.get("spec") or {}).get("type") != "ExternalName":
                spec.pop("clusterIP", None)
                spec.pop("clusterIPs", None)
            return
        if not spec.get("clusterIP"):
            given = spec.get("clusterIPs") or []
            spec["clusterIP"] = given[0] if given else self._free_address(service, taken, networks)
        if not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        self._assign_ports(service, kind, taken)

    def _assign_ports(self, service: Object, kind: str, taken: set[str]) -> None:
        spec = service["spec"]
        ports = spec.get("ports") or []
        if kind not in ("NodePort", "LoadBalancer"):
            return
        if kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is False:
            return
        chosen: dict[int, set[str]] = {}
        for port in ports:
            if port.get("nodePort"):
                chosen.setdefault(port["nodePort"], set()).add(port.get("protocol") or "TCP")
        by_number: dict[int, int] = {}
        for port in ports:
            if port.get("nodePort"):
                by_number.setdefault(port["port"], port["nodePort"])
                continue
            protocol = port.get("protocol") or "TCP"
            # The same port under two protocols shares one node port, as in Kubernetes.
            shared = by_number.get(port["port"])
            if shared is not None and protocol not in chosen[shared]:
                port["nodePort"] = shared
            else:
                port["nodePort"] = self._free_port(service, protocol, taken, chosen)
            chosen.setdefault(port["nodePort"], set()).add(protocol)
            by_number.setdefault(port["port"], port["nodePort"])
        if (
            kind == "LoadBalancer"
            and spec.get("externalTrafficPolicy") == "Local"
            and not spec.get("healthCheckNodePort")
        ):
            spec["healthCheckNodePort"] = self._free_port(service, "TCP", taken, chosen)

    def _free_address(self, service: Object, taken: set[str], networks: Sequence[Block]) -> str:
        for network in networks:
            count = network.num_addresses
            if count < _SMALLEST:
                continue
            first = min(_STATIC_BAND, count // 4) + 1
            for low, high in ((first, count - 2), (1, count - 2)):
                for offset in _picks(self._env, low, high):
                    address = str(network[offset])
                    if _ip_key(address) not in taken:
                        return address
        raise _invalid(service, [invalid("spec.clusterIPs", [], "failed to allocate an IP: range is full")])

    def _free_port(self, service: Object, protocol: str, taken: set[str], chosen: dict[int, set[str]]) -> int:
        for port in _picks(self._env, *self._ports):
            if port not in chosen and _port_key(protocol, port) not in taken:
                return port
        text = "failed to allocate a nodePort: range is full"
        raise _invalid(service, [invalid("spec.ports[0].nodePort", 0, text)])

    def _check(self, service: Object, old: dict[str, None], taken: set[str], networks: Sequence[Block]) -> None:
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return
        errors: list[FieldError] = []
        addresses = spec.get("clusterIPs") or []
        for address in addresses:
            if address in _NO_ADDRESS or _ip_key(address) in old:
                continue
            cause = ""
            if not any(ipaddress.ip_address(address) in network for network in networks):
                ranges = ",".join(map(str, networks))
                cause = f"provided IP is not in the valid range. The range of valid IPs is {ranges}"
            elif _ip_key(address) in taken:
                cause = "provided IP is already allocated"
            if cause:
                text = f"failed to allocate IP {address}: {cause}"
                errors.append(invalid("spec.clusterIPs", addresses, text))
        low, high = self._ports
        for index, port in enumerate(spec.get("ports") or ()):
            number = port.get("nodePort")
            name = _port_key(port.get("protocol") or "TCP", number or 0)
            if not number or name in old:
                continue
            path = f"spec.ports[{index}].nodePort"
            if not low <= number <= high:
                text = f"provided port is not in the valid range. The range of valid ports is {low}-{high}"
                errors.append(invalid(path, number, text))
            elif name in taken:
                errors.append(invalid(path, number, "provided port is already allocated"))
        if errors:
            raise _invalid(service, errors)


def _picks(env: Env, low: int, high: int) -> Iterable[int]:
    """Numbers of a range: some at random, then all in order."""
    for _ in range(_TRIES):
        yield env.rng.randint(low, high)
    yield from range(low, high + 1)


def _invalid(service: Object, errors: list[FieldError]) -> Invalid:
    return Invalid.of("Service", service["metadata"].get("name") or "", errors)
