"""The page of metrics: etcd's names and kinds, numbers that follow what happens; and health without a leader."""

import asyncio
import re
from typing import Any

import pytest

from rayplane.control_plane.component_base.exposition import page
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.etcd.harness import EtcdCluster, etcd_cluster
from tests.etcd.side_by_side import Pair
from tests.etcd.web_client import ask

# fmt: off
#: What the etcd mixin's alerts and dashboards and etcdctl look at; these must be etcd's in name and kind.
WANTED = (
    "etcd_cluster_version", "etcd_server_version", "etcd_server_id", "etcd_server_has_leader",
    "etcd_server_is_leader", "etcd_server_is_learner", "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_committed_total", "etcd_server_proposals_applied_total",
    "etcd_server_proposals_pending", "etcd_server_proposals_failed_total", "etcd_server_quota_backend_bytes",
    "etcd_server_health_success", "etcd_server_health_failures", "etcd_server_slow_read_indexes_total",
    "etcd_server_read_indexes_failed_total", "etcd_debugging_auth_revision", "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes", "etcd_mvcc_put_total", "etcd_mvcc_delete_total",
    "etcd_mvcc_range_total", "etcd_mvcc_txn_total", "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_range_total", "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_compact_revision", "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total", "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_pending_events_total", "etcd_debugging_mvcc_events_total",
    "etcd_debugging_lease_granted_total", "etcd_debugging_lease_revoked_total",
    "etcd_debugging_lease_renewed_total", "etcd_debugging_server_lease_expired_total",
    "etcd_disk_wal_fsync_duration_seconds", "etcd_disk_wal_write_bytes_total",
    "etcd_disk_backend_commit_duration_seconds", "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total", "grpc_server_started_total", "grpc_server_handled_total",
    "grpc_server_msg_received_total", "grpc_server_msg_sent_total", "process_cpu_seconds_total",
    "process_max_fds", "process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds",
    "process_virtual_memory_bytes", "os_fd_limit", "os_fd_used",
)
#: Only there with peers, or once something was measured.
WANTED_LATER = (
    "etcd_network_active_peers", "etcd_network_peer_sent_bytes_total", "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_sent_failures_total", "etcd_network_peer_round_trip_time_seconds",
    "etcd_server_healthcheck", "etcd_server_healthchecks_total",
)

# fmt: on


def kinds(page: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))


