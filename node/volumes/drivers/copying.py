"""Copies of real directories: of one moment, durable, bounded, and never of what lies outside.

What is copied is a scan in which nothing changed (see `replicated.tree`), block by block with its hash: where a file
changes in between, the copy begins again. Links are copied, not followed; sockets, pipes and devices are left out.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from threading import Event
from typing import Any

from rayplane.node.volumes.drivers.replicated.manifest import used_bytes
from rayplane.node.volumes.drivers.replicated.tree import Scan, TreeScanner, TreeWriter, measure
from rayplane.node.volumes.errors import VolumeBusy, VolumeError, VolumeFull
from rayplane.storage.env import Clock, Disk, DiskError
from rayplane.storage.env.private import sync_filesystem

ATTEMPTS = 5
"""Of a copy of a directory that changes meanwhile."""
FILES_MAX = 1_000_000


class Copies:
    """The copies that a driver has under way; whoever asks for one again waits for the one that is.

    A caller that gives up ends nothing: the copy is there when it asks again.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._stopping = Event()

    async def join(self, key: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.get_running_loop().create_task(make(), name=f"copy/{key}")
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: str, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # told to whoever waits, if anybody still does

    async def settled(self, key: str) -> None:
        """Return when nothing of this name is under way."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait([task])

    async def stop(self) -> None:
        """End all of them; what they have written is nobody's, and is written again."""
        self._stopping.set()
        if self._tasks:
            await asyncio.wait([*self._tasks.values()])
        self._stopping.clear()

    async def copy(self, disk: Disk, source: str, target: str, *, clock: Clock, limit_bytes: int) -> int:
        """Make `target` hold what `source` holds at one moment, or not be there; returns the size of its files.

        It is made beside, at `target`.copy. Raises VolumeFull, VolumeBusy, DiskError.
        """
        beside = f"{target}.copy"
        await disk.discard(target)
        if disk.local_path(source) is None:
            return 0
        await disk.discard(beside)
        try:
            size = await self._aside(disk, source, beside, clock=clock, limit_bytes=limit_bytes)
            disk.rename(f"{beside}/files", target)
            await disk.sync_dir(os.path.dirname(target))
        finally:
            await disk.discard(beside)
        return size

    async def _aside(self, disk: Disk, source: str, beside: str, *, clock: Clock, limit_bytes: int) -> int:
        disk.make_dir(beside)
        root, copy = disk.local_path(source) or "", disk.local_path(beside) or ""
        try:
            return await asyncio.get_running_loop().run_in_executor(
                None, self._copy, root, copy, lambda: int(clock.now().timestamp() * 1e9), limit_bytes
            )
        except OSError as e:
            raise DiskError(f"cannot copy {root}: {e.strerror}; check the disk and the permissions there") from e

    def _copy(self, root: str, copy: str, wall_ns: Callable[[], int], limit_bytes: int) -> int:
        """Runs in a worker thread."""
        scanner = TreeScanner(root, wall_ns)
        for attempt in range(ATTEMPTS):
            self._check(*measure(root), root, limit_bytes)
            scan = scanner.scan()
            self._check(used_bytes(scan.manifest), len(scan.manifest), root, limit_bytes)
            # Each attempt has a place of its own: what a former one left goes with it.
            place = f"{copy}/{attempt}"
            if scan.stable and self._write(place, scanner, scan):
                sync_filesystem(copy)
                os.rename(place, f"{copy}/files")
                sync_filesystem(copy)
                return used_bytes(scan.manifest)
        raise VolumeBusy(f"{root} changes all the time while it is copied: tried again; stop its writers if need be")

    def _write(self, place: str, scanner: TreeScanner, scan: Scan) -> bool:
        """Whether every block still was what the scan found."""
        os.mkdir(place, 0o700)
        writer = TreeWriter(place, scan.manifest)
        wanted = set(writer.begin())
        for path, entry in scan.manifest.items():
            for number, block in enumerate(entry.blocks):
                if block not in wanted:
                    continue
                if self._stopping.is_set():
                    raise VolumeError("the node's host stops: the copy is begun again when it is back")
                data = scanner.block(block, path, number * entry.block_bytes, entry.block_bytes)
                if data is None:
                    return False
                writer.write(block, data)
                wanted.discard(block)
        writer.finish()
        return True

    def _check(self, size: int, files: int, root: str, limit_bytes: int) -> None:
        if size > limit_bytes:
            raise VolumeFull(f"{root} holds {size} bytes, {limit_bytes} is all there is room for: remove some")
        if files > FILES_MAX:
            raise VolumeFull(f"{root} holds {files} files, a copy takes {FILES_MAX} at most: remove some")
