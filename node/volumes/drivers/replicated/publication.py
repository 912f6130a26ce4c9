"""A replicated volume in use on this node: finds changes, ships them, and knows what is durable.

One task scans the directory every `scan_interval_s` (at once when someone waits at the barrier) and makes a new
generation of what changed. One task per replica brings it to the newest generation, over and over; generations may be
skipped. A generation is durable once a majority of the replicas has committed it or a later one.

A replica that refuses with ABORTED has promised itself to a newer writer: this publication is fenced for good, its
barrier answers errors and `fenced` is set. A replica that fails for `repair_after_s` is replaced: another node gets a
replica, and takes its place in the record once majorities of both the old and the new set hold everything. So is one
that shares its machine with another, once there is room on a machine that has none.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.volumes.drivers.replicated.directory import Directory, VolumeRecord
from rayplane.node.volumes.drivers.replicated.follower import Follower, Target
from rayplane.node.volumes.drivers.replicated.manifest import EMPTY, Difference, Manifest, Version, difference, majority
from rayplane.node.volumes.drivers.replicated.placement import best, doubled, machines_of
from rayplane.node.volumes.drivers.replicated.replica_client import Replica, block_batches
from rayplane.node.volumes.drivers.replicated.timing import ReplicationTiming
from rayplane.node.volumes.errors import Fenced, NoQuorum, PeerError, VolumeError, called
from rayplane.storage.errors import Code

log = logging.getLogger(__name__)

WAITERS_MAX = 1024
"""Barrier calls that may wait at once; further ones are refused."""
UNSTABLE_ROUNDS_MAX = 5
"""Scans of a directory that never rests before it is shipped as it was found, unasked."""
OVERTAKEN_MAX = 20
"""Shipments that changes may overtake while a volume is given back: its pod has ended, and few are left to come."""


class Content(Protocol):
    """Bytes of a publication."""

    async def scan(self) -> tuple[Manifest, bool]:
        """The content now, and whether it is of one moment. Raises OSError."""

    async def block(self, wanted: bytes, path: bytes, offset: int, length: int) -> bytes | None:
        """A block of the last scan; None if it has changed since."""


class Publication:
    """Publication of a volume on this node. `generation` is the newest one found on the replicas when publishing."""

    def __init__(
        self,
        record: VolumeRecord,
        revision: int,
        *,
        generation: int,
        content: Content,
        directory: Directory,
        replica: Callable[[str], Replica],
        timing: ReplicationTiming,
        writer: str = "",
    ) -> None:
        """`writer`: the node that this is on, where the record names none: nobody is to use the volume."""
        self.record = record
        self._writer = writer or record.writer
        self.fenced = asyncio.Event()
        self._revision = revision
        self._content, self._directory, self._replica, self._timing = content, directory, replica, timing
        self._target = Target(Version(record.epoch, generation), {})
        self._first = True
        self._sets: list[tuple[str, ...]] = [record.replicas]  # two while the record changes
        self._followers: dict[str, Follower] = {}
        self._durable_waiters: list[tuple[Version, asyncio.Future[None]]] = []
        self._barrier: list[asyncio.Future[int]] = []
        self._wanted = asyncio.Event()
        self._unstable_rounds = 0
        self._overtaken = 0
        self._reason = ""
        self._loop_task: asyncio.Task[None] | None = None
        self._repair_task: asyncio.Task[None] | None = None
        self._spread_at = 0.0
        """When to look next for replicas that share a machine."""
        self._is_record_known = True
        """Whether a replica that `record` does not name is nobody's: not while another record is written, nor once
        others have theirs."""

    # Life cycle

    async def start(self) -> None:
        """Bring a majority to this epoch; returns once the content is durable. Raises NoQuorum, Fenced."""
        self._spread_at = asyncio.get_running_loop().time() + self._timing.spread_every_s
        for node in self.record.replicas:
            self._follow(node)
        self._loop_task = asyncio.get_running_loop().create_task(self._run())
        await self.sync()

    async def stop(self) -> None:
        """Stop shipping; nothing is waited for."""
        tasks = [self._loop_task, self._repair_task, *(f.task for f in self._followers.values())]
        running = [task for task in tasks if task is not None]
        await cancel_and_wait(*running)
        self._fail_waiters(VolumeError("the volume is being unpublished"))

    async def sync(self) -> int:
        """Make every change present now durable on a majority; the generation that holds them.

        Raises Fenced, NoQuorum, VolumeFull (as PeerError), OSError of the scan.
        """
        self._check_fenced()
        if len(self._barrier) >= WAITERS_MAX:
            raise NoQuorum(f"volume {self.record.volume_id}: {WAITERS_MAX} calls wait for the replicas already")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._barrier.append(done)
        self._wanted.set()
        try:
            async with asyncio.timeout(self._timing.barrier_timeout_s):
                return await done
        except TimeoutError:
            failing = "; ".join(f"{f.replica.node}: {f.error}" for f in self._followers.values() if f.error)
            raise NoQuorum(
                f"volume {self.record.volume_id}: no majority of {', '.join(self.record.replicas)} stored the changes "
                f"within {self._timing.barrier_timeout_s:g} s ({failing or 'they are slow'}); it is retried"
            ) from None

    async def settle(self, is_wanted: Callable[[], bool]) -> None:
        """As `sync`, for as long as a majority may get there: whoever takes the volume next finds what it holds.

        `is_wanted`: whether somebody is to use it here, where all of it is.
        """
        overtaken = self._overtaken
        while True:
            try:
                await self.sync()
                return
            except NoQuorum:
                if is_wanted() or not self._is_in_reach or self._overtaken > overtaken + OVERTAKEN_MAX:
                    raise
                await asyncio.sleep(self._timing.retry_min_s)

    @property
    def version(self) -> Version:
        """The newest generation, durable or not."""
        return self._target.version

    @property
    def manifest(self) -> Manifest:
        """Content of the newest generation."""
        return self._target.manifest

    @property
    def is_busy(self) -> bool:
        """Whether a replica is on its way, as far as nothing keeps it from that."""
        behind = (f for f in self._followers.values() if f.acked < self._target.version)
        return self._repair_task is not None or any(not f.error for f in behind)

    @property
    def _is_in_reach(self) -> bool:
        """Whether no majority has failed for long: a busy machine's replica may fail once, and have all at the next
        try."""
        long = self._timing.repair_after_s
        going = {node for node, f in self._followers.items() if not f.has_failed_for(long)}
        return all(len(going.intersection(nodes)) >= majority(nodes) for nodes in self._sets)

    @property
    def lagging(self) -> dict[str, str]:
        """Replicas that are behind, and why."""
        return {n: f.error for n, f in sorted(self._followers.items()) if f.acked < self._target.version}

    # Finding changes

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._timing.scan_interval_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            waiters, self._barrier = self._barrier, []
            try:
                await self._round(asked=bool(waiters))
            except Exception as e:
                # Whatever it was: without this task nobody's changes would be stored any more.
                if not isinstance(e, OSError):
                    log.exception("a round of volume %s failed", self.record.volume_id)
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(VolumeError(f"the volume's directory cannot be read: {e}"))
                continue
            self._check_durable()  # drops those that gave up
            for waiter in waiters:
                self._answer_when_durable(waiter)
            self._consider_repair()

    async def _round(self, *, asked: bool) -> None:
        """Scan, and make a generation of what changed. The first is made in any case: it seals the epoch."""
        manifest, stable = await self._content.scan()
        if manifest == self._target.manifest and not self._first:
            return
        if not stable and not asked and self._unstable_rounds < UNSTABLE_ROUNDS_MAX:
            self._unstable_rounds += 1
            return
        self._unstable_rounds = 0
        self._first = False
        self._target = Target(Version(self.record.epoch, self._target.version.generation + 1), manifest)
        for follower in self._followers.values():
            follower.wake.set()

    def _answer_when_durable(self, waiter: "asyncio.Future[int]") -> None:
        version = self._target.version

        def answer(durable: "asyncio.Future[None]") -> None:
            if waiter.done() or durable.cancelled():
                return
            error = durable.exception()
            if error is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(version.generation)

        durable = self._when_durable(version)
        durable.add_done_callback(answer)
        # One that has given up waits no more, be there a majority again or not.
        waiter.add_done_callback(lambda _: durable.cancel())

    # Shipping

    def _follow(self, node: str) -> Follower:
        follower = self._followers[node] = Follower(self._replica(node))
        follower.wake.set()
        follower.task = asyncio.get_running_loop().create_task(self._keep_up(follower))
        return follower

    async def _keep_up(self, follower: Follower) -> None:
        """Bring one replica to the newest generation whenever there is a newer one."""
        pauses = Pauses(Backoff(self._timing.retry_min_s, self._timing.retry_max_s))
        while True:
            try:
                async with asyncio.timeout(self._timing.repair_after_s):
                    await follower.wake.wait()
            except TimeoutError:
                if await follower.is_gone():
                    log.warning("volume %s has no replica on %s any more", self.record.volume_id, follower.replica.node)
                    follower.known, follower.acked = None, EMPTY
            follower.wake.clear()
            while follower.acked < self._target.version and not self._first:
                target = self._target
                try:
                    await self._ship(follower, target)
                except Exception as e:
                    if not isinstance(e, (PeerError, OSError)):
                        log.exception("bringing volume %s to %s failed", self.record.volume_id, follower.replica.node)
                    error = e if isinstance(e, PeerError) else PeerError(Code.INTERNAL, f"cannot read a file: {e}")
                    if error.code is Code.ABORTED:
                        self._fence(str(error))
                        return
                    self._failed(follower, error)
                    await asyncio.sleep(pauses.next_s())
                else:
                    follower.succeeded()
                    pauses.reset()
                    self._check_durable()

    def _failed(self, follower: Follower, error: PeerError) -> None:
        follower.failed(error, asyncio.get_running_loop().time())
        full = sum(1 for f in self._followers.values() if f.code is Code.RESOURCE_EXHAUSTED)
        if full >= majority(self.record.replicas):
            # Waiting does not help: whoever waits must hear that the volume is full.
            self._fail_durable_waiters(error)

    async def _ship(self, follower: Follower, target: Target) -> None:
        replica = follower.replica
        if follower.known is None:
            follower.known = await self._meet(replica)
        changes = difference(follower.known.manifest, target.manifest)
        await replica.apply_files(changes, version=target.version)
        for batch in block_batches(changes):
            blocks = await self._blocks(batch, changes)
            if blocks is None:
                self._overtaken += 1
                return  # what is there now comes with the next generation
            await replica.apply_blocks(blocks, version=target.version)
        await replica.commit(base=follower.known.version, version=target.version)
        follower.known, follower.acked = target, target.version

    async def _meet(self, replica: Replica) -> Target:
        """Have a replica promise itself to this epoch, and learn what it holds."""
        try:
            await replica.prepare(self.record.epoch, self._writer)
        except PeerError as e:
            if e.code is not Code.NOT_FOUND:
                raise
            # It lost everything, or is the new one of a repair: it begins empty and counts once it holds all.
            await replica.create(await self._capacity(), again=True)
            await replica.prepare(self.record.epoch, self._writer)
            # What was lost may have been promised to a newer writer, which this one has not heard of: the record has.
            await self._standing()
        return Target(*await replica.manifest())

    async def _capacity(self) -> int:
        """The size of the volume, which may have grown since it was published."""
        return max(self.record.capacity_bytes, (await self._standing())[0].capacity_bytes)

    async def _blocks(self, batch: list[bytes], changes: Difference) -> list[bytes] | None:
        blocks = []
        for wanted in batch:
            path, offset = changes.new_blocks[wanted]
            data = await self._content.block(wanted, path, offset, changes.files[path].block_bytes)
            if data is None:
                self._wanted.set()
                await asyncio.sleep(self._timing.retry_min_s)
                return None
            blocks.append(data)
        return blocks

    # What is durable

    def _is_durable(self, version: Version) -> bool:
        return all(
            sum(1 for node in nodes if node in self._followers and self._followers[node].acked >= version)
            >= majority(nodes)
            for nodes in self._sets
        )

    def _when_durable(self, version: Version) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.fenced.is_set():
            done.set_exception(Fenced(self._reason))
        elif self._is_durable(version):
            done.set_result(None)
        else:
            self._durable_waiters.append((version, done))
        return done

    def _check_durable(self) -> None:
        waiting = []
        for version, done in self._durable_waiters:
            if done.done():
                continue
            if self._is_durable(version):
                done.set_result(None)
            else:
                waiting.append((version, done))
        self._durable_waiters = waiting

    def _fail_durable_waiters(self, error: VolumeError) -> None:
        waiting, self._durable_waiters = self._durable_waiters, []
        for _, done in waiting:
            if not done.done():
                done.set_exception(error)
                done.exception()  # its waiter may be gone

    def _fail_waiters(self, error: VolumeError) -> None:
        self._fail_durable_waiters(error)
        waiting, self._barrier = self._barrier, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(error)

    def _fence(self, reason: str) -> None:
        self._reason = reason
        self.fenced.set()
        self._fail_waiters(Fenced(reason))

    def _check_fenced(self) -> None:
        if self.fenced.is_set():
            raise Fenced(self._reason)

    # Repair

    def _consider_repair(self) -> None:
        """Replace the replica that has failed longest, if it has failed long enough."""
        if self._repair_task is not None or self.fenced.is_set():
            return
        now = asyncio.get_running_loop().time()
        lost = [
            (f.lost_since, node)
            for node, f in self._followers.items()
            if f.lost_since is not None and now - f.lost_since >= self._timing.repair_after_s
        ]
        if lost or now >= self._spread_at:
            self._spread_at = now + self._timing.spread_every_s
            longest = min(lost)[1] if lost else ""
            self._repair_task = asyncio.get_running_loop().create_task(self._repair(longest))

    async def _repair(self, lost: str) -> None:
        """Replace a replica: the lost one, or else one that shares its machine, if another machine has room."""
        joining = ""
        try:
            leaving = lost or await self._doubled()
            joining = await self._candidate(leaving, apart=not lost) if leaving else ""
            if joining:
                await self._replace(leaving, joining)
        except (VolumeError, TimeoutError):
            pass  # the lost one still fails, so it is tried again
        finally:
            # Where it is not known which record stands, that may name the new one already.
            if joining and joining not in self.record.replicas and self._is_record_known:
                await self._forget(joining)
            self._repair_task = None

    async def _doubled(self) -> str:
        """A replica that should be on another machine. Looked for often: until one is, the other's loss is the loss of
        both."""
        found = {node: await called(self._directory.address(node)) for node in self.record.replicas}
        return doubled(self.record.replicas, self._writer, machines_of(found))

    async def _candidate(self, leaving: str, *, apart: bool) -> str:
        """The best ready node for a replica in place of one; empty if none has room.

        `apart`: only on a machine that has none of the others.
        """
        machines = machines_of(await called(self._directory.nodes()))
        others = [node for node in self.record.replicas if node != leaving]
        used = {machines.get(node) for node in others}
        free: dict[str, int] = {}
        for node in sorted(machines.keys() - self._followers.keys()):
            if apart and machines[node] in used:
                continue
            with contextlib.suppress(PeerError):
                size = await self._replica(node).free_bytes()
                if size >= self.record.capacity_bytes:
                    free[node] = size
        return best(free, machines, others) if free else ""

    async def _replace(self, lost: str, joining: str) -> None:
        follower = self._follow(joining)
        replicas = tuple(joining if node == lost else node for node in self.record.replicas)
        # From here on both sets must agree, so that whichever record is read finds all that was promised.
        self._sets = [self.record.replicas, replicas]
        before = self._target.version
        try:
            while follower.acked < before:
                self._check_progress(follower)
                await asyncio.sleep(self._timing.retry_min_s)
            async with asyncio.timeout(self._timing.barrier_timeout_s):
                await self._when_durable(before)
            await self._record(replace(self.record, replicas=replicas))
        finally:
            self._sets = [self.record.replicas]
            self._check_durable()
        if lost not in self.record.replicas:
            await self._forget(lost)

    def _check_progress(self, follower: Follower) -> None:
        """Raises TimeoutError for one that has failed long, whatever with. A copy may take as long as it takes."""
        self._check_fenced()
        if follower.has_failed_for(self._timing.repair_after_s):
            raise TimeoutError(f"node {follower.replica.node} gets no replica: {follower.error}")

    async def _record(self, record: VolumeRecord) -> None:
        """Write the record; returns when it is known which one stands, however long that takes."""
        self._is_record_known = False
        try:
            revision = await called(self._directory.write(record, self._revision))
        except PeerError:
            revision = None
        if revision is not None:
            self.record, self._revision, self._is_record_known = record, revision, True
            return
        while True:
            try:
                self.record, self._revision = await self._standing()
                self._is_record_known = True
                return
            except PeerError as e:
                if e.code is Code.ABORTED:
                    self._fence(str(e))
                    return
                await asyncio.sleep(self._timing.retry_max_s)

    async def _standing(self) -> tuple[VolumeRecord, int]:
        """The record as it stands, and its revision. Raises PeerError, with ABORTED once it is another's."""
        found = await called(self._directory.read(self.record.volume_id))
        is_deleted = found is None or found[0].deleted
        self._is_record_known |= is_deleted  # whoever deletes it knows of no others than the record's
        if found is None or is_deleted or found[0].epoch != self.record.epoch:
            raise PeerError(Code.ABORTED, f"volume {self.record.volume_id} was published on another node or deleted")
        return found

    async def _forget(self, node: str) -> None:
        """Stop following a node that isn't in the record, and free its space if it answers."""
        follower = self._followers.pop(node, None)
        if follower is None:
            return
        await cancel_and_wait(follower.task)
        # It looks for replicas it should not have when it comes back, and keeps what a newer writer has taken.
        with contextlib.suppress(PeerError):
            await follower.replica.delete(self.record.epoch)
