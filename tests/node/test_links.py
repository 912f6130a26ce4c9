"""Interfaces, addresses and routes as the kernel takes them, and what it answers."""

import errno
import socket
import struct
from ipaddress import AddressValueError
from typing import Any

import pytest

from rayplane.node.netlink import ERROR, attribute, attribute_values, framed, parsed, text
from rayplane.node.runtime.isolation.links import (
    IFF_UP,
    RT_SCOPE_LINK,
    End,
    Order,
    Route,
    delete_link,
    delete_rule,
    new_address,
    new_pair,
    new_rule,
    set_flags,
)
from rayplane.node.runtime.isolation.network import MachineNetwork
from rayplane.node.runtime.isolation.rtnetlink import RouteSocket

LINK, ROUTE = 16, 12  # bytes before the attributes


def attributes(order: Order, after: int) -> dict[int, bytes]:
    return dict(attribute_values(order.body[after:]))


def test_what_is_packed_is_parsed() -> None:
    data = framed(16, 5, 7, b"abc") + b"\0" + framed(17, 0, 8, b"")
    assert [*parsed(data)] == [(16, 7, b"abc"), (17, 8, b"")]
    assert [*attribute_values(attribute(3, b"abcde") + text(4, "x"))] == [(3, b"abcde"), (4, b"x\0")]
    for odd in (b"", b"\0" * 3, b"\0" * 16, b"\xff" * 20):
        assert len([*parsed(odd)]) <= 1 and len([*attribute_values(odd)]) <= 1


def test_a_pair_has_one_end_here_and_one_in_the_pod() -> None:
    order = new_pair(End("pod1", flags=IFF_UP), End("eth0", net=9), 65000)
    outer = attributes(order, LINK)
    assert struct.unpack_from("=BxHiII", order.body)[3:] == (IFF_UP, IFF_UP)
    assert outer[3] == b"pod1\0" and 28 not in outer
    info = dict(attribute_values(outer[18]))
    assert info[1] == b"veth\0"
    peer = dict(attribute_values(info[2]))[1]
    inner = dict(attribute_values(peer[LINK:]))
    assert inner[3] == b"eth0\0" and inner[28] == struct.pack("=I", 9) and inner[4] == struct.pack("=I", 65000)
    assert struct.unpack_from("=BxHiII", peer)[3:] == (0, 0)


def test_a_table_of_a_high_number_is_named_beside_the_head() -> None:
    for order in (
        Route("10.0.0.0/24", 2, table=70_000).new(),
        new_rule(source="10.0.0.0/24", table=70_000, priority=9),
    ):
        assert struct.unpack_from("=BBBBBBBBI", order.body)[4] == 0
        assert attributes(order, ROUTE)[15] == struct.pack("=I", 70_000)
    assert struct.unpack_from("=BBBBBBBBI", Route("10.0.0.0/24", 2).new().body)[4] == 254


def test_a_rule_for_a_network_is_taken_back_whatever_its_table() -> None:
    made = new_rule(source="10.0.1.0/24", table=70_000, priority=9)
    gone = delete_rule(source="10.0.1.0/24", priority=9)
    for order in (made, gone):
        assert struct.unpack_from("=BBBBBBBBI", order.body)[2] == 24
        found = attributes(order, ROUTE)
        assert (found[2], found[6]) == (bytes([10, 0, 1, 0]), struct.pack("=I", 9))
        assert 10 not in found, "no mark is asked for"
    assert 15 not in attributes(gone, ROUTE)


def test_the_way_out_goes_to_no_neighbour() -> None:
    out = Route("0.0.0.0/0", 2, gateway="10.0.0.1").new()
    header = struct.unpack_from("=BBBBBBBBI", out.body)
    assert header[1] == 0 and header[-1] == 4
    assert attributes(out, ROUTE) == {4: struct.pack("=I", 2), 5: bytes([10, 0, 0, 1])}
    here = Route("10.0.0.7/32", 5, source="10.0.0.1", scope=RT_SCOPE_LINK).replace()
    header = struct.unpack_from("=BBBBBBBBI", here.body)
    assert (header[1], header[6], header[-1]) == (32, RT_SCOPE_LINK, 0)
    assert attributes(here, ROUTE)[1] == bytes([10, 0, 0, 7]) and attributes(here, ROUTE)[7] == bytes([10, 0, 0, 1])


@pytest.mark.parametrize("ip", ["10.0.0", "10.0.0.256", "fe80::1", ""])
def test_what_is_no_address_of_ipv4_is_refused(ip: str) -> None:
    with pytest.raises(AddressValueError):
        new_address(1, ip)


class Kernel:
    """A kernel that answers each order with a number, in several datagrams."""

    def __init__(self, answers: list[int]) -> None:
        self.answers, self.waiting = answers, list[bytes]()

    def send(self, data: bytes) -> None:
        numbers = [number for _, number, _ in parsed(data)]
        said = [framed(ERROR, 0, n, struct.pack("=i", -a)) for n, a in zip(numbers, self.answers, strict=True)]
        self.waiting = [framed(ERROR, 0, 12345, struct.pack("=i", -1)), b"".join(said[:1]), b"".join(said[1:])]

    def recv(self, _: int) -> bytes:
        return self.waiting.pop(0)


def routes(*answers: int) -> RouteSocket:
    found = RouteSocket()
    found._socket.close()
    found._socket = Kernel([*answers])  # type: ignore[assignment]
    return found


def told(answers: list[int], **how: Any) -> None:
    routes(*answers).tell(set_flags(1, IFF_UP), delete_link("pod1"), new_address(1, "10.0.0.1"), **how)


def test_what_is_refused_first_is_told_and_what_is_as_good_is_not() -> None:
    told([0, 0, 0])
    told([0, errno.ENODEV, errno.ENODEV], but=errno.ENODEV)
    with pytest.raises(FileExistsError, match=r"address 10\.0\.0\.1"):
        told([0, errno.ENODEV, errno.EEXIST], but=errno.ENODEV)
    with pytest.raises(OSError, match="end of interface pod1") as raised:
        told([0, errno.ENODEV, errno.EEXIST])
    assert raised.value.errno == errno.ENODEV


def test_the_kernel_of_this_machine_answers() -> None:
    with RouteSocket() as kernel, pytest.raises(OSError, match="end of interface rp-nobody") as raised:
        kernel.tell(delete_link("rp-nobody"))
    assert raised.value.errno in (errno.ENODEV, errno.EPERM)
    assert socket.if_nameindex()


def unrouted(wire: int, answer: int) -> bool:
    """Whether the kernel is asked to take back a route of a process whose device is `wire`."""
    network = MachineNetwork.__new__(MachineNetwork)
    network._routes, network._wire, network._wire_table = routes(answer), wire, 9
    network.unroute("10.0.1.0/24", shared=True)
    return network._routes._next > 1


def test_a_route_is_taken_back_only_by_whose_device_it_leads() -> None:
    assert unrouted(7, 0) and unrouted(7, errno.ESRCH) and not unrouted(0, 0)
    with pytest.raises(PermissionError, match=r"end of route to 10\.0\.1\.0/24"):
        unrouted(7, errno.EPERM)
