"""Metrics of a member: what it counts, under etcd's names.

Most is read from its parts when it is asked for. Counted as it happens: calls (`metered` wraps the services),
durations of log syncs and store commits, and what the parts count by themselves (`StateMachine`, `Lessor`,
`Proposals`, the links to peers). Round trips to peers are measured by a small call to each, begun at each scrape for
the next one.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, Protocol

from rayplane.control_plane.component_base.metrics import (
    Family,
    Histogram,
    Histograms,
    counter,
    exponential,
    gauge,
    histogram,
)
from rayplane.control_plane.etcd.raft import SoftState
from rayplane.control_plane.etcd.server.config import ETCD_VERSION
from rayplane.control_plane.etcd.server.metrics.process import file_descriptors
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
_DISK_S = exponential(0.001, 2, 14)
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
        self.labels = (name, service, kind)
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
        self._log_sync = Histogram(_DISK_S)
        self._log_bytes = 0
        self._commit = Histogram(_DISK_S)
        self._round_trips = Histograms(exponential(0.0001, 2, 16))
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

    def collect(self) -> Iterable[Family]:
        """Everything. Begins to measure the round trips that the next one shows."""
        for peer in self._links.peers:
            if peer not in self._probes:
                self._probes[peer] = asyncio.get_running_loop().create_task(self._probe(peer))
        yield from self._of_server()
        yield from self._of_health()
        yield from self._of_store()
        yield from self._of_watches_and_leases()
        yield from self._of_disk()
        yield from self._of_peers()
        yield from self._of_calls()
        yield from file_descriptors()

    async def _probe(self, peer: int) -> None:
        try:
            stub = self._links.stub_of(peer)
            began = perf_counter()
            if stub is not None:
                with contextlib.suppress(RpcError):
                    await stub.Members(wire.MembersRequest(), timeout=PROBE_TIMEOUT_S)
                    self._round_trips.observe(perf_counter() - began, f"{peer:x}")
        finally:
            del self._probes[peer]

    def _of_server(self) -> Iterable[Family]:
        raft = self._raft
        status, proposals, reads = raft.status(), raft.proposals, raft.reads
        minor = ETCD_VERSION.rpartition(".")[0]
        yield gauge("etcd_cluster_version", "1 for the cluster's version.", {(minor,): 1}, "cluster_version")
        yield gauge("etcd_server_version", "1 for the server's version.", {(ETCD_VERSION,): 1}, "server_version")
        yield gauge("etcd_server_id", "1 for the member's id.", {(f"{raft.member_id:x}",): 1}, "server_id")
        yield gauge("etcd_server_has_leader", "Whether the member knows a leader.", bool(status.lead))
        yield gauge("etcd_server_is_leader", "Whether the member leads.", raft.is_leader)
        yield gauge("etcd_server_is_learner", "Whether the member is a learner.", raft.is_learner)
        yield counter("etcd_server_leader_changes_seen_total", "Changes of the leader.", self._leader_changes)
        yield gauge("etcd_server_proposals_committed_total", "Index of the last committed entry.", status.commit)
        yield gauge("etcd_server_proposals_applied_total", "Index of the last applied entry.", raft.applied)
        yield gauge("etcd_server_proposals_pending", "Proposals that wait for their outcome.", len(proposals))
        yield counter("etcd_server_proposals_failed_total", "Proposals without a known outcome.", proposals.failed)
        yield counter("etcd_server_slow_read_indexes_total", "Rounds of reads that were asked again.", reads.slow)
        yield counter("etcd_server_read_indexes_failed_total", "Reads that timed out.", reads.failed)
        yield gauge("etcd_server_quota_backend_bytes", "Size that the store may have.", self._quota_bytes)

    def _of_health(self) -> Iterable[Family]:
        yield counter("etcd_server_health_success", "Health checks that succeeded.", self._health[True])
        yield counter("etcd_server_health_failures", "Health checks that failed.", self._health[False])
        last = {(f"/{k}", n): float(ok) for (k, n), ok in sorted(self._last_checks.items())}
        yield gauge("etcd_server_healthcheck", "Outcome of the last check.", last, "type", "name")
        checks = {
            (f"/{k}", n, "success" if ok else "error"): count for (k, n, ok), count in sorted(self._checks.items())
        }
        about = "Checks by their outcome."
        yield counter("etcd_server_healthchecks_total", about, checks, "type", "name", "status")

    def _of_store(self) -> Iterable[Family]:
        machine, store = self._machine, self._machine.store
        size, in_use = store.backend.size()
        ranges = self._ranges.ok if self._ranges is not None else 0
        yield gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the store's file.", size)
        yield gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store in use.", in_use)
        yield counter("etcd_mvcc_put_total", "Keys put.", machine.puts)
        yield counter("etcd_mvcc_delete_total", "Keys deleted.", machine.deletes)
        yield counter("etcd_mvcc_range_total", "Ranges read.", ranges)
        yield counter("etcd_debugging_mvcc_range_total", "Ranges read.", ranges)
        yield counter("etcd_mvcc_txn_total", "Transactions that may write.", machine.txns)
        yield gauge("etcd_debugging_mvcc_keys_total", "Keys.", len(store.index))
        yield gauge("etcd_debugging_auth_revision", "Revision of users and roles.", machine.auth.revision)
        yield gauge("etcd_debugging_mvcc_current_revision", "Revision of the store.", store.revision)
        yield gauge("etcd_debugging_mvcc_compact_revision", "Revision compacted last.", store.compacted_revision)

    def _of_watches_and_leases(self) -> Iterable[Family]:
        watches, lessor = self._watches, self._machine.lessor
        counts = watches.counts()
        yield gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", counts.streams)
        yield gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", counts.watchers)
        yield gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that catch up.", counts.unsynced)
        yield gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait for clients.", counts.pending)
        yield counter("etcd_debugging_mvcc_events_total", "Events sent to clients.", watches.events_sent)
        yield counter("etcd_debugging_lease_granted_total", "Leases granted.", lessor.granted)
        yield counter("etcd_debugging_lease_revoked_total", "Leases revoked.", lessor.revoked)
        yield counter("etcd_debugging_lease_renewed_total", "Leases renewed by this leader.", lessor.renewed)
        yield counter("etcd_debugging_server_lease_expired_total", "Leases that ran out.", lessor.ran_out)

    def _of_disk(self) -> Iterable[Family]:
        yield histogram("etcd_disk_wal_fsync_duration_seconds", "Time to sync the log.", self._log_sync)
        yield gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log.", self._log_bytes)
        yield histogram("etcd_disk_backend_commit_duration_seconds", "Time to commit the store.", self._commit)

    def _of_peers(self) -> Iterable[Family]:
        traffic = self._links.traffic
        peers = {(f"{peer:x}",): peer for peer in self._links.peers}
        local = f"{self._raft.member_id:x}"
        active = {(local, *name): self._links.is_connected(peer) for name, peer in peers.items()}
        sent = {name: traffic.sent_bytes[peer] for name, peer in peers.items()}
        received = {name: traffic.received_bytes[peer] for name, peer in peers.items()}
        failed = {name: traffic.send_failures[peer] for name, peer in peers.items()}
        yield gauge("etcd_network_active_peers", "Whether there is a connection.", active, "Local", "Remote")
        yield counter("etcd_network_peer_sent_bytes_total", "Bytes of entries sent.", sent, "To")
        yield counter("etcd_network_peer_received_bytes_total", "Bytes of entries received.", received, "From")
        yield counter("etcd_network_peer_sent_failures_total", "Broken connections.", failed, "To")
        trips = dict(sorted(self._round_trips.by_labels.items()))
        yield histogram("etcd_network_peer_round_trip_time_seconds", "Time for a call to a peer.", trips, "To")

    def _of_calls(self) -> Iterable[Family]:
        calls, traffic, names = self._calls, self.client_traffic, ("grpc_method", "grpc_service", "grpc_type")
        yield counter("etcd_network_client_grpc_received_bytes_total", "Bytes from clients.", traffic.received)
        yield counter("etcd_network_client_grpc_sent_bytes_total", "Bytes to clients.", traffic.sent)
        yield counter("grpc_server_started_total", "Calls begun.", {c.labels: c.started for c in calls}, *names)
        handled = {("OK", *c.labels): c.ok for c in calls}
        handled |= {(_GO_CODES[code], *c.labels): n for c in calls for code, n in c.failed.items()}
        yield counter("grpc_server_handled_total", "Calls ended, by code.", handled, "grpc_code", *names)
        received = {c.labels: c.received for c in calls}
        yield counter("grpc_server_msg_received_total", "Messages received.", received, *names)
        yield counter("grpc_server_msg_sent_total", "Messages sent.", {c.labels: c.sent for c in calls}, *names)


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
