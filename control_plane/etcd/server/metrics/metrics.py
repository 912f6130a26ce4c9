"""Metrics of a member: what it counts, and the page for Prometheus, under etcd's names.

Most is read from its parts when it is asked for. Counted as it happens: calls (`metered` wraps the services),
durations of log syncs and store commits, and what the parts count by themselves (`StateMachine`, `Lessor`,
`Proposals`, the links to peers). Round trips to peers are measured by a small call to each, begun at each scrape for
the next one.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

from rayplane.control_plane.etcd.raft import SoftState
from rayplane.control_plane.etcd.server.config import ETCD_VERSION
from rayplane.control_plane.etcd.server.metrics.process import add_process
from rayplane.control_plane.etcd.server.metrics.text import Histogram, Text, labels
from rayplane.control_plane.etcd.server.ports import PeerStubs, RaftStatus
from rayplane.control_plane.etcd.server.replication.proposals import Proposals
from rayplane.control_plane.etcd.server.replication.read_index import ReadIndex
from rayplane.control_plane.etcd.server.replication.transport import Traffic as PeerTraffic
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.state_machine.watchable_store import WatchableStore
from rayplane.control_plane.etcd_errors import Code
from rayplane.control_plane.rpc import Context, Method, RpcError, Service, Traffic
from rayplane.control_plane.rpc.errors import error_of
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

_RANGE = "/etcdserverpb.KV/Range"
#: Seconds that a peer has to answer before its round trip counts as failed.
PROBE_TIMEOUT_S = 2.0
_GO_CODES = {code: "".join(part.capitalize() for part in code.name.split("_")) for code in Code} | {
    Code.OK: "OK",
    Code.CANCELLED: "Canceled",
}


class Counted(RaftStatus, Protocol):
    """The driver, and what it counts."""

    proposals: Proposals
    reads: ReadIndex


class Links(PeerStubs, Protocol):
    """The links to peers, and what they count."""

    traffic: PeerTraffic

    def is_connected(self, peer: int) -> bool: ...


class Calls:
    """Calls of one RPC. Each counted thing is one attribute: counting costs tens of nanoseconds."""

    __slots__ = ("failed", "labels", "ok", "received", "sent", "started")

    def __init__(self, method: Method) -> None:
        _, service, name = method.path.split("/")
        kinds = {(False, False): "unary", (False, True): "server_stream", (True, True): "bidi_stream"}
        kind = kinds.get((method.client_streaming, method.server_streaming), "client_stream")
        self.labels = labels(grpc_method=name, grpc_service=service, grpc_type=kind)
        self.started = 0
        self.ok = 0
        self.received = 0
        self.sent = 0
        self.failed: Counter[Code] = Counter()

    def fail(self, error: BaseException) -> None:
        if isinstance(error, RpcError):
            self.failed[error.code] += 1
        elif isinstance(error, Exception):
            self.failed[error_of(error).code] += 1
        else:
            self.failed[Code.CANCELLED] += 1


class Metrics:
    """One member's. `log_synced` and `store_committed` are told durations in seconds."""

    def __init__(
        self, raft: Counted, machine: StateMachine, watches: WatchableStore, links: Links, *, quota_bytes: int
    ) -> None:
        self.client_traffic = Traffic()
        self._raft = raft
        self._machine = machine
        self._watches = watches
        self._links = links
        self._quota_bytes = quota_bytes
        self._calls: list[Calls] = []
        self._ranges: Calls | None = None
        self._log_sync = Histogram(0.001, 14)
        self._log_bytes = 0
        self._commit = Histogram(0.001, 14)
        self._round_trips: dict[int, Histogram] = {}
        self._probes: dict[int, asyncio.Task[None]] = {}
        self._health = {True: 0, False: 0}
        self._checks: Counter[tuple[str, str, bool]] = Counter()
        self._last_checks: dict[tuple[str, str], bool] = {}
        self._leader = 0
        self._leader_changes = 0

    # What happens

    def metered(self, services: Sequence[Service]) -> Sequence[Service]:
        """The same services, each call counted."""
        for service in services:
            for path, (method, function) in service.handlers.items():
                calls = Calls(method)
                self._calls.append(calls)
                if path == _RANGE:
                    self._ranges = calls
                wrap = _metered_stream if method.server_streaming else _metered
                service.handlers[path] = (method, wrap(function, calls, method.client_streaming))
        return services

    def log_synced(self, seconds: float, size: int) -> None:
        self._log_sync.observe(seconds)
        self._log_bytes += size

    def store_committed(self, seconds: float) -> None:
        self._commit.observe(seconds)

    def leader_seen(self, state: SoftState) -> None:
        """There is another leader, or none."""
        if state.lead and state.lead != self._leader:
            self._leader_changes += 1
        self._leader = state.lead or self._leader

    def note_health(self, healthy: bool) -> None:
        self._health[healthy] += 1

    def note_check(self, kind: str, name: str, healthy: bool) -> None:
        self._checks[kind, name, healthy] += 1
        self._last_checks[kind, name] = healthy

    async def stop(self) -> None:
        """End the measurements under way."""
        probes = list(self._probes.values())
        await cancel_and_wait(*probes)

    # What is told

    async def scrape(self) -> str:
        """The page. Begins to measure the round trips that the next one shows."""
        text = Text()
        self._add_server(text)
        self._add_store(text)
        self._add_watches_and_leases(text)
        self._add_disk(text)
        self._add_peers(text)
        self._add_calls(text)
        add_process(text)
        for peer in self._links.peers:
            if peer not in self._probes:
                self._probes[peer] = asyncio.get_running_loop().create_task(self._probe(peer))
        return text.page()

    async def _probe(self, peer: int) -> None:
        try:
            stub = self._links.stub_of(peer)
            began = perf_counter()
            if stub is not None:
                with contextlib.suppress(RpcError):
                    await stub.Members(wire.MembersRequest(), timeout=PROBE_TIMEOUT_S)
                    self._round_trips.setdefault(peer, Histogram(0.0001, 16)).observe(perf_counter() - began)
        finally:
            del self._probes[peer]

    def _add_server(self, text: Text) -> None:
        raft = self._raft
        status, proposals = raft.status(), raft.proposals
        text.gauge("etcd_cluster_version", "1 for the cluster's version.", 1, labels(cluster_version=_minor()))
        text.gauge("etcd_server_version", "1 for the server's version.", 1, labels(server_version=ETCD_VERSION))
        text.gauge("etcd_server_id", "1 for the member's id.", 1, labels(server_id=f"{raft.member_id:x}"))
        text.gauge("etcd_server_has_leader", "Whether the member knows a leader.", bool(status.lead))
        text.gauge("etcd_server_is_leader", "Whether the member leads.", raft.is_leader)
        text.gauge("etcd_server_is_learner", "Whether the member is a learner.", raft.is_learner)
        text.counter("etcd_server_leader_changes_seen_total", "Changes of the leader.", self._leader_changes)
        text.gauge("etcd_server_proposals_committed_total", "Index of the last committed entry.", status.commit)
        text.gauge("etcd_server_proposals_applied_total", "Index of the last applied entry.", raft.applied)
        text.gauge("etcd_server_proposals_pending", "Proposals that wait for their outcome.", len(proposals))
        text.counter("etcd_server_proposals_failed_total", "Proposals without a known outcome.", proposals.failed)
        reads = raft.reads
        text.counter("etcd_server_slow_read_indexes_total", "Rounds of reads that were asked again.", reads.slow)
        text.counter("etcd_server_read_indexes_failed_total", "Reads that timed out.", reads.failed)
        text.gauge("etcd_server_quota_backend_bytes", "Size that the store may have.", self._quota_bytes)
        text.counter("etcd_server_health_success", "Health checks that succeeded.", self._health[True])
        text.counter("etcd_server_health_failures", "Health checks that failed.", self._health[False])
        last = {labels(name=n, type=f"/{k}"): float(ok) for (k, n), ok in sorted(self._last_checks.items())}
        text.family("etcd_server_healthcheck", "Outcome of the last check.", "gauge", last)
        checks = {
            labels(name=n, status="success" if ok else "error", type=f"/{k}"): float(count)
            for (k, n, ok), count in sorted(self._checks.items())
        }
        text.family("etcd_server_healthchecks_total", "Checks by their outcome.", "counter", checks)

    def _add_store(self, text: Text) -> None:
        machine, store = self._machine, self._machine.store
        size, in_use = store.backend.size()
        ranges = self._ranges.ok if self._ranges is not None else 0
        text.gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the store's file.", size)
        text.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store in use.", in_use)
        text.counter("etcd_mvcc_put_total", "Keys put.", machine.puts)
        text.counter("etcd_mvcc_delete_total", "Keys deleted.", machine.deletes)
        text.counter("etcd_mvcc_range_total", "Ranges read.", ranges)
        text.counter("etcd_debugging_mvcc_range_total", "Ranges read.", ranges)
        text.counter("etcd_mvcc_txn_total", "Transactions that may write.", machine.txns)
        text.gauge("etcd_debugging_mvcc_keys_total", "Keys.", len(store.index))
        text.gauge("etcd_debugging_auth_revision", "Revision of users and roles.", machine.auth.revision)
        text.gauge("etcd_debugging_mvcc_current_revision", "Revision of the store.", store.revision)
        text.gauge("etcd_debugging_mvcc_compact_revision", "Revision compacted last.", store.compacted_revision)

    def _add_watches_and_leases(self, text: Text) -> None:
        watches, lessor = self._watches, self._machine.lessor
        counts = watches.counts()
        text.gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", counts.streams)
        text.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", counts.watchers)
        text.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that catch up.", counts.unsynced)
        text.gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait for clients.", counts.pending)
        text.counter("etcd_debugging_mvcc_events_total", "Events sent to clients.", watches.events_sent)
        text.counter("etcd_debugging_lease_granted_total", "Leases granted.", lessor.granted)
        text.counter("etcd_debugging_lease_revoked_total", "Leases revoked.", lessor.revoked)
        text.counter("etcd_debugging_lease_renewed_total", "Leases renewed by this leader.", lessor.renewed)
        text.counter("etcd_debugging_server_lease_expired_total", "Leases that ran out.", lessor.ran_out)

    def _add_disk(self, text: Text) -> None:
        text.histogram("etcd_disk_wal_fsync_duration_seconds", "Time to sync the log.", {"": self._log_sync})
        text.gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log.", self._log_bytes)
        text.histogram("etcd_disk_backend_commit_duration_seconds", "Time to commit the store.", {"": self._commit})

    def _add_peers(self, text: Text) -> None:
        traffic = self._links.traffic
        local = f"{self._raft.member_id:x}"
        sent, received, failed, active = {}, {}, {}, {}
        for peer in self._links.peers:
            to, name = labels(To=f"{peer:x}"), f"{peer:x}"
            sent[to] = float(traffic.sent_bytes[peer])
            failed[to] = float(traffic.send_failures[peer])
            received[labels(From=name)] = float(traffic.received_bytes[peer])
            active[labels(Local=local, Remote=name)] = float(self._links.is_connected(peer))
        text.family("etcd_network_active_peers", "Whether there is a connection.", "gauge", active)
        text.family("etcd_network_peer_sent_bytes_total", "Bytes of entries sent.", "counter", sent)
        text.family("etcd_network_peer_received_bytes_total", "Bytes of entries received.", "counter", received)
        text.family("etcd_network_peer_sent_failures_total", "Broken connections.", "counter", failed)
        trips = {labels(To=f"{p:x}"): h for p, h in sorted(self._round_trips.items())}
        text.histogram("etcd_network_peer_round_trip_time_seconds", "Time for a call to a peer.", trips)

    def _add_calls(self, text: Text) -> None:
        calls, traffic = self._calls, self.client_traffic
        text.counter("etcd_network_client_grpc_received_bytes_total", "Bytes from clients.", traffic.received)
        text.counter("etcd_network_client_grpc_sent_bytes_total", "Bytes to clients.", traffic.sent)
        started = {c.labels: float(c.started) for c in calls}
        text.family("grpc_server_started_total", "Calls begun.", "counter", started)
        handled: dict[str, float] = {}
        for c in calls:
            handled[labels(grpc_code="OK") + "," + c.labels] = c.ok
            for code, count in sorted(c.failed.items(), key=lambda item: item[0].value[0]):
                handled[labels(grpc_code=_GO_CODES[code]) + "," + c.labels] = count
        text.family("grpc_server_handled_total", "Calls ended, by code.", "counter", handled)
        received = {c.labels: float(c.received) for c in calls}
        text.family("grpc_server_msg_received_total", "Messages received.", "counter", received)
        text.family("grpc_server_msg_sent_total", "Messages sent.", "counter", {c.labels: float(c.sent) for c in calls})


def _minor() -> str:
    return ETCD_VERSION.rpartition(".")[0]


def _metered(function: Callable[..., Any], calls: Calls, client_streaming: bool) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> Any:
        calls.started += 1
        calls.received += 1
        try:
            response = await function(request, context)
        except BaseException as e:
            calls.fail(e)
            raise
        calls.ok += 1
        calls.sent += 1
        return response

    return call


def _metered_stream(function: Callable[..., Any], calls: Calls, client_streaming: bool) -> Callable[..., Any]:
    async def received(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            calls.received += 1
            yield request

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        calls.started += 1
        if client_streaming:
            request = received(request)
        else:
            calls.received += 1
        try:
            async with contextlib.aclosing(function(request, context)) as responses:
                async for response in responses:
                    calls.sent += 1
                    yield response
        except BaseException as e:
            calls.fail(e)
            raise
        calls.ok += 1

    return call
