"""etcd members in the process of a test."""

import json
import threading
import urllib.request
from base64 import b64encode

import pytest

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.testing import etcd


def test_several_members_are_one_store_and_leave_nothing() -> None:
    before = threading.active_count()
    with etcd(members=3) as three:
        revision = three.do(lambda client: client.put(b"a", b"1")).header.revision
        assert three.do(lambda client: client.range(b"a")).kvs[0].mod_revision == revision
        assert len(three.do(lambda client: client.member_list()).members) == 3
    assert threading.active_count() == before


def test_a_lease_ends_with_time_that_is_led_forward() -> None:
    with etcd() as one:
        lease = one.do(lambda client: client.lease_grant(600))
        one.do(lambda client: client.put(b"a", b"1", lease=lease.ID))
        one.advance("9m")
        assert one.do(lambda client: client.range(b"a")).count == 1
        one.advance("2m")
        assert one.do(lambda client: client.range(b"a")).count == 0


def test_clients_of_any_kind_reach_one_that_listens() -> None:
    with etcd(listen=True) as one:
        one.do(lambda client: client.put(b"a", b"1"))
        body = json.dumps({"key": b64encode(b"a").decode()}).encode()
        with urllib.request.urlopen(f"http://{one.endpoints[0]}/v3/kv/range", data=body, timeout=30) as answer:
            assert json.load(answer)["kvs"][0]["value"] == b64encode(b"1").decode()


def test_an_etcd_of_nobody_is_refused() -> None:
    with pytest.raises(UsageError, match="members"):
        etcd(members=0)
