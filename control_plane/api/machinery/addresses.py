"""Blocks of IP addresses, and addresses, in fields of objects: what is one, what is ambiguous, how it is best written.

A field from before there was a canonical form takes any unambiguous one (`names.ip_errors`, `cidr_errors`); newer
fields take only that form (`canonical_*`). What an update keeps may be as ambiguous as it was
(`legacy_*`): rules were laxer once.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Set as AbstractSet
from typing import Final

from rayplane.control_plane.api.errors import quote
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.remembering import remembered

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Block = ipaddress.IPv4Network | ipaddress.IPv6Network
_NO_BLOCK: Final = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_OCTETS: Final = re.compile(r"[0-9]+(\.[0-9]+){3}", re.ASCII)
_BITS: Final = re.compile("[0-9]{1,64}", re.ASCII)
_LONGEST: Final = 300  # characters; more are no address


def address_of(text: str) -> Address | None:
    """The address a text stands for, with leading zeros as nothing; None when it is none."""
    if len(text) > _LONGEST or "%" in text:
        return None
    if _OCTETS.fullmatch(text):
        text = ".".join(part.lstrip("0") or "0" for part in text.split("."))
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def legacy_ip_errors(text: str, kept: AbstractSet[str]) -> tuple[str, ...]:
    """Problems of an address in any form; `kept` are those that an update found, which need only be addresses."""
    return () if text in kept and address_of(text) is not None else names.ip_errors(text)


@remembered(4_096)
def canonical_ip_errors(text: str) -> tuple[str, ...]:
    """Problems of an address that must be in its canonical form."""
    found = names.ip_errors(text)
    if found or str(address_of(text)) == text:
        return found
    return (f"must be in canonical form ({quote(str(address_of(text)))})",)


def _block(text: str) -> tuple[Address, Block] | None:
    """The address and the block of a text such as `10.0.0.1/8`; None when it is none."""
    first, slash, bits = text.partition("/")
    address = address_of(first)
    if address is None or not slash or not _BITS.fullmatch(bits):
        return None
    try:
        return address, ipaddress.ip_network((address, int(bits)), strict=False)
    except ValueError:
        return None


def block_of(text: str) -> Block | None:
    """The block of addresses a text stands for, in any form; None when it is none."""
    found = _block(text)
    return found[1] if found else None


@remembered(4_096)
def cidr_errors(text: str) -> tuple[str, ...]:
    """Problems of a block that may be written in any unambiguous way."""
    found = _block(text)
    if found is None:
        return (_NO_BLOCK,)
    first, _, bits = text.partition("/")
    problems = names.ip_errors(first)
    if "must not have leading 0s" in problems or (len(bits) > 1 and bits[0] == "0"):
        return ("must not have leading 0s in IP or prefix length",)
    if problems:
        return ("must not have an IPv4-mapped IPv6 address",)
    return ("must not have bits set beyond the prefix length",) if found[0] != found[1].network_address else ()


def legacy_cidr_errors(text: str, kept: AbstractSet[str]) -> tuple[str, ...]:
    """Problems of a block in any form; `kept` are those that an update found, which need only be blocks."""
    return () if text in kept and block_of(text) is not None else cidr_errors(text)


def canonical_cidr_errors(text: str) -> tuple[str, ...]:
    """Problems of a block that must be in its canonical form."""
    found = cidr_errors(text)
    if found or str(block_of(text)) == text:
        return found
    return (f"must be in canonical form ({quote(str(block_of(text)))})",)


def ip_warnings(path: str, text: str) -> list[str]:
    """What is odd about an address that is taken all the same."""
    address = address_of(text)
    if address is None or address.version == 4 or str(address) == text:
        return []
    shown = f"{quote(text)} should be in RFC 5952 canonical format ({quote(str(address))})"
    return [f"{path}: IPv6 address {shown}"]


def cidr_warnings(path: str, text: str) -> list[str]:
    """What is odd about a block that is taken all the same."""
    block = block_of(text)
    if block is None or block.version == 4 or str(block) == text:
        return []
    shown = f"{quote(text)} should be in RFC 5952 canonical format ({quote(str(block))})"
    return [f"{path}: IPv6 CIDR value {shown}"]
