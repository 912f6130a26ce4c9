"""Reservations of a node's volume space. Claims are reserved in full, as a thick disk would be."""

from rayplane.node.volumes.errors import CorruptVolume, NoCapacity, VolumeConflict
from rayplane.storage.env import Disk, DiskError
from rayplane.storage.keyvalue import CorruptFile, JsonFile


class Reservations:
    """One node's ledger, shared by its backends and kept in a file. CorruptVolume when that is damaged."""

    def __init__(self, disk: Disk, node: str, total_bytes: int) -> None:
        self._file, self._node = JsonFile(disk, "volumes/reservations.json"), node
        self.total_bytes = total_bytes
        self._reserved = _checked(self._file)

    @property
    def free_bytes(self) -> int:
        return max(0, self.total_bytes - sum(self._reserved.values()))

    def reserved(self, kind: str) -> dict[str, int]:
        """Bytes by volume of one kind, sorted."""
        return {
            name.partition("/")[2]: size for name, size in sorted(self._reserved.items()) if name.startswith(f"{kind}/")
        }

    async def reserve(self, kind: str, volume_id: str, capacity_bytes: int) -> None:
        """Reserve space. Raises NoCapacity, or VolumeConflict if it is reserved with another size."""
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

    async def resize(self, kind: str, volume_id: str, capacity_bytes: int) -> None:
        """Reserve another size. Raises NoCapacity; a volume without a reservation gets none."""
        name = f"{kind}/{volume_id}"
        present = self._reserved.get(name)
        if present is None or present == capacity_bytes:
            return
        if capacity_bytes - present > self.free_bytes:
            raise NoCapacity(
                f"node {self._node} has {self.free_bytes} of {self.total_bytes} bytes left for volumes, volume "
                f"{volume_id} needs {capacity_bytes - present} more: delete volumes or configure a larger capacity"
            )
        self._reserved[name] = capacity_bytes
        try:
            await self._save()
        except DiskError:
            self._reserved[name] = present
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
        await self._file.write(self._reserved)


def _checked(file: JsonFile) -> dict[str, int]:
    try:
        found = file.read() or {}
    except CorruptFile as e:
        # What is not counted would be given out twice.
        raise CorruptVolume(f"{e} (volumes that exist are not counted then)") from e
    if any(type(size) is not int or size < 0 for size in found.values()):
        raise CorruptVolume(f"{file.path} is damaged: it holds sizes that are none; restore it, or remove it")
    return found
