"""Answers to questions about the cluster: a pure function of the zone and the question."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from dnslib import AAAA, CNAME, NS, PTR, QTYPE, RCODE, RD, RR, SOA, SRV, TXT, A, DNSLabel

from rayplane.node.dns.names import Entry, Path, address_of
from rayplane.node.dns.zone import Zone
from rayplane.node.kubelet.etc_files import DOMAIN

TTL_S = 30
"""Of all records, and of the knowledge that there is none: as kubeadm configures CoreDNS."""
SCHEMA = "1.1.0"
_SCHEMA_TTL_S = 28_800
_CHAIN_MAX = 8
_REFRESH_S, _RETRY_S, _EXPIRE_S = 7200, 1800, 86_400
_TOP: Path = tuple(reversed(DOMAIN.split(".")))
_ADDRESSES, _ADDRESSES6 = ("arpa", "in-addr"), ("arpa", "ip6")
_TRANSFERS = (QTYPE.AXFR, QTYPE.IXFR)
_V4, _V6 = 4, 6
_NIBBLES = 32


@dataclass(slots=True)
class Answer:
    """An answer. `follow`: a name outside of the cluster whose records of the question's type are to come after it."""

    rcode: int = RCODE.NOERROR
    records: list[RR] = field(default_factory=list)
    authority: list[RR] = field(default_factory=list)
    additional: list[RR] = field(default_factory=list)
    follow: DNSLabel | None = None
    authoritative: bool = True


def answer(zone: Zone, name: DNSLabel, kind: int, turn: int = 0) -> Answer | None:
    """What the cluster says of a name; None where others are to be asked.

    `turn`: which of several addresses comes first. Owners of records have the letters of the question.
    """
    if kind in _TRANSFERS:
        return Answer(RCODE.REFUSED, authoritative=False)
    path = _path(name)
    if path[: len(_TOP)] == _TOP:
        return _of_cluster(zone, name, path[len(_TOP) :], kind, turn)
    if path[:2] == _ADDRESSES:
        return _of_address(zone, name, path[2:], kind)
    if path[:2] == _ADDRESSES6:
        owners = zone.owners(_address6(path[2:]))
        return _pointers(zone, name, owners) if owners and kind == QTYPE.PTR else None
    return None


def _path(name: DNSLabel) -> Path:
    return tuple(label.lower().decode() for label in reversed(name.label))


def _of_cluster(zone: Zone, name: DNSLabel, path: Path, kind: int, turn: int) -> Answer:
    found = Answer()
    for _ in range(_CHAIN_MAX):
        alias = _alias(zone, path)
        if not alias:
            records = _records(zone, name, path, kind, turn, found.additional)
            found.rcode = RCODE.NXDOMAIN if records is None else RCODE.NOERROR
            found.records += records or ()
            if not records:
                found.authority.append(_soa(zone, DOMAIN))
            return found
        target = _label(alias)
        found.records.append(_record(name, QTYPE.CNAME, CNAME(target)))
        labels = _path(target)
        if kind == QTYPE.CNAME:
            return found
        if labels[: len(_TOP)] != _TOP:
            found.follow = target
            return found
        name, path = target, labels[len(_TOP) :]
    return Answer(RCODE.SERVFAIL, authoritative=False)  # aliases of each other


def _alias(zone: Zone, path: Path) -> str:
    names = zone.service(path[1], path[2]) if len(path) == 3 and path[0] == "svc" else None
    return names.alias if names is not None else ""


def _records(zone: Zone, name: DNSLabel, path: Path, kind: int, turn: int, additional: list[RR]) -> list[RR] | None:
    """Records of a name below the cluster's domain; None where there is no such name."""
    if not path:
        return _of_apex(zone, name, DOMAIN, kind)
    entries = _entries(zone, path)
    if entries is None:
        return None
    if path == ("dns-version",) and kind == QTYPE.TXT:
        return [_record(name, kind, TXT(SCHEMA), _SCHEMA_TTL_S)]
    first = turn % len(entries) if entries else 0
    entries = entries[first:] + entries[:first]
    if kind == QTYPE.SRV and path[0] == "svc":
        return _servers(name, ".".join((*reversed(path[:3]), DOMAIN)), entries, additional)
    return _addresses(name, entries, kind)


