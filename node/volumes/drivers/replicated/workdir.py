"""The directory that a published replicated volume's pods write to, on the publishing node."""

import asyncio
import os
from collections.abc import AsyncIterator

from rayplane.node.volumes.drivers.replicated.manifest import BLOCK_BYTES, Manifest, batches
from rayplane.node.volumes.drivers.replicated.replica_client import Replica
from rayplane.node.volumes.drivers.replicated.tree import TreeScanner, TreeWriter
from rayplane.node.volumes.errors import CorruptVolume
from rayplane.storage.env import Clock, Disk
from rayplane.storage.keyvalue import CorruptFile, JsonFile

_ROOT = "volumes/work"


class WorkDirectory:
    """A volume's files on this node, or nothing at all where the disk is simulated (`path` is None)."""

    def __init__(self, disk: Disk, volume_id: str, clock: Clock) -> None:
        self.volume_id = volume_id
        self._disk, self._name, self._clock = disk, f"{_ROOT}/{volume_id}", clock
        self._marker = JsonFile(disk, f"{self._name}/epoch.json")
        self.path = disk.local_path(f"{self._name}/files")
        self._scanner: TreeScanner | None = None

    def epoch(self) -> int | None:
        """Return the epoch of the publication that last wrote here; None if there is none."""
        if self.path is not None and not os.path.isdir(self.path):
            return None
        try:
            marker = self._marker.read()
        except CorruptFile:
            return None  # nobody can say what it holds: it is filled from a replica
        epoch = marker.get("epoch") if marker is not None else None
        return epoch if type(epoch) is int else None

    async def mark(self, epoch: int) -> None:
        await self._marker.write({"epoch": epoch})

    async def fill(self, manifest: Manifest, source: Replica) -> None:
        """Make the directory hold exactly a replica's content. Raises PeerError, CorruptVolume, OSError."""
        await self.remove()
        self._disk.make_dir(f"{self._name}/files")
        if self.path is None:
            return
        loop = asyncio.get_running_loop()
        writer = TreeWriter(self.path, manifest)
        wanted = await loop.run_in_executor(None, writer.begin)
        lengths = {b: e.block_bytes or BLOCK_BYTES for e in manifest.values() for b in e.blocks}
        async for batch, blocks in _fetch(source, wanted, lengths):
            if len(batch) != len(blocks):
                raise CorruptVolume(f"node {source.node} sent {len(blocks)} of {len(batch)} blocks")
            for block, data in zip(batch, blocks, strict=True):
                await loop.run_in_executor(None, writer.write, block, data)
        await loop.run_in_executor(None, writer.finish)

    async def remove(self) -> None:
        await self._disk.discard(self._name)

    async def scan(self) -> tuple[Manifest, bool]:
        if self.path is None:
            return {}, True
        if self._scanner is None:
            self._scanner = TreeScanner(self.path, lambda: int(self._clock.now().timestamp() * 1e9))
        scan = await asyncio.get_running_loop().run_in_executor(None, self._scanner.scan)
        return scan.manifest, scan.stable

    async def block(self, wanted: bytes, path: bytes, offset: int, length: int) -> bytes | None:
        assert self._scanner is not None, "no scan before this"
        return await asyncio.get_running_loop().run_in_executor(None, self._scanner.block, wanted, path, offset, length)


async def _fetch(
    source: Replica, wanted: list[bytes], lengths: dict[bytes, int]
) -> AsyncIterator[tuple[list[bytes], list[bytes]]]:
    for batch in batches(wanted, lengths):
        yield batch, await source.fetch(batch)
