"""The names that a service gives: a pure function of the service and its endpoint slices."""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

NAME_MAX = 253
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_MAX = 63
Path = tuple[str, ...]
"""Labels below a name, from the top down, in lower case."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One address behind a name. `host`: label of its own below the service, empty when it is the service's address.

    `port`: what SRV records say; None where nothing is known of ports.
    """

    host: str
    ip: str
    port: int | None


@dataclass(frozen=True, slots=True)
class ServiceNames:
    """Everything at and below the name of one service.

    `alias`: what an ExternalName service stands for; it has no other names then. `entries`: addresses by path below the
    service's name; a path with none is there without records, as `_tcp` is when there is `_http._tcp`.
    """

    alias: str = ""
    entries: dict[Path, tuple[Entry, ...]] = field(default_factory=dict)

    def pointers(self) -> Iterator[Entry]:
        """Addresses that have a name here, each once."""
        for path, entries in self.entries.items():
            host = "".join(path)
            # Paths of ports hold the same addresses again.
            if len(path) < 2:
                yield from dict.fromkeys(Entry(e.host, e.ip, None) for e in entries if e.host == host)


def names_of(service: Object, slices: Iterable[Object]) -> ServiceNames | None:
    """The names of a service; None for one that has none yet, and for a headless one without ready endpoints."""
    spec = meta.spec(service)
    if spec.get("type") == "ExternalName":
        alias = spec.get("externalName") or ""
        # As in CoreDNS an address is no name.
        return ServiceNames(alias) if is_name(alias) and address(alias) is None else None
    addresses = [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip]
    if not addresses:
        return None
    found: dict[Path, dict[Entry, None]] = {}
    headless = addresses[0] == "None"
    for entry, port in _of_addresses(addresses, spec.get("ports") or ()):
        _add(found, entry, port)
    for entry, port in _of_slices(slices):
        if headless:
            _add(found, entry, port)
        found.setdefault((entry.host,), {})[entry] = None
    return ServiceNames(entries={path: tuple(entries) for path, entries in found.items()}) if found else None


_Port = tuple[str, str]
"""Protocol and name of a port; both empty where there is none."""


def _of_addresses(addresses: list[str], ports: Iterable[Object]) -> Iterator[tuple[Entry, _Port]]:
    known = [*filter(None, map(address, addresses))]
    for number, port in _ports(ports):
        for ip in known:
            yield Entry("", ip, number), port


def _of_slices(slices: Iterable[Object]) -> Iterator[tuple[Entry, _Port]]:
    for one in slices:
        ports = [*_ports(one.get("ports") or ())]
        for endpoint in one.get("endpoints") or ():
            # Nothing said means ready. Those that are to be published anyway are told to be so by the controller.
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            for ip in filter(None, map(address, endpoint.get("addresses") or ())):
                host = (endpoint.get("hostname") or "").lower()
                host = host if _LABEL.fullmatch(host) else host_of(ip)
                for number, port in ports:
                    yield Entry(host, ip, number), port


def _ports(ports: Iterable[Object]) -> Iterator[tuple[int | None, _Port]]:
    found = [(p.get("port"), (p.get("protocol") or "TCP", p.get("name") or "")) for p in ports]
    yield from found or [(None, ("", ""))]


def _add(found: dict[Path, dict[Entry, None]], entry: Entry, port: _Port) -> None:
    """What the service's own name and that of a port lead to."""
    found.setdefault((), {})[entry] = None
    protocol, name = port
    if name:
        at = f"_{protocol}".lower()
        found.setdefault((at,), {})
        found.setdefault((at, f"_{name}".lower()), {})[entry] = None


def host_of(ip: str) -> str:
    """The label of an endpoint without a host name: its address with dashes."""
    label = ip.replace(".", "-").replace(":", "-")
    return f"{label}0" if label.endswith("-") else label


def address_of(label: str) -> str | None:
    """The address that a label with dashes stands for."""
    return address(label.replace("-", "." if label.count("-") == 3 and "--" not in label else ":"))


def is_name(text: str) -> bool:
    """Tells whether it can stand in a message: labels of 1 to 63 bytes, 253 together."""
    text = text.removesuffix(".")
    return len(text.encode()) <= NAME_MAX and all(0 < len(label.encode()) <= LABEL_MAX for label in text.split("."))


def address(text: str) -> str | None:
    """An address as it is written everywhere here; None for what is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
