"""Ports that tests are given: those of no connection, and of no other worker."""

import itertools

import pytest

from tests.ports import ports_of


@pytest.mark.parametrize(
    "connections", ["32768\t60999\n", "1024\t65535\n", "15000\t65535", "1024 12000", "10010 19995"]
)
def test_no_two_workers_share_a_port_and_none_is_a_connections_where_others_are_left(connections: str) -> None:
    of = [set(ports_of(worker, connections)) for worker in ("", *(f"gw{number}" for number in range(15)))]
    assert all(of) and not any(a & b for a, b in itertools.combinations(of, 2))
    first, last = map(int, connections.split())
    taken = set(range(first, last + 1)) & set[int]().union(*of)
    assert not taken or last - first > 9_000