def _entries(zone: Zone, path: Path) -> tuple[Entry, ...] | None:
    """What a name leads to; nothing for one that is only there because of those below it."""
    match path:
        case ("dns-version",) | ("dns",) | ("svc",) | ("pod",):
            return ()
        case ("dns", "ns"):
            return (Entry("", zone.dns, None),)
        case ("svc", namespace) | ("pod", namespace):
            return () if zone.has_namespace(namespace) else None
        case ("pod", namespace, label):
            ip = address_of(label) if zone.has_namespace(namespace) else None
            return (Entry("", ip, None),) if ip is not None else None
        case ("svc", namespace, service, *below):
            names = zone.service(namespace, service)
            return names.entries.get(tuple(below)) if names is not None else None
    return None


def _addresses(name: DNSLabel, entries: Sequence[Entry], kind: int) -> list[RR]:
    version = {QTYPE.A: _V4, QTYPE.AAAA: _V6}.get(kind)
    if version is None:
        return []
    found = map(ipaddress.ip_address, dict.fromkeys(e.ip for e in entries))
    data = A if version == _V4 else AAAA
    return [_record(name, kind, data(tuple(ip.packed))) for ip in found if ip.version == version]


def _servers(name: DNSLabel, service: str, entries: Sequence[Entry], additional: list[RR]) -> list[RR]:
    """SRV records, and the addresses of their targets."""
    found = dict.fromkeys((e.host, e.port) for e in entries if e.port is not None)
    targets = {host: _label(f"{host}.{service}" if host else service) for host, _ in found}
    for host, ip in dict.fromkeys((e.host, e.ip) for e in entries if e.host in targets):
        kind = QTYPE.AAAA if ":" in ip else QTYPE.A
        additional.extend(_addresses(targets[host], [Entry(host, ip, None)], kind))
    weight = max(1, 100 // max(1, len(found)))
    return [_record(name, QTYPE.SRV, SRV(0, weight, port, targets[host])) for host, port in found]


# --- addresses ------------------------------------------------------------------------------------


def _of_address(zone: Zone, name: DNSLabel, octets: Path, kind: int) -> Answer | None:
    apex = next((octets[:n] for n in range(1, len(octets) + 1) if octets[:n] in zone.reverse), None)
    owners = zone.owners(".".join(octets)) if len(octets) == 4 else []
    if owners and kind == QTYPE.PTR:
        return _pointers(zone, name, owners)
    if apex is None:
        return None
    if octets == apex and (records := _of_apex(zone, name, _reverse_name(apex), kind)):
        return Answer(records=records)
    # An address without a name is none; above it are octets, below which there may be one.
    exists = bool(owners) or (len(octets) < 4 and all(map(_is_octet, octets)))
    soa = _soa(zone, _reverse_name(apex))
    return Answer(RCODE.NOERROR if exists else RCODE.NXDOMAIN, authority=[soa])


def _pointers(zone: Zone, name: DNSLabel, owners: list[str]) -> Answer:
    found = []
    for owner in owners:
        namespace, service, *host = owner.split("/")
        target = ".".join((*host, service, namespace, "svc", DOMAIN))
        found.append(_record(name, QTYPE.PTR, PTR(_label(target))))
    return Answer(records=found)


def _reverse_name(apex: Path) -> str:
    return ".".join((*reversed(apex), "in-addr", "arpa"))


def _is_octet(text: str) -> bool:
    return text.isdecimal() and text == str(int(text)) and int(text) < 256


def _address6(nibbles: Path) -> str:
    """The address that a name below ip6.arpa is about; empty where it is none."""
    if len(nibbles) != _NIBBLES or any(len(n) != 1 or n not in "0123456789abcdef" for n in nibbles):
        return ""
    return str(ipaddress.IPv6Address(int("".join(nibbles), 16)))


# --- records --------------------------------------------------------------------------------------


def _of_apex(zone: Zone, name: DNSLabel, apex: str, kind: int) -> list[RR]:
    if kind == QTYPE.SOA:
        return [_soa(zone, apex)]
    return [_record(name, kind, NS(_label(f"ns.dns.{DOMAIN}")))] if kind == QTYPE.NS else []


def _soa(zone: Zone, apex: str) -> RR:
    """Says who knows that there is nothing, and how long that holds (RFC 2308)."""
    times = (zone.serial % (1 << 32), _REFRESH_S, _RETRY_S, _EXPIRE_S, TTL_S)
    return _record(_label(apex), QTYPE.SOA, SOA(_label(f"ns.dns.{DOMAIN}"), _label(f"hostmaster.{DOMAIN}"), times))


def _record(name: DNSLabel, kind: int, data: RD, ttl_s: int = TTL_S) -> RR:
    return RR(name, kind, ttl=ttl_s, rdata=data)


def _label(text: str) -> DNSLabel:
    """The name of a text that is known to fit. As bytes: the library takes a text for one of another alphabet."""
    return DNSLabel(text.removesuffix(".").encode().split(b"."))