def samples(page: str) -> dict[str, float]:
    """By name and labels; fails on a line that is none."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r'(\w+(?:\{\w+="[^"]*"(?:,\w+="[^"]*")*\})?) (\S+)', line)
            assert match is not None, line
            assert match[1] not in found, f"{match[1]} twice"
            found[match[1]] = float(match[2])
    return found


async def scraped(cluster: EtcdCluster, number: int = 0) -> dict[str, float]:
    body, _ = page(cluster.members[number].metrics.collect(), "")
    return samples(body.decode())


@pytest.mark.e2e
def test_names_and_kinds_are_those_of_etcd(sides: Pair) -> None:
    addresses = [side.endpoints[0].address for side in sides.sides]
    for address in addresses:
        for path in ("kv/put", "kv/range"):
            ask(address, f"/v3/{path}", '{"key":"YQ=="}')
    sides.same("KV.Range", pb.RangeRequest(key=b"b"))
    answers = [ask(address, "/metrics") for address in addresses]
    assert answers[0].headers == {k: v for k, v in answers[1].headers.items()} | {"transfer-encoding": "chunked"}
    real, own = (kinds(a.body) for a in answers)
    assert [name for name in WANTED if name not in own] == []
    assert {name: own[name] for name in WANTED if name in real} == {n: real[n] for n in WANTED if n in real}
    unknown = [name for name in own if name not in real and name not in WANTED_LATER]
    assert unknown == [], "these are not etcd's"
    measured = [samples(a.body) for a in answers]
    for name, value in measured[0].items():
        if name.startswith(("etcd_disk_wal_fsync", "etcd_disk_backend_commit")):
            assert name in measured[1], "the same buckets"
        if name.startswith(("grpc_server_handled", "grpc_server_started")) and value and "KV" in name:
            assert measured[1].get(name) == value, name
    assert measured[1]["process_resident_memory_bytes"] > 1 << 20


async def test_counters_follow_what_happens() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        number = cluster.members.index(leader)
        before = await scraped(cluster, number)
        for n in range(3):
            await cluster.put(b"k%d" % n, b"v", endpoint=leader.client_address)
        kv, lease = cluster.stub("KV", leader.client_address), cluster.stub("Lease", leader.client_address)
        await kv.DeleteRange(pb.DeleteRangeRequest(key=b"k0"))
        with pytest.raises(RpcError):
            await kv.Put(pb.PutRequest())
        granted = await lease.LeaseGrant(pb.LeaseGrantRequest(TTL=60))
        async for _ in lease.LeaseKeepAlive(_one(pb.LeaseKeepAliveRequest(ID=granted.ID))):
            break
        await lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=granted.ID))
        after = await scraped(cluster, number)
        grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
        assert grown["etcd_mvcc_put_total"] == 3 and grown["etcd_mvcc_delete_total"] == 1
        assert grown["etcd_debugging_mvcc_keys_total"] == 2
        leases = [grown[f"etcd_debugging_lease_{what}_total"] for what in ("granted", "renewed", "revoked")]
        assert leases == [1, 1, 1]
        put = 'grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"'
        assert grown[f"grpc_server_started_total{{{put}}}"] == 4
        assert grown[f'grpc_server_handled_total{{grpc_code="OK",{put}}}'] == 3
        assert grown[f'grpc_server_handled_total{{grpc_code="InvalidArgument",{put}}}'] == 1
        assert grown["etcd_server_proposals_applied_total"] >= 6
        assert grown["etcd_disk_wal_fsync_duration_seconds_count"] > 0
        assert (
            after["etcd_server_is_leader"]
            == 1
            == sum([(await scraped(cluster, n))["etcd_server_is_leader"] for n in range(3)])
        )
        assert after[f'etcd_server_id{{server_id="{leader.member_id:x}"}}'] == 1
        for member in cluster.members:
            if member is not leader:
                assert grown[f'etcd_network_peer_sent_bytes_total{{To="{member.member_id:x}"}}'] > 0
                assert after[f'etcd_network_peer_round_trip_time_seconds_count{{To="{member.member_id:x}"}}'] == 1


async def _one(request: Any) -> Any:
    yield request


async def test_watchers_are_counted_while_they_watch() -> None:
    async with etcd_cluster(1) as cluster:
        request = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"w"))
        stream = cluster.stub("Watch").Watch(_one(request))
        assert (await anext(stream)).created
        during = await scraped(cluster)
        await cluster.put(b"w", b"1")
        assert len((await anext(stream)).events) == 1
        await stream.aclose()
        async with asyncio.timeout(60):
            while (after := await scraped(cluster))["etcd_debugging_mvcc_watch_stream_total"]:
                await asyncio.sleep(0.02)
    assert [during[f"etcd_debugging_mvcc_{n}_total"] for n in ("watch_stream", "watcher", "slow_watcher")] == [1, 1, 0]
    assert after["etcd_debugging_mvcc_watcher_total"] == 0 and after["etcd_debugging_mvcc_events_total"] == 1
    watch = 'grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"'
    assert after[f"grpc_server_started_total{{{watch}}}"] == 1
    assert after[f'grpc_server_handled_total{{grpc_code="Canceled",{watch}}}'] == 1
    assert after[f"grpc_server_msg_sent_total{{{watch}}}"] == 2


async def test_a_member_without_a_leader_is_not_healthy() -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.put(b"a", b"1")
        member = cluster.members[0]
        health = member.health
        assert await health.overall(serializable=False, exclude=()) == ""
        changes = (await scraped(cluster))["etcd_server_leader_changes_seen_total"]
        others = [name for name, node in cluster.nodes.items() if node.member is not member]
        for name in others:
            await cluster.kill(name)
        async with asyncio.timeout(60):
            while member.leader_id:
                await asyncio.sleep(0.02)
        assert await health.overall(serializable=False, exclude=()) == "RAFT NO LEADER"
        assert await health.overall(serializable=True, exclude=()) == ""
        lines, healthy = await health.run("readyz", ["serializable_read", "linearizable_read"])
        assert not healthy
        assert lines == [
            "[+]serializable_read ok\n",
            "[-]linearizable_read failed: range error: etcdserver: request timed out\n",
        ]
        page = await scraped(cluster)
        assert page["etcd_server_has_leader"] == 0 and page["etcd_server_health_failures"] == 1
        assert page['etcd_server_healthcheck{name="linearizable_read",type="/readyz"}'] == 0
        assert page["etcd_server_read_indexes_failed_total"] >= 1
        for name in others:
            await cluster.start(name)
        await cluster.wait_leader()
        assert (await scraped(cluster))["etcd_server_leader_changes_seen_total"] >= changes
        assert await health.overall(serializable=False, exclude=()) == ""
