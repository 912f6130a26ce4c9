"""One etcd member: its life, and what its services ask of it.

Owns the servers, the raft tick, proposals, linearizable reads, lease time and membership requests. The order of
things between log, store and peers is the driver's.

Concurrency: everything runs on one loop. A request is the task of its RPC; it waits on one future. Leases and limits
are looked after by the tick. Long-lived tasks: the driver's loop, one per peer, and publishing until it is done.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any

from google.protobuf.message import Message

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.callers import PEER_METHODS
from rayplane.control_plane.etcd.server import errors
from rayplane.control_plane.etcd.server.bootstrap.recovery import (
    LOST_FILE,
    BackendFactory,
    default_backend,
    recover,
    take_lock,
)
from rayplane.control_plane.etcd.server.codec import Kind, encode_request
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.metrics.metrics import Metrics
from rayplane.control_plane.etcd.server.replication.driver import Driver
from rayplane.control_plane.etcd.server.replication.leadership import hand_over
from rayplane.control_plane.etcd.server.replication.membership_changes import Reconfiguration
from rayplane.control_plane.etcd.server.replication.pending import Proposal, Proposals, ReadRounds
from rayplane.control_plane.etcd.server.replication.transport import DESCRIPTOR as PEER
from rayplane.control_plane.etcd.server.replication.transport import PeerService, PeerTransport
from rayplane.control_plane.etcd.server.services.auth import Callers
from rayplane.control_plane.etcd.server.services.kv import services_of
from rayplane.control_plane.etcd.server.services.quota import Quota
from rayplane.control_plane.etcd.server.services.reading import Reading
from rayplane.control_plane.etcd.server.state_machine.auth.store import INTERNAL, as_caller
from rayplane.control_plane.etcd.server.state_machine.membership import address_of
from rayplane.control_plane.etcd.server.state_machine.watchable_store import WatchHub
from rayplane.control_plane.etcd.server.upkeep.corruption_check import CorruptionCheck
from rayplane.control_plane.etcd.server.upkeep.lease_clock import LeaseClock
from rayplane.control_plane.etcd.server.upkeep.publication import Presence, first_addresses
from rayplane.control_plane.etcd.server.web.endpoints import Web
from rayplane.control_plane.rpc import Context, Network, Server, Service, each
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.env import DiskError, Env
from rayplane.storage.mvcc import Change

log = logging.getLogger(__name__)

#: Election timeouts without a leader after which streams that demand one are ended.
LEADERLESS_TIMEOUTS = 3


class Member:
    """See the package. `start` returns when it listens; `ready` when it has published itself through the log."""

    def __init__(
        self,
        config: MemberConfig,
        env: Env,
        network: Network,
        *,
        peer_network: Network | None = None,
        backend_factory: BackendFactory = default_backend,
    ) -> None:
        self.config = config
        self.member_id = 0
        self.cluster_id = 0
        self.failure: BaseException | None = None
        self.removed = False
        self._env = env
        self._network = network
        self._peer_network = peer_network or network
        self._backend_factory = backend_factory
        self._context = contextlib.AsyncExitStack()
        self._servers: list[Server] = []
        # Dicts keep their order where sets do not: the simulation must be able to repeat everything.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._published = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopping = False
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._tick_due = 0.0
        self._tick_skipped = False
        self._leaderless_ticks = 0
        self._leader_changed = asyncio.Event()
        self._request_id = env.rng.getrandbits(62)
        self.client_url = ""

    # Life

    async def start(self) -> None:
        """Open or make the data directory and listen. Raises RefusedToStart, LockHeld, OSError, storage errors."""
        self.config.validate()
        self._loop = asyncio.get_running_loop()
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise

    async def _start(self) -> None:
        config = self.config
        await take_lock(self._context, self._env.disk)
        recovery = await recover(config, self._env, self._peer_network, self._backend_factory, self._notify)
        self.member_id, self.cluster_id = recovery.identity.member_id, recovery.identity.cluster_id
        self.machine, self.store = recovery.machine, recovery.machine.store
        self.lessor = self.machine.lessor
        self.leases = LeaseClock(self)
        self.quota = Quota(self)
        settings = raft.Config(
            id=self.member_id, election_ticks=config.election_ticks, applied=self.store.applied.index
        )
        self.node = raft.RawNode(settings, recovery.storage, self._env.rng)
        self.callers = Callers(self, self._env)
        self.reading = Reading(self)
        self.metrics = Metrics(self)
        recovery.wal.on_sync, self.store.on_commit = self.metrics.log_synced, self.metrics.store_committed
        self._context.push_async_callback(self.metrics.stop)
        self.hub = WatchHub(self.store, self.header, config.max_message_bytes)
        self._driver = Driver(
            config,
            recovery,
            self.node,
            on_leader=self._on_leader,
            on_members=self._on_members,
            on_restored=self._on_restored,
            now=self._loop.time,
            first_read=self._env.rng.getrandbits(60),
        )
        self._context.push_async_callback(self._driver.stop)
        self._reconfiguration = Reconfiguration(self, self._driver.proposals)
        self._presence = Presence(self, await first_addresses(config, self._peer_network, recovery))
        self.transport = self._driver.transport = PeerTransport(
            self._peer_network,
            self,
            member_id=self.member_id,
            cluster_id=self.cluster_id,
            queue_max=config.peer_queue_messages,
        )
        self._context.push_async_callback(self.transport.stop)
        corruption = CorruptionCheck(self, self._peer_network)
        if config.initial_corrupt_check:
            await corruption.before_serving()
        await self._serve()
        self._presence.connect()
        self._spawn(self._drive())
        if config.corrupt_check_s:
            self._spawn(corruption.run())
        self._spawn(self._run_presence())
        self._tick_due = self._loop.time() + config.tick_s
        self._ticker = self._loop.call_at(self._tick_due, self._tick)
        self._campaign_alone()

    async def _serve(self) -> None:
        config = self.config
        peer_service = Service(PEER, PeerService(self), callers=each(config.peer_callers, *PEER_METHODS.split()))
        self._servers.append(await self._peer_network.serve(config.peer_address, [peer_service]))
        services = self.metrics.metered(services_of(self))
        web = Web(self, services, self.metrics)
        client_server = await self._network.serve(config.client_address, services, web=web)
        self.metrics.client_traffic = client_server.traffic
        self._servers.append(client_server)
        self.client_url = config.advertise_client_url or f"{config.scheme}://{client_server.address}"

    @property
    def client_address(self) -> str:
        """host:port that clients reach this member at."""
        return address_of(self.client_url)

    async def ready(self) -> None:
        """Wait until the cluster has a leader and this member has published itself."""
        await self._published.wait()

    async def wait_stopped(self) -> None:
        """Wait until the member is stopped, be it by itself (see `removed`, `failure`)."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """End all tasks, close the servers, the store and the log. Waits if it is under way already."""
        if self._stopping:
            await self._stopped.wait()
            return
        self._stopping = True
        if isinstance(self.failure, raft.LostEntries):
            with contextlib.suppress(DiskError):
                await self._env.disk.write_atomic(LOST_FILE, str(self.failure).encode())
        if self._servers:
            if self.is_leader and not self.removed and self.failure is None:
                await hand_over(self)
            self._driver.proposals.fail_all(errors.Stopped)
            self._driver.reads.fail_all(errors.Stopped)
            self.hub.fail_all(errors.Stopped())
        await self._end()

    async def abort(self) -> None:
        """End as a killed process would: nothing is answered, committed or closed in order."""
        self._stopping = True
        if hasattr(self, "_driver"):
            self._driver.abandon()
        await self._end()

    async def _end(self) -> None:
        self._stopping = True
        if self._ticker is not None:
            self._ticker.cancel()
        for server in self._servers:
            await server.stop()
        tasks = [t for t in self._tasks if t is not asyncio.current_task()]
        await cancel_and_wait(*tasks)
        try:
            await self._context.aclose()
        finally:
            self._stopped.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._fail(error)  # what the other tasks rely on is not done any more

    async def _drive(self) -> None:
        try:
            await self._driver.run()
        except Exception as e:
            self._fail(e)

    def _fail(self, error: Exception) -> None:
        """Its log, its store or what it knows is broken: a member that cannot go on must not look alive."""
        if self._driver.abandoned or self.failure is not None:
            return
        trace = None if isinstance(error, raft.LostEntries) else error
        log.critical("member %s cannot go on: %s", self.config.name, error, exc_info=trace)
        self.failure = error
        self._spawn(self.stop())

    async def _run_presence(self) -> None:
        await self._presence.publish()
        self._published.set()

    async def set_attributes(self, attributes: wire.Attributes) -> None:
        await self.propose(Kind.ATTRIBUTES, attributes)

    # Peers and membership

    def _on_members(self) -> None:
        self._presence.connect()
        if self.machine.members.is_removed(self.member_id):
            # A leader tells the others of the commit before it goes.
            self._loop.call_later(self.election_timeout_s, self.told_removed)
        self._campaign_alone()

    def told_removed(self) -> None:
        """This member was removed from the cluster: it stops for good."""
        if not self._stopping and not self.removed:
            log.warning("member %s was removed from the cluster and stops", self.config.name)
            self.removed = True
            self._spawn(self.stop())

    def _campaign_alone(self) -> None:
        """A lone voter need not wait for an election timeout."""
        if self.machine.conf_state.voters == (self.member_id,) and self.leader_id == raft.NONE and self.node.campaign():
            self.wake()

    def unreachable(self, peer: int) -> None:
        if not self._stopping:
            self.node.report_unreachable(peer)
            self._driver.proposals.fail_forwarded(peer)

    def gone(self, peer: int) -> None:
        """Nothing listens any more where `peer` did: if it led, the others need not wait for its silence."""
        if not self._stopping and self.node.forget_leader(peer):
            self._driver.wake()

    def members(self) -> list[pb.Member]:
        return self.machine.members.all()

    def removed_members(self) -> list[int]:
        return self.machine.members.removed

    @property
    def proposals(self) -> Proposals:
        """Those that wait for their outcome."""
        return self._driver.proposals

    @property
    def reads(self) -> ReadRounds:
        """Those that wait for a quorum's word."""
        return self._driver.reads

    @property
    def reconfiguration(self) -> Reconfiguration:
        return self._reconfiguration

    async def promote_member(self, member_id: int, *, forward: bool) -> list[pb.Member]:
        return await self._reconfiguration.promote(member_id, forward=forward)

    def propose_change(self, change: raft.ConfChange) -> None:
        self._reconfiguration.propose(change)

    # Input from peers

    def receive(self, messages: list[raft.Message], proposals: Iterable[bytes]) -> None:
        with self._vital():
            self._driver.step(messages)
        for data in proposals:
            # What cannot be taken is dropped: the proposer learns it from the next leader's first entry.
            with contextlib.suppress(raft.ProposalDropped):
                self.node.propose(data)
        self._driver.wake()

    async def receive_snapshot(self, message: raft.Message, chunks: AsyncIterator[bytes]) -> None:
        with self._vital():
            await self._driver.receive_snapshot(message, chunks)

    @contextlib.contextmanager
    def _vital(self) -> Iterator[None]:
        """Input to raft: what contradicts all that it knows ends the member, once, and not only one call."""
        if self.failure is not None:
            raise errors.Stopped
        try:
            yield
        except raft.InvariantViolated as e:
            self._fail(e)
            raise errors.Stopped from e

    def acknowledged(self, member_id: int, term: int) -> tuple[int, int]:
        return self.node.acknowledged(member_id, term)

    # Time

    def _tick(self) -> None:
        # Set anew from now: a stalled loop must not make up for lost ticks in a burst, that would look like silence.
        now, due, tick_s = self._loop.time(), self._tick_due, self.config.tick_s
        self._tick_due = now + tick_s
        self._ticker = self._loop.call_at(self._tick_due, self._tick)
        if now - due > tick_s and not self.is_leader and not self._tick_skipped:
            # This loop stood still: what others sent meanwhile, the leader's heartbeat perhaps, is read before the
            # silence is counted. Only every other time: a loop that always is late must still find a lost leader.
            self._tick_skipped = True
            return
        self._tick_skipped = False
        self._ticks += 1
        try:
            self._driver.tick(now)
            self._hasten_first_election()
        except Exception as e:
            self._fail(e)
            return
        if self.node.leader == raft.NONE:
            self._leaderless_ticks += 1
            if self._leaderless_ticks == LEADERLESS_TIMEOUTS * self.config.election_ticks:
                self.hub.fail_all(errors.NoLeader(), only_with_leader=True)
        else:
            self._leaderless_ticks = 0
            self._submit_parked()
        self.leases.tick(now)
        if self._ticks % max(1, round(self.config.progress_notify_interval_s / self.config.tick_s)) == 0:
            self.hub.note_progress()

    def _hasten_first_election(self) -> None:
        """A new cluster's first founder stands at once instead of after a timeout; pre-vote makes it harmless."""
        voters = self.machine.conf_state.voters
        if self.node.term == 1 and self.leader_id == raft.NONE and voters[:1] == (self.member_id,) and self._ticks % 2:
            self.node.campaign()

    def propose_unwatched(self, kind: Kind, request: Message) -> None:
        """For what is repeated anyway when it is lost."""
        if self.machine.auth.enabled:
            kind, request = as_caller(kind, request, INTERNAL)
        with contextlib.suppress(raft.ProposalDropped):
            self.node.propose(encode_request(0, kind, request))
            self._driver.wake()

    def _on_leader(self, state: raft.SoftState) -> None:
        self.leases.lead(state.role is raft.Role.LEADER)
        self.metrics.leader_seen(state.lead)
        self._leader_changed.set()
        self._leader_changed = asyncio.Event()
        if state.lead != raft.NONE:
            self._submit_parked()
            self._driver.reads.retry()

    def wake(self) -> None:
        self._driver.wake()

    async def leader_changed(self) -> None:
        """Wait for another leader, or for the loss of one."""
        await self._leader_changed.wait()

    def _on_restored(self) -> None:
        self.hub.resync()
        self._on_members()

    def _notify(self, revision: int, events: list[Change]) -> None:
        self.hub.notify(revision, events)

    @property
    def election_timeout_s(self) -> float:
        return self.config.election_ticks * self.config.tick_s

    # Requests

    def random_bits(self, count: int) -> int:
        return self._env.rng.getrandbits(count)

    def next_request_id(self) -> int:
        self._request_id = (self._request_id + 1) & ((1 << 63) - 1) or 1
        return self._request_id

    async def propose(self, kind: Kind, request: Message, context: Context | None = None) -> Any:
        """Put a request through the log and return its response, with the header's revision set.

        Waits for a leader if there is none. Raises EtcdError: the request's own refusal, or that its outcome is
        unknown (UNAVAILABLE). `context`: the call that it answers, in whose name it is.
        """
        if context is not None and self.machine.auth.enabled:
            kind, request = await self.callers.sign(kind, request, context)
        proposals = self._driver.proposals
        if self._stopping:
            raise errors.Stopped
        if len(proposals) >= self.config.max_pending_proposals:
            raise errors.TooManyRequests
        data = encode_request(request_id := self.next_request_id(), kind, request)
        if len(data) > self.config.max_message_bytes:
            raise errors.RequestTooLarge
        deadline = self._loop.time() + self.config.request_timeout_s
        proposal = Proposal(data, request, self._loop.create_future(), deadline)
        proposals.add(request_id, proposal)
        self._submit(proposal)
        try:
            return await proposal.future
        except asyncio.CancelledError:
            proposals.take(request_id)
            raise

    def _submit(self, proposal: Proposal) -> None:
        try:
            self.node.propose(proposal.data)
        except raft.ProposalDropped:
            leader = self.node.leader
            if leader in (raft.NONE, self.member_id) or not self.transport.propose(leader, proposal.data):
                return
            proposal.forwarded_to = leader
        else:
            self._driver.wake()
        proposal.term = self.node.term

    def _submit_parked(self) -> None:
        for proposal in self._driver.proposals.parked():
            self._submit(proposal)

    async def barrier(self) -> None:
        """Return when the applied state is linearizable with respect to the call. Raises Timeout, Stopped."""
        if self._stopping:
            raise errors.Stopped
        future: asyncio.Future[None] = self._loop.create_future()
        self._driver.reads.add(future, self._loop.time() + self.config.request_timeout_s)
        await future

    async def hash_kv(self, revision: int) -> pb.HashKVResponse:
        """The hash of all history up to a revision (0: now). Raises EtcdError."""
        try:
            value, compacted, hashed = await self.store.hash_kv_gently(revision)
        except Exception as e:
            raise errors.from_store(e) from None
        header = self.header(self.store.revision)
        return pb.HashKVResponse(header=header, hash=value, compact_revision=compacted, hash_revision=hashed)

    def header(self, revision: int) -> pb.ResponseHeader:
        return pb.ResponseHeader(
            cluster_id=self.cluster_id,
            member_id=self.member_id,
            revision=revision,
            raft_term=self.node.term,
        )

    @property
    def is_leader(self) -> bool:
        return self.node.is_leader

    @property
    def leader_id(self) -> int:
        """0 while no leader is known."""
        return self.node.leader

    @property
    def is_learner(self) -> bool:
        return self.member_id in self.machine.conf_state.learners

    @property
    def applied(self) -> int:
        return self._driver.applied
