"""The network between machines: who has an address, and whose packets are let in."""

import importlib
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.node.overlay.routes import Peer, Table, destination_of, source_of


def packet(source: str, destination: str) -> bytes:
    return b"\x45" + bytes(11) + IPv4Address(source).packed + IPv4Address(destination).packed + b"data"


TABLE = Table(
    [
        Peer("n1", "10.16.1.0/24", "a:1", "one"),
        Peer("n2", "10.16.2.0/24", "b:1", "two"),
        Peer("n3", "10.16.3.0/25", "b:1", "two"),
        Peer("bad", "no network", "c:1", "three"),
    ]
)


@pytest.mark.parametrize(
    ("source", "destination", "admitted"),
    [
        ("10.16.2.7", "10.16.1.9", True),
        ("10.16.3.7", "10.16.1.9", True),
        ("10.16.1.7", "10.16.1.9", False),  # another's address
        ("8.8.8.8", "10.16.1.9", False),
        ("10.16.2.7", "10.16.2.9", False),  # not ours
        ("10.16.3.200", "10.16.1.9", False),  # behind the end of its network
    ],
)
def test_a_host_sends_what_its_own_pods_send_to_ours(source: str, destination: str, admitted: bool) -> None:
    senders, own = frozenset({"n2", "n3"}), frozenset({"n1"})
    assert TABLE.admits(packet(source, destination), sender=senders, own=own) is admitted


def test_routes_lead_to_other_machines_only() -> None:
    assert sorted(TABLE.elsewhere("one")) == ["10.16.2.0/24", "10.16.3.0/25"]
    assert sorted(TABLE.elsewhere("two")) == ["10.16.1.0/24"]


@given(st.binary(max_size=64))
def test_no_bytes_are_more_than_dropped(data: bytes) -> None:
    everybody = frozenset({"n1", "n2", "n3", "bad"})
    admitted = TABLE.admits(data, sender=everybody, own=everybody)
    assert admitted == (TABLE.find(source_of(data)) is not None and TABLE.find(destination_of(data)) is not None)


def test_what_the_network_of_isolated_pods_needs_is_installed() -> None:
    """Otherwise all tests of isolated pods would be skipped, as on a machine whose kernel allows none."""
    importlib.import_module("rayplane.node.runtime.isolation.network")
