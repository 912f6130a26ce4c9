"""The replicated backend: a volume's bytes live on several nodes, and follow the pod to whichever node it runs on."""

import asyncio
import contextlib
import hashlib
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.volumes.backend import Published, Snapshot, Source, Usage, VolumeInfo, check_volume
from rayplane.node.volumes.drivers.copying import Copies
from rayplane.node.volumes.drivers.replicated.barrier import SyncBarrier, socket_directory
from rayplane.node.volumes.drivers.replicated.directory import Directory, VolumeRecord
from rayplane.node.volumes.drivers.replicated.duplicate import ship
from rayplane.node.volumes.drivers.replicated.manifest import Version
from rayplane.node.volumes.drivers.replicated.placement import best, machines_of
from rayplane.node.volumes.drivers.replicated.publication import Publication
from rayplane.node.volumes.drivers.replicated.quorum import newest, prepare
from rayplane.node.volumes.drivers.replicated.replica_client import Replica, Stubs
from rayplane.node.volumes.drivers.replicated.replica_store import ReplicaStore
from rayplane.node.volumes.drivers.replicated.timing import ReplicationTiming
from rayplane.node.volumes.drivers.replicated.tree import measure
from rayplane.node.volumes.drivers.replicated.workdir import WorkDirectory
from rayplane.node.volumes.errors import (
    Fenced,
    InvalidVolume,
    NoCapacity,
    NoQuorum,
    PeerError,
    TooSmall,
    VolumeConflict,
    VolumeError,
    VolumeNotFound,
    WrongNode,
    called,
)
from rayplane.storage.env import Clock, Disk
from rayplane.storage.errors import Code

WRITE_ATTEMPTS = 5
"""Of a record that others change at the same time."""


@dataclass(frozen=True, slots=True)
class ReplicatedConfig:
    """Replication of the volumes of one node."""

    replicas: int = 3
    """Nodes that hold a new volume's bytes, or fewer where there are fewer nodes."""
    socket_directory: str = ""
    """For the sync barriers' sockets, whose paths end at 107 bytes. Empty: the temporary directory, or /tmp."""
    timing: ReplicationTiming = field(default_factory=ReplicationTiming)


@dataclass(slots=True)
class _Active:
    """A volume published on this node."""

    publication: Publication
    work: WorkDirectory
    barrier: SyncBarrier | None


