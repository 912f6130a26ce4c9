"""The local backend: a volume is a directory of one node and lives and dies with it."""

import asyncio
import os

from rayplane.node.volumes.backend import Published, Usage, VolumeInfo, check_volume
from rayplane.node.volumes.errors import VolumeNotFound, WrongNode
from rayplane.node.volumes.reservations import Reservations
from rayplane.storage.env import Beneath, Disk

_KIND = "local"


class LocalBackend:
    """Local volumes of one node. Where the disk is simulated there are no directories, only reservations."""

    def __init__(self, node: str, disk: Disk, reservations: Reservations) -> None:
        self.node = node
        self._disk, self._reservations = disk, reservations
        self._published: set[str] = set()

    async def start(self) -> None:
        """Do nothing: there is nothing to read beyond the reservations."""

    async def stop(self) -> None:
        self._published.clear()

    def _path(self, volume_id: str) -> str:
        return f"volumes/local/{volume_id}"

    def _capacity(self, volume_id: str) -> int:
        try:
            return self._reservations.reserved(_KIND)[volume_id]
        except KeyError:
            raise VolumeNotFound(f"there is no local volume {volume_id} on node {self.node}") from None

    async def create(self, volume_id: str, capacity_bytes: int) -> VolumeInfo:
        check_volume(volume_id, capacity_bytes)
        await self._reservations.reserve(_KIND, volume_id, capacity_bytes)
        self._disk.make_dir(self._path(volume_id))
        return VolumeInfo(volume_id, capacity_bytes, (self.node,))

    async def expand(self, volume_id: str, capacity_bytes: int) -> VolumeInfo:
        check_volume(volume_id, capacity_bytes)
        size = max(capacity_bytes, self._capacity(volume_id))
        await self._reservations.resize(_KIND, volume_id, size)
        return VolumeInfo(volume_id, size, (self.node,))

    async def delete(self, volume_id: str) -> None:
        check_volume(volume_id)
        if volume_id in self._published:
            raise WrongNode(f"volume {volume_id} is in use on node {self.node}: stop its pods first")
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


def measure(root: str) -> tuple[int, int]:
    """Bytes and number of the files below a real directory, links not followed."""
    used = files = 0
    tree, pending = Beneath(root), [""]
    while pending:
        directory = pending.pop()
        try:
            with tree.open_dir(directory) as fd, os.scandir(fd) as found:
                for item in found:
                    if item.is_dir(follow_symlinks=False):
                        pending.append(f"{directory}/{item.name}".lstrip("/"))
                        continue
                    used += item.stat(follow_symlinks=False).st_size
                    files += 1
        except OSError:
            continue  # changed meanwhile, or deeper than a path can say
    return used, files
