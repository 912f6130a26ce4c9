"""Who has reserved how much of a node's volume space. Claims are reserved in full, as a thick disk would be."""

import json

from rayplane.node.volumes.errors import CorruptVolume, NoCapacity, VolumeConflict
from rayplane.storage.env import Disk, DiskError


class Reservations:
    """One node's ledger, shared by its backends and kept in a file. CorruptVolume when that is damaged."""

    def __init__(self, disk: Disk, node: str, total_bytes: int, *, path: str = "volumes/reservations.json") -> None:
        self._disk, self._node, self._path = disk, node, path
        self.total_bytes = total_bytes
        self._reserved = _read(disk, path) if disk.exists(path) else {}

    @property
    def free_bytes(self) -> int:
        return max(0, self.total_bytes - sum(self._reserved.values()))

    def reserved(self, kind: str) -> dict[str, int]:
        """Bytes by volume of one kind, sorted."""
        return {
            name.partition("/")[2]: size for name, size in sorted(self._reserved.items()) if name.startswith(f"{kind}/")
        }

    async def reserve(self, kind: str, volume_id: str, capacity_bytes: int) -> None:
        """Raises NoCapacity, or VolumeConflict if it is reserved with another size."""
        name = f"{kind}/{volume_id}"
        present = self._reserved.get(name)
        if present == capacity_bytes:
            return
        if present is not None:
            raise VolumeConflict(f"volume {volume_id} exists with {present} bytes, not {capacity_bytes}")
        if capacity_bytes > self.free_bytes:
            raise NoCapacity(
                f"node {self._node} has {self.free_bytes} of {self.total_bytes} bytes left for volumes, volume "
                f"{volume_id} needs {capacity_bytes}: delete volumes or configure a larger capacity"
            )
        self._reserved[name] = capacity_bytes
        try:
            await self._save()
        except DiskError:
            del self._reserved[name]  # so that the next try writes it
            raise

    async def release(self, kind: str, volume_id: str) -> None:
        name = f"{kind}/{volume_id}"
        held = self._reserved.pop(name, None)
        if held is None:
            return
        try:
            await self._save()
        except DiskError:
            self._reserved[name] = held
            raise

    async def _save(self) -> None:
        await self._disk.write_atomic(self._path, json.dumps(self._reserved, sort_keys=True).encode())


def _read(disk: Disk, path: str) -> dict[str, int]:
    try:
        found = json.loads(disk.read(path))
    except (ValueError, RecursionError):
        found = None
    # What is not counted would be given out twice.
    if not isinstance(found, dict) or any(type(size) is not int or size < 0 for size in found.values()):
        raise CorruptVolume(f"{path} is damaged: restore it, or remove it (volumes that exist are not counted then)")
    return found
