"""One etcd member: its parts, put together in order, and its life.

    state machine    what the log has made                          from the data directory, by `bootstrap`
    replication      the driver that owns raft, its ways in
    upkeep           what happens by itself
    services         what clients and the other members ask, on their ports

Owns starting, stopping and giving up; asks nothing of raft itself.

Concurrency: everything runs on one loop. A request is the task of its RPC; it waits on one future. Long-lived tasks:
the driver's loop, one per peer, and publishing until it is done.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.bootstrap.recovery import (
    LOST_FILE,
    Recovery,
    recover,
    take_lock,
)
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.metrics.metrics import Metrics
from rayplane.control_plane.etcd.server.replication.driver import Driver
from rayplane.control_plane.etcd.server.replication.leadership import Leadership
from rayplane.control_plane.etcd.server.replication.membership_changes import MembershipChanger
from rayplane.control_plane.etcd.server.replication.proposals import Proposer
from rayplane.control_plane.etcd.server.replication.transport import PeerTransport
from rayplane.control_plane.etcd.server.services.auth import AuthService
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.etcd.server.services.cluster import ClusterService
from rayplane.control_plane.etcd.server.services.contest import Contest
from rayplane.control_plane.etcd.server.services.convoys import ConvoysService
from rayplane.control_plane.etcd.server.services.election import ElectionService
from rayplane.control_plane.etcd.server.services.kv import KVService
from rayplane.control_plane.etcd.server.services.lease import LeaseService
from rayplane.control_plane.etcd.server.services.lock import LockService
from rayplane.control_plane.etcd.server.services.maintenance import MaintenanceService
from rayplane.control_plane.etcd.server.services.peer import PeerService
from rayplane.control_plane.etcd.server.services.quota import Quota
from rayplane.control_plane.etcd.server.services.ranges import Ranges
from rayplane.control_plane.etcd.server.services.standings import StandingsService
from rayplane.control_plane.etcd.server.services.table import client_services, peer_service
from rayplane.control_plane.etcd.server.services.watch import WatchService
from rayplane.control_plane.etcd.server.state_machine.hashing import Hasher
from rayplane.control_plane.etcd.server.state_machine.membership import address_of
from rayplane.control_plane.etcd.server.state_machine.watchable_store import WatchableStore
from rayplane.control_plane.etcd.server.upkeep.addresses import Addresses, first_addresses
from rayplane.control_plane.etcd.server.upkeep.corruption_check import CorruptionCheck
from rayplane.control_plane.etcd.server.upkeep.lease_clock import LeaseClock
from rayplane.control_plane.etcd.server.upkeep.level_rise import LevelRise
from rayplane.control_plane.etcd.server.upkeep.ticker import Ticker, every
from rayplane.control_plane.etcd.server.web.health import Health
from rayplane.control_plane.rpc import Network, Server, Service, WebHandler
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import DiskError, Env

log = logging.getLogger(__name__)


class Member:
    """A member, see the package.

    `start` returns when it listens; `ready` when it has published itself through the log.
    """

    def __init__(
        self, config: MemberConfig, env: Env, network: Network, *, peer_network: Network | None = None
    ) -> None:
        self.config = config
        self.member_id = 0
        self.cluster_id = 0
        self.client_url = ""
        self.failure: BaseException | None = None
        self.removed = False
        self._env = env
        self._network = network
        self._peer_network = peer_network or network
        # What was begun, to be ended in the opposite order.
        self._context = contextlib.AsyncExitStack()
        # Dicts keep their order where sets do not: the simulation must be able to repeat everything.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._published = asyncio.Event()
        self._stopped = asyncio.Event()
        self._serving = self._stopping = self._aborted = False

    # Life

    async def start(self) -> None:
        """Open or make the data directory and listen. Raises RefusedToStart, LockHeld, OSError, storage errors."""
        self.config.validate()
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise

    async def _start(self) -> None:
        first_request = self._env.rng.getrandbits(62)
        await take_lock(self._context, self._env.disk)
        recovery = await recover(self.config, self._env, self._peer_network)
        self._replicate(recovery, first_request)
        self._look_after(recovery)
        first = await first_addresses(self.config, self._peer_network, recovery)
        self._addresses = Addresses(
            self.config,
            self.member_id,
            self.machine.members,
            proposer=self._proposer,
            links=self.transport,
            first=first,
        )
        if self.config.initial_corrupt_check:
            await self._corruption_check.before_serving()
        self._context.push_async_callback(self._end_tasks)
        await self._serve()
        self._run()

    def _replicate(self, recovery: Recovery, first_request: int) -> None:
        """What the log has made, the driver that goes on with it, and the ways into the log."""
        config, machine = self.config, recovery.machine
        self.member_id, self.cluster_id = recovery.identity.member_id, recovery.identity.cluster_id
        self.machine, self.store = machine, machine.store
        self.transport = PeerTransport(
            self._peer_network,
            member_id=self.member_id,
            cluster_id=self.cluster_id,
            queue_max=config.peer_queue_messages,
        )
        loop = asyncio.get_running_loop()
        self.driver = Driver(config, recovery, self.transport, self._env.rng, now=loop.time, fail=self._fail)
        self._context.push_async_callback(self._stop_driver)
        self._context.push_async_callback(self.transport.stop)
        self.transport.observer = self.driver
        self._proposer = Proposer(config, self.driver, self.transport, machine.auth, first_request=first_request)
        self.leadership = Leadership(config, self.driver, machine)
        self._changes = MembershipChanger(config, self.driver, self._proposer, self.transport, machine.members)
        self.watches = WatchableStore(self.store, self.driver.header, config.max_message_bytes)
        machine.notify = self.watches.notify

    def _look_after(self, recovery: Recovery) -> None:
        """What happens by itself, and what is measured."""
        config, driver, machine = self.config, self.driver, self.machine
        self._hasher = Hasher(self.store, driver.header)
        self._lease_clock = LeaseClock(
            config,
            driver,
            machine.lessor,
            proposer=self._proposer,
            reads=driver.reads,
            peers=self.transport,
            chance=self._env.rng.getrandbits,
        )
        self._corruption_check = CorruptionCheck(
            config,
            driver,
            machine,
            hasher=self._hasher,
            proposer=self._proposer,
            reads=driver.reads,
            network=self._peer_network,
        )
        self._level_rise = LevelRise(
            config,
            driver,
            machine.level,
            machine.members,
            proposer=self._proposer,
            peers=self.transport,
            disk=self._env.disk,
            mark=recovery.format,
        )
        self.metrics = Metrics(driver, machine, self.watches, self.transport, quota_bytes=config.quota_bytes)
        recovery.wal.on_sync, self.store.on_commit = self.metrics.log_synced, self.metrics.store_committed
        self._context.push_async_callback(self.metrics.stop)

    async def _serve(self) -> None:
        """Answer the other members, then clients."""
        config, driver, machine, proposer = self.config, self.driver, self.machine, self._proposer
        answers = PeerService(
            driver,
            traffic=self.transport,
            members=machine.members,
            changes=self._changes,
            proposer=proposer,
            lease_time=self._lease_clock,
            hasher=self._hasher,
            level=machine.level,
            build=config.build,
        )
        await self._listen(self._peer_network, config.peer_address, [peer_service(config, answers)])
        callers = Callers(config, self._env, machine, proposer=proposer, reads=driver.reads)
        ranges = Ranges(driver, machine, driver.reads, callers)
        services = self.metrics.metered(client_services(config, self._handlers(callers, ranges)))
        self.health = Health(driver, machine.alarms, ranges, self.metrics)
        client_server = await self._listen(self._network, config.client_address, services, self._web(services))
        self.metrics.client_traffic = client_server.traffic
        self.client_url = config.advertise_client_url or f"{config.scheme}://{client_server.address}"

    def _web(self, services: Sequence[Service]) -> WebHandler:
        """What answers HTTP/1.1: imported when somebody asks, as most members are never asked."""
        health, metrics, callers = self.health, self.metrics, self.config.client_callers

        @functools.cache
        def made() -> WebHandler:
            from rayplane.control_plane.etcd.server.web.endpoints import Web

            return Web(services, health, metrics, callers)

        return lambda request: made()(request)

    async def _listen(
        self, network: Network, address: str, services: Sequence[Service], web: WebHandler | None = None
    ) -> Server:
        server = await network.serve(address, services, web=web)
        self._context.push_async_callback(server.stop)
        return server

    def _handlers(self, callers: Callers, ranges: Ranges) -> dict[str, Any]:
        """The services of clients, by name."""
        config, driver, machine, proposer = self.config, self.driver, self.machine, self._proposer
        reads, quota = driver.reads, Quota(config.quota_bytes, self.member_id, machine, proposer)
        kv = KVService(
            driver, callers, machine, config=config, ranges=ranges, proposer=proposer, reads=reads, quota=quota
        )
        watch = WatchService(driver, callers, self.watches)
        lease = LeaseService(driver, callers, machine, lease_clock=self._lease_clock, reads=reads, quota=quota)
        contest = Contest(kv, watch, lease)
        return {
            "KV": kv,
            "Watch": watch,
            "Lease": lease,
            "Cluster": ClusterService(driver, callers, machine, changes=self._changes, reads=reads),
            "Maintenance": MaintenanceService(
                driver,
                callers,
                machine,
                proposer=proposer,
                reads=reads,
                leadership=self.leadership,
                hasher=self._hasher,
                quota_bytes=config.quota_bytes,
            ),
            "Auth": AuthService(driver, callers, machine, proposer=proposer, reads=reads),
            "Lock": LockService(driver, callers, self.store, contest),
            "Election": ElectionService(driver, callers, self.store, contest),
            "Standings": StandingsService(driver, self.store),
            "Convoys": ConvoysService(kv, machine.level, proposer),
        }

    def _run(self) -> None:
        """Everybody is told of what concerns them, and time begins to pass."""
        driver, leadership, watches = self.driver, self.leadership, self.watches
        driver.on_leader += [
            self._lease_clock.leader_seen,
            self.metrics.leader_seen,
            leadership.leader_seen,
            self._proposer.leader_seen,
            driver.reads.leader_seen,
        ]
        driver.on_leader.append(lambda state: self._level_rise.look())
        driver.on_restored += [watches.resync]
        driver.on_members += [self._addresses.connect, self._leave_if_removed, leadership.campaign_alone]
        driver.on_removed += [self._removed]
        leadership.on_leaderless += [lambda: watches.fail_all(errors.NoLeader(), only_with_leader=True)]
        self._addresses.connect()
        self._spawn(driver.run())
        self._spawn(self._publish())
        self._spawn(self._level_rise.run())
        if self.config.corrupt_check_s:
            self._spawn(self._corruption_check.run())
        progress = every(round(self.config.progress_notify_interval_s / self.config.tick_s), watches.note_progress)
        steps = (driver.tick, leadership.tick, self._proposer.tick, self._lease_clock.tick, progress)
        self.ticker = Ticker(self.config.tick_s, steps, leads=lambda: driver.is_leader, fail=self._fail)
        self.ticker.start()
        self._context.callback(self.ticker.stop)
        self._context.callback(self._drain)
        self._serving = True
        leadership.campaign_alone()

    async def _publish(self) -> None:
        await self._addresses.publish(self.client_url)
        self._published.set()

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

    # The end

    async def stop(self) -> None:
        """End all tasks, close the servers, the store and the log. Waits if it is under way already."""
        if self._stopping:
            await self._stopped.wait()
            return
        self._stopping = True
        if isinstance(self.failure, raft.LostEntries):
            with contextlib.suppress(DiskError):
                await self._env.disk.write_atomic(LOST_FILE, str(self.failure).encode())
        if self._serving:
            self._drain()
            if self.is_leader and not self.removed and self.failure is None:
                await self.leadership.hand_over()
            self.driver.proposals.fail_all(errors.Stopped)
            self.driver.reads.fail_all(errors.Stopped)
            self.watches.fail_all(errors.Stopped())
        await self._end()

    async def abort(self) -> None:
        """End as a killed process would: nothing is answered, committed or closed in order."""
        self._aborted = True
        await self._end()

    async def _end(self) -> None:
        self._stopping = True
        try:
            await self._context.aclose()
        finally:
            self._stopped.set()

    def _drain(self) -> None:
        """Take no more requests; what is under way may come to its end."""
        self._proposer.drain()
        self.driver.reads.drain()

    async def _end_tasks(self) -> None:
        tasks = [t for t in self._tasks if t is not asyncio.current_task()]
        await cancel_and_wait(*tasks)

    async def _stop_driver(self) -> None:
        await self.driver.stop(in_order=not self._aborted)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._fail(error)  # what the other tasks rely on is not done any more

    def _fail(self, error: Exception) -> None:
        """Its log, its store or what it knows is broken: a member that cannot go on must not look alive."""
        if self._aborted or self.failure is not None:
            return
        trace = None if isinstance(error, raft.LostEntries) else error
        log.critical("member %s cannot go on: %s", self.config.name, error, exc_info=trace)
        self.failure = error
        self._spawn(self.stop())

    def _leave_if_removed(self) -> None:
        if self.machine.members.is_removed(self.member_id):
            # A leader tells the others of the commit before it goes.
            asyncio.get_running_loop().call_later(self.config.election_timeout_s, self._removed)

    def _removed(self) -> None:
        """This member was removed from the cluster: it stops for good."""
        if not self._stopping and not self.removed:
            log.warning("member %s was removed from the cluster and stops", self.config.name)
            self.removed = True
            self._spawn(self.stop())

    # Where it stands

    @property
    def term(self) -> int:
        return self.driver.term

    @property
    def is_leader(self) -> bool:
        return self.driver.is_leader

    @property
    def leader_id(self) -> int:
        """0 while no leader is known."""
        return self.driver.leader_id

    @property
    def applied(self) -> int:
        """Index of the last entry applied."""
        return self.driver.applied

    async def leader_changed(self) -> None:
        """Wait for another leader, or for the loss of one."""
        await self.leadership.leader_changed()