class ReplicatedBackend:
    """Replicated volumes, as seen from one node.

    `store` holds this node's own replicas (served to others by ReplicaService); `on_fenced(volume_id)` is called when
    another node has taken a volume over that is published here: its pods must be killed; `is_wanted(volume_id)` tells
    whether pods here are to use a volume.
    """

    def __init__(
        self,
        store: ReplicaStore,
        disk: Disk,
        clock: Clock,
        *,
        directory: Directory,
        stubs: Stubs,
        config: ReplicatedConfig | None = None,
        on_fenced: Callable[[str], None] | None = None,
        is_wanted: Callable[[str], bool] = lambda volume_id: False,
    ) -> None:
        self.node = store.node
        self._store, self._disk, self._clock = store, disk, clock
        self._directory, self._stubs = directory, stubs
        self._config = config or ReplicatedConfig()
        self._on_fenced, self._is_wanted = on_fenced, is_wanted
        self._active: dict[str, _Active] = {}
        self._copies = Copies()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._watchers: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Remove replicas here that were deleted, or replaced by others, while this node was away."""
        for volume_id in self._store.volumes():
            try:
                found = await called(self._directory.read(volume_id))
            except PeerError:
                return  # nothing is known now, so everything stays
            if found is None:
                # Bytes without a record are nobody's to throw away; without bytes it is a creation that failed.
                unwanted = self._store.is_empty(volume_id)
            else:
                unwanted = found[0].deleted or self.node not in found[0].replicas
            if unwanted:
                await self._store.delete(volume_id)
            if found is not None and found[0].deleted:
                await self._bury(volume_id)

    async def stop(self) -> None:
        await self._copies.stop()
        for volume_id in sorted(self._active):
            await self._deactivate(volume_id)
        self._store.close()

    def _replica(self, volume_id: str) -> Callable[[str], Replica]:
        timeout_s = self._config.timing.call_timeout_s

        def make(node: str) -> Replica:
            return Replica(volume_id, node, stubs=self._stubs, directory=self._directory, timeout_s=timeout_s)

        return make

    def _lock(self, volume_id: str) -> asyncio.Lock:
        return self._locks.setdefault(volume_id, asyncio.Lock())

    async def _read(self, volume_id: str) -> tuple[VolumeRecord, int]:
        check_volume(volume_id)
        found = await called(self._directory.read(volume_id))
        if found is None or found[0].deleted:
            raise VolumeNotFound(f"there is no replicated volume {volume_id}")
        return found

    # Volumes

    async def create(self, volume_id: str, capacity_bytes: int, source: Source | None = None) -> VolumeInfo:
        check_volume(volume_id, capacity_bytes)
        wanted = VolumeRecord(volume_id, capacity_bytes, ())
        if source is None:
            record = await self._create(wanted)
        else:
            wanted = replace(wanted, origin=source.volume_id or source.snapshot_id)
            of_snapshot = not source.volume_id
            record = await self._copies.join(volume_id, lambda: self._copy(wanted, of_snapshot=of_snapshot))
        return VolumeInfo(volume_id, capacity_bytes, replicas=record.replicas)

    async def _create(self, wanted: VolumeRecord) -> VolumeRecord:
        volume_id = wanted.volume_id
        async with self._lock(volume_id):
            found = await called(self._directory.read(volume_id))
            if found is None:
                record = replace(wanted, replicas=await self._place(volume_id, wanted.capacity_bytes))
                if await called(self._directory.write(record, 0)) is not None:
                    return record
                found = await self._read(volume_id)
        record = found[0]
        if record.deleted:
            raise VolumeConflict(f"a volume {volume_id} is being deleted: use another name")
        if record.capacity_bytes != wanted.capacity_bytes:
            size = wanted.capacity_bytes
            raise VolumeConflict(f"volume {volume_id} exists with {record.capacity_bytes} bytes, not {size}")
        if (record.origin, record.snapshot) != (wanted.origin, wanted.snapshot):
            raise VolumeConflict(f"{volume_id} exists, made from {record.origin or 'nothing'}: use another name")
        return record

    async def _copy(self, wanted: VolumeRecord, *, of_snapshot: bool) -> VolumeRecord:
        """A volume with the content of another; nobody uses it before it is whole."""
        found = await called(self._directory.read(wanted.volume_id))
        if found is not None and found[0].filled_at:
            return await self._create(wanted)
        base, _ = await self._read(wanted.origin)
        if base.snapshot != of_snapshot or not base.is_whole:
            raise VolumeNotFound(f"there is no replicated {'snapshot' if of_snapshot else 'volume'} {wanted.origin}")
        if wanted.capacity_bytes < base.capacity_bytes:
            raise TooSmall(f"{wanted.volume_id} must have {base.capacity_bytes} bytes or more to hold its source")
        if base.volume_id in self._active:
            await self.sync(base.volume_id)
        elif base.writer:
            raise WrongNode(f"volume {base.volume_id} is in use on node {base.writer}, which has to copy it")
        filled_at = self._clock.now().isoformat()
        source = await newest(base, self._replica(base.volume_id))
        await self._create(wanted)
        _, record, revision = await self._raise_epoch(wanted.volume_id, filling=True)
        version, _ = await prepare(record, self.node, self._replica(record.volume_id))
        await ship(
            record,
            revision,
            source,
            generation=version.generation,
            directory=self._directory,
            replica=self._replica(record.volume_id),
            timing=self._config.timing,
        )
        return await self._filled(record, filled_at)

    async def _filled(self, record: VolumeRecord, filled_at: str) -> VolumeRecord:
        for _ in range(WRITE_ATTEMPTS):
            now, revision = await self._read(record.volume_id)
            if now.epoch != record.epoch:
                raise Fenced(f"another node copies {record.volume_id} now")
            whole = replace(now, writer="", filled_at=filled_at)
            if await called(self._directory.write(whole, revision)) is not None:
                return whole
        raise NoQuorum(f"the record of volume {record.volume_id} is changed by others all the time; try again")

    async def expand(self, volume_id: str, capacity_bytes: int) -> VolumeInfo:
        """Reserve more on each node that holds a replica, then say so in the record; on all of them, or on none."""
        check_volume(volume_id, capacity_bytes)
        async with self._lock(volume_id):
            for _ in range(WRITE_ATTEMPTS):
                record, revision = await self._read(volume_id)
                size = max(capacity_bytes, record.capacity_bytes)
                await self._resize(record, size)
                if size == record.capacity_bytes:
                    return VolumeInfo(volume_id, size)
                if await called(self._directory.write(replace(record, capacity_bytes=size), revision)) is not None:
                    return VolumeInfo(volume_id, size)
        raise NoQuorum(f"the record of volume {volume_id} is changed by others all the time; try again")

    async def _resize(self, record: VolumeRecord, capacity_bytes: int) -> None:
        grown = []
        try:
            for node in record.replicas:
                await self._replica(record.volume_id)(node).resize(capacity_bytes)
                grown.append(node)
        except PeerError as e:
            for node in grown:
                with contextlib.suppress(PeerError):  # it keeps room that nobody uses, until the next try
                    await self._replica(record.volume_id)(node).resize(record.capacity_bytes)
            if e.code is Code.RESOURCE_EXHAUSTED:
                raise NoCapacity(str(e)) from e
            raise

    async def _place(self, volume_id: str, capacity_bytes: int) -> tuple[str, ...]:
        """Reserve the space on this node, and on those of other machines that have most of it left."""
        make = self._replica(volume_id)
        machines = machines_of(await called(self._directory.nodes()))
        free: dict[str, int] = {}
        for node in sorted(machines):
            with contextlib.suppress(PeerError):
                free[node] = await make(node).free_bytes()
        wanted = min(self._config.replicas, len(free))
        chosen: list[str] = []
        errors = []
        while free and len(chosen) < wanted:
            node = self.node if self.node in free else best(free, machines, chosen)
            del free[node]
            try:
                await make(node).create(capacity_bytes)
                chosen.append(node)
            except PeerError as e:
                errors.append(str(e))
        if not wanted or len(chosen) < wanted:
            for node in chosen:
                with contextlib.suppress(PeerError):  # an empty replica without a record goes when its node starts
                    await make(node).delete()
            raise NoCapacity(
                f"volume {volume_id} needs {capacity_bytes} bytes on {max(wanted, 1)} nodes, {len(chosen)} have them: "
                + ("; ".join(errors) or "no node is ready")
            )
        return tuple(chosen)

    async def delete(self, volume_id: str) -> None:
        check_volume(volume_id)
        async with self._lock(volume_id):
            found = await called(self._directory.read(volume_id))
            if found is None:
                return
            record, revision = found
            if not record.deleted:
                if volume_id in self._active or record.writer:
                    raise WrongNode(f"volume {volume_id} is in use on node {record.writer}: stop its pods first")
                if await called(self._directory.write(replace(record, deleted=True), revision)) is None:
                    raise WrongNode(f"volume {volume_id} was just taken into use: try again")
            await self._bury(volume_id)

    async def _bury(self, volume_id: str) -> None:
        """Delete what replicas can be reached; the record goes with the last, other nodes come back to it later."""
        for _ in range(WRITE_ATTEMPTS):
            found = await called(self._directory.read(volume_id))
            if found is None:
                return
            record, revision = found
            left = []
            for node in record.replicas:
                try:
                    await self._replica(volume_id)(node).delete()
                except PeerError:
                    left.append(node)
            if not left:
                await called(self._directory.remove(volume_id))
                return
            if await called(self._directory.write(replace(record, replicas=tuple(left)), revision)) is not None:
                return

    async def find(self, volume_id: str) -> VolumeInfo:
        return VolumeInfo(volume_id, (await self._read(volume_id))[0].capacity_bytes)

    async def record(self, volume_id: str) -> VolumeRecord:
        """Replicas, epoch and writer now. Raises VolumeNotFound."""
        return (await self._read(volume_id))[0]

    async def release(self, volume_id: str, node: str = "") -> None:
        """Forget that a node, dead perhaps, has a volume in use, so that it may be deleted or published elsewhere.

        An empty `node` is whichever has it. What that node still writes is refused once another publishes the volume.
        """
        for _ in range(WRITE_ATTEMPTS):
            record, revision = await self._read(volume_id)
            if not record.writer or node not in ("", record.writer):
                return
            if await called(self._directory.write(replace(record, writer=""), revision)) is not None:
                return
        raise NoQuorum(f"the record of volume {volume_id} is changed by others all the time; try again")

    # Publishing

    def published_at(self, volume_id: str) -> Published:
        check_volume(volume_id)
        return Published(WorkDirectory(self._disk, volume_id, self._clock).path or "", self._socket(volume_id))

    async def publish(self, volume_id: str) -> Published:
        """Fetch the newest content, raise the epoch, and start replicating: older writers are fenced from now on."""
        async with self._lock(volume_id):
            active = self._active.get(volume_id)
            if active is not None and active.publication.fenced.is_set():
                await self._deactivate(volume_id)
                active = None
            if active is None:
                active = await self._activate(volume_id)
            path = active.work.path or f"/simulated/volumes/{volume_id}"
            return Published(path, active.barrier.path if active.barrier is not None else "")

    async def _activate(self, volume_id: str) -> _Active:
        work = WorkDirectory(self._disk, volume_id, self._clock)
        before, record, revision = await self._raise_epoch(volume_id)
        try:
            # If nobody has published it since this node did, what is here is newer than any replica.
            if before.epoch > 0 and work.epoch() == before.epoch:
                await work.mark(record.epoch)
            version, source = await prepare(record, self.node, self._replica(record.volume_id))
            if work.epoch() != record.epoch:
                version = await self._fill(work, version, source)
                await work.mark(record.epoch)
            publication, barrier = await self._begin(record, revision, version, work)
        except BaseException:
            with contextlib.suppress(VolumeError):  # at worst it looks as if it were in use here
                await self.release(volume_id, self.node)
            raise
        active = self._active[volume_id] = _Active(publication, work, barrier)
        self._watchers[volume_id] = asyncio.get_running_loop().create_task(self._watch(volume_id, publication))
        return active

    async def _fill(self, work: WorkDirectory, version: Version, source: Replica | None) -> Version:
        if source is None:
            await work.fill({}, self._replica(work.volume_id)(self.node))
            return version
        version, manifest = await source.manifest()
        await work.fill(manifest, source)
        return version

    async def _begin(
        self, record: VolumeRecord, revision: int, version: Version, work: WorkDirectory
    ) -> tuple[Publication, SyncBarrier | None]:
        """Start replicating; returns once a majority has this epoch's first generation."""
        publication = Publication(
            record,
            revision,
            generation=version.generation,
            content=work,
            directory=self._directory,
            replica=self._replica(record.volume_id),
            timing=self._config.timing,
        )
        try:
            await publication.start()
            barrier = None
            if work.path is not None:
                barrier = SyncBarrier(self._socket(record.volume_id), publication.sync)
                await barrier.start()
        except BaseException:
            await publication.stop()
            raise
        return publication, barrier

    async def _raise_epoch(self, volume_id: str, *, filling: bool = False) -> tuple[VolumeRecord, VolumeRecord, int]:
        """The record before and after, and its revision."""
        for _ in range(WRITE_ATTEMPTS):
            before, revision = await self._read(volume_id)
            if not filling and (before.snapshot or not before.is_whole):
                raise WrongNode(f"{volume_id} is {'a snapshot' if before.snapshot else 'not filled yet'}: not for use")
            record = replace(before, epoch=before.epoch + 1, writer=self.node)
            written = await called(self._directory.write(record, revision))
            if written is not None:
                return before, record, written
        raise NoQuorum(f"the record of volume {volume_id} is changed by others all the time; try again")

    def _socket(self, volume_id: str) -> str:
        name = hashlib.sha256(f"{self._disk.local_path()}/{self.node}/{volume_id}".encode()).hexdigest()[:20]
        return os.path.join(self._config.socket_directory or socket_directory(), f"{name}.sync")

    async def _watch(self, volume_id: str, publication: Publication) -> None:
        await publication.fenced.wait()
        if self._on_fenced is not None:
            self._on_fenced(volume_id)

    async def sync(self, volume_id: str) -> int:
        """The barrier, for callers in this process; see Publication.sync."""
        return await self.publication(volume_id).sync()

    async def unpublish(self, volume_id: str) -> None:
        async with self._lock(volume_id):
            active = self._active.get(volume_id)
            if active is None:
                return
            try:
                await active.publication.settle(lambda: self._is_wanted(volume_id))
                await self._deactivate(volume_id)
                await self.release(volume_id, self.node)
            except (Fenced, VolumeNotFound):
                await self._deactivate(volume_id)  # others have it: nothing of ours counts any more
            await active.work.remove()

    async def _deactivate(self, volume_id: str) -> None:
        active = self._active.pop(volume_id, None)
        watcher = self._watchers.pop(volume_id, None)
        await cancel_and_wait(watcher)
        if active is not None:
            if active.barrier is not None:
                await active.barrier.stop()
            await active.publication.stop()

    # Snapshots

    async def snapshot(self, name: str, volume_id: str) -> Snapshot:
        """A volume that is never published, as large as the one it is a copy of."""
        check_volume(name)
        check_volume(volume_id)
        found = await called(self._directory.read(name))
        size = (found or await self._read(volume_id))[0].capacity_bytes
        wanted = VolumeRecord(name, size, (), origin=volume_id, snapshot=True)
        return (await self._copies.join(name, lambda: self._copy(wanted, of_snapshot=False))).as_snapshot()

    async def delete_snapshot(self, snapshot_id: str) -> None:
        check_volume(snapshot_id)
        await self._copies.settled(snapshot_id)
        found = await called(self._directory.read(snapshot_id))
        if found is None:
            return
        if not found[0].snapshot:
            raise InvalidVolume(f"{snapshot_id} is a volume, no snapshot")
        with contextlib.suppress(VolumeNotFound):  # it goes already
            await self.release(snapshot_id)
        await self.delete(snapshot_id)

    async def snapshots(self) -> list[Snapshot]:
        records = await called(self._directory.records())
        return [one.as_snapshot() for one in records if one.snapshot and one.filled_at and not one.deleted]

    # Looking

    async def usage(self, volume_id: str) -> Usage:
        active = self._active.get(volume_id)
        if active is None:
            record = await self.record(volume_id)
            for node in record.replicas:
                try:
                    state = await self._replica(volume_id)(node).state()
                except PeerError:
                    continue
                if not state.filling:
                    return Usage(state.used_bytes, record.capacity_bytes, 0)
            raise NoQuorum(f"no replica of volume {volume_id} tells what it holds")
        capacity = active.publication.record.capacity_bytes
        if active.work.path is None:
            return Usage(0, capacity, 0)
        used, files = await asyncio.get_running_loop().run_in_executor(None, measure, active.work.path)
        return Usage(used, capacity, files)

    async def free_bytes(self) -> int:
        return self._store.capacity()[1]

    def publication(self, volume_id: str) -> Publication:
        """The live publication of a volume on this node. Raises WrongNode."""
        try:
            return self._active[volume_id].publication
        except KeyError:
            raise WrongNode(f"volume {volume_id} is not published on node {self.node}") from None

    def published(self) -> list[str]:
        """Volumes published on this node, sorted."""
        return sorted(self._active)


__all__ = ["ReplicatedBackend", "ReplicatedConfig", "VolumeError"]
