"""The local backend: a volume is a directory of one node and lives and dies with it.

So does a snapshot, whose id is `NODE/NAME`: a copy of the directory, for which the space of its files is reserved. It
exists once the ledger of snapshots says so; what a copy left that never ended is replaced by the next of its name.
"""

import asyncio
from datetime import datetime
from typing import Any

from rayplane.node.volumes.backend import Published, Snapshot, Source, Usage, VolumeInfo, check_volume
from rayplane.node.volumes.drivers.copying import Copies
from rayplane.node.volumes.drivers.replicated.tree import measure
from rayplane.node.volumes.errors import (
    CorruptVolume,
    NoCapacity,
    TooSmall,
    VolumeConflict,
    VolumeNotFound,
    WrongNode,
)
from rayplane.node.volumes.reservations import Reservations
from rayplane.storage.env import Clock, Disk, DiskError
from rayplane.storage.keyvalue import CorruptFile, JsonFile

_KIND, _SNAPSHOTS = "local", "local-snapshots"


class LocalBackend:
    """Local volumes of one node. Where the disk is simulated there are no directories, only reservations."""

    def __init__(self, node: str, disk: Disk, reservations: Reservations, clock: Clock) -> None:
        self.node = node
        self._disk, self._reservations, self._clock = disk, reservations, clock
        self._published: set[str] = set()
        self._copies = Copies()
        self._ledger = JsonFile(disk, "volumes/local-snapshots.json")
        self._snapshots = _checked(self._ledger)
        self._noting = asyncio.Lock()

    async def start(self) -> None:
        """Do nothing: there is nothing to read beyond the reservations."""

    async def stop(self) -> None:
        await self._copies.stop()
        self._published.clear()

    def _path(self, volume_id: str) -> str:
        return f"volumes/local/{volume_id}"

    def _capacity(self, volume_id: str) -> int:
        try:
            return self._reservations.reserved(_KIND)[volume_id]
        except KeyError:
            raise VolumeNotFound(f"there is no local volume {volume_id} on node {self.node}") from None

    async def create(self, volume_id: str, capacity_bytes: int, source: Source | None = None) -> VolumeInfo:
        check_volume(volume_id, capacity_bytes)
        if source is not None and volume_id not in self._reservations.reserved(_KIND):
            await self._copies.join(f"volume/{volume_id}", lambda: self._fill(volume_id, capacity_bytes, source))
        await self._reservations.reserve(_KIND, volume_id, capacity_bytes)
        self._disk.make_dir(self._path(volume_id))
        return VolumeInfo(volume_id, capacity_bytes, (self.node,))

    async def _fill(self, volume_id: str, capacity_bytes: int, source: Source) -> None:
        """The content first, then the reservation: a volume that exists is whole."""
        if not source.volume_id:
            found = self._found(source.snapshot_id)
            least, origin = found.size_bytes, self._snapshot_path(self._name_of(source.snapshot_id))
        else:
            check_volume(source.volume_id)
            least, origin = self._capacity(source.volume_id), self._path(source.volume_id)
        if capacity_bytes < least:
            raise TooSmall(f"volume {volume_id} must have {least} bytes or more to hold its source")
        if capacity_bytes > self._reservations.free_bytes:
            raise NoCapacity(f"node {self.node} has {self._reservations.free_bytes} bytes left for volumes")
        path = self._path(volume_id)
        await self._copies.copy(self._disk, origin, path, clock=self._clock, limit_bytes=capacity_bytes)
        await self._reservations.reserve(_KIND, volume_id, capacity_bytes)

    async def expand(self, volume_id: str, capacity_bytes: int) -> VolumeInfo:
        check_volume(volume_id, capacity_bytes)
        size = max(capacity_bytes, self._capacity(volume_id))
        await self._reservations.resize(_KIND, volume_id, size)
        return VolumeInfo(volume_id, size, (self.node,))

    async def delete(self, volume_id: str) -> None:
        check_volume(volume_id)
        if volume_id in self._published:
            raise WrongNode(f"volume {volume_id} is in use on node {self.node}: stop its pods first")
        await self._copies.settled(f"volume/{volume_id}")
        await self._disk.discard(self._path(volume_id))
        await self._reservations.release(_KIND, volume_id)

    async def find(self, volume_id: str) -> VolumeInfo:
        return VolumeInfo(volume_id, self._capacity(volume_id), (self.node,))

    def published_at(self, volume_id: str) -> Published:
        check_volume(volume_id)
        return Published(self._disk.local_path(self._path(volume_id)) or "")

    async def publish(self, volume_id: str) -> Published:
        check_volume(volume_id)
        self._capacity(volume_id)
        self._disk.make_dir(self._path(volume_id))
        self._published.add(volume_id)
        return Published(self._disk.local_path(self._path(volume_id)) or f"/simulated/{self._path(volume_id)}")

    async def unpublish(self, volume_id: str) -> None:
        self._published.discard(volume_id)

    async def usage(self, volume_id: str) -> Usage:
        capacity = self._capacity(volume_id)
        root = self._disk.local_path(self._path(volume_id))
        if root is None:
            return Usage(0, capacity, 0)
        used, files = await asyncio.get_running_loop().run_in_executor(None, measure, root)
        return Usage(used, capacity, files)

    async def free_bytes(self) -> int:
        return self._reservations.free_bytes

    # --- snapshots --------------------------------------------------------------------------------

    def _snapshot_path(self, name: str) -> str:
        return f"volumes/local-snapshots/{name}"

    def _name_of(self, snapshot_id: str) -> str:
        node, _, name = snapshot_id.rpartition("/")
        check_volume(name)
        if node != self.node:
            raise VolumeNotFound(f"snapshot {snapshot_id} is not of node {self.node}")
        return name

    def _found(self, snapshot_id: str) -> Snapshot:
        known = self._snapshots.get(self._name_of(snapshot_id))
        if known is None:
            raise VolumeNotFound(f"there is no snapshot {snapshot_id}")
        return Snapshot(snapshot_id, known["volume"], known["size"], datetime.fromisoformat(known["taken"]))

    async def snapshot(self, name: str, volume_id: str) -> Snapshot:
        check_volume(name)
        check_volume(volume_id)
        known = self._snapshots.get(name)
        if known is None:
            await self._copies.join(f"snapshot/{name}", lambda: self._take(name, volume_id))
            known = self._snapshots[name]
        if known["volume"] != volume_id:
            raise VolumeConflict(f"snapshot {name} exists, of volume {known['volume']}, not of {volume_id}")
        return self._found(f"{self.node}/{name}")

    async def _take(self, name: str, volume_id: str) -> None:
        size = self._capacity(volume_id)
        taken = self._clock.now().isoformat()
        path = self._snapshot_path(name)
        limit = min(size, self._reservations.free_bytes)
        used = await self._copies.copy(self._disk, self._path(volume_id), path, clock=self._clock, limit_bytes=limit)
        try:
            # What the ledger never came to tell of is released with the next of its name.
            await self._reservations.release(_SNAPSHOTS, name)
            await self._reservations.reserve(_SNAPSHOTS, name, used)
            await self._note(name, {"volume": volume_id, "size": size, "taken": taken})
        except (NoCapacity, DiskError):
            await self._disk.discard(path)
            await self._reservations.release(_SNAPSHOTS, name)
            raise

    async def delete_snapshot(self, snapshot_id: str) -> None:
        name = self._name_of(snapshot_id)
        await self._copies.settled(f"snapshot/{name}")
        await self._note(name, None)
        await self._disk.discard(self._snapshot_path(name))
        await self._reservations.release(_SNAPSHOTS, name)

    async def snapshots(self) -> list[Snapshot]:
        return [self._found(f"{self.node}/{name}") for name in sorted(self._snapshots)]

    async def _note(self, name: str, known: dict[str, Any] | None) -> None:
        """Write down what is known of a snapshot; None: that there is none."""
        async with self._noting:
            changed = {key: one for key, one in self._snapshots.items() if key != name}
            if known is not None:
                changed[name] = known
            await self._ledger.write(changed)
            self._snapshots = changed


def _checked(file: JsonFile) -> dict[str, dict[str, Any]]:
    try:
        found = file.read() or {}
    except CorruptFile as e:
        raise CorruptVolume(f"{e} (snapshots that exist are not known then)") from e
    if not all(isinstance(known, dict) and known.keys() >= {"volume", "size", "taken"} for known in found.values()):
        raise CorruptVolume(f"{file.path} is damaged: restore it, or remove it, and the snapshots with it")
    return found
