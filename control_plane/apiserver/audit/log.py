"""The file: a bounded queue in front of it, a thread that writes, rotation by size."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from rayplane.control_plane.apiserver.audit.trail import Record
from rayplane.control_plane.apiserver.config import AuditConfig
from rayplane.storage.env import Disk, DiskError, Env, File

log = logging.getLogger(__name__)

NAME = "audit.log"
_OLD = "audit-"
_BATCH_MAX = 400
_STOP_S = 5.0


class AuditLog:
    """A log that takes records and never waits.

    `encode` makes a line of one; it runs in a thread, as the writing does.
    """

    def __init__(self, config: AuditConfig, env: Env, encode: Callable[[Record], bytes]) -> None:
        self._config = config
        self._env = env
        self._disk: Disk = env.disk
        self._encode = encode
        self._waiting: deque[Record] = deque()
        self._weight = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._file: File | None = None
        self._failing = False
        self._closing = False
        self.dropped = 0
        """Events that found the queue full."""
        self.failed = 0
        """Events that could not be encoded or written."""

    def start(self) -> None:
        """Open the file; DiskError when it cannot be written."""
        self._file = self._open()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="audit log")

    async def stop(self) -> None:
        """Write what is waiting, as far as that goes within a few seconds, and close."""
        if self._task is None:
            return
        self._closing = True
        self._wake.set()
        task, self._task = self._task, None
        done, _ = await asyncio.wait([task], timeout=_STOP_S)
        if not done:
            log.error("the audit log was not written to its end: %d events are lost", len(self._waiting))
            task.cancel()
            await asyncio.wait([task])
        if self._file is not None:
            self._file.close()
            self._file = None

    def put(self, record: Record) -> None:
        weight = record.weight
        if len(self._waiting) >= self._config.queue_events or self._weight + weight > self._config.queue_bytes:
            self.dropped += 1
            return
        self._waiting.append(record)
        self._weight += weight
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH_MAX, len(self._waiting)))]
                await loop.run_in_executor(None, self._write, batch)
                self._weight -= sum(record.weight for record in batch)
        if self._file is not None:
            try:
                await self._file.sync()
            except DiskError as e:
                log.warning("the audit log may not be on the disk: %s", e)

    # --- in the thread ------------------------------------------------------------------------

    def _write(self, batch: Sequence[Record]) -> None:
        lines = [line for record in batch if (line := self._line(record))]
        try:
            if self._file is None:
                self._file = self._open()
            self._rotate(sum(map(len, lines)))
            self._file.append(b"".join(lines))
        except (DiskError, OSError) as e:
            self.failed += len(lines)
            if not self._failing:
                log.error("audit events are lost: %s", e)
            self._failing = True
            return
        self._failing = False

    def _line(self, record: Record) -> bytes:
        try:
            return self._encode(record)
        except Exception:
            # Whatever a client wrote: one event is lost then, not the log.
            self.failed += 1
            log.exception("an audit event could not be encoded")
            return b""

    def _open(self) -> File:
        file = self._disk.append_file(NAME)
        size = file.size()
        if size and self._disk.read_at(NAME, size - 1, 1) != b"\n":
            # Cut off in the middle of a line when the server was killed: the next event has a line of its own.
            file.append(b"\n")
        return file

    def _rotate(self, coming: int) -> None:
        """Begin a new file when this one would get too large; keep the newest of the old ones."""
        assert self._file is not None
        if not self._file.size() or self._file.size() + coming <= self._config.file_bytes:
            return
        self._file.close()
        self._file = None
        stamp = self._env.clock.now().strftime("%Y-%m-%dT%H-%M-%S.%f")
        self._disk.rename(NAME, f"{_OLD}{stamp}.log")
        old = [name for name in self._disk.list() if name.startswith(_OLD) and name.endswith(".log")]
        for name in old[: max(0, len(old) - self._config.files_kept)]:
            self._disk.remove(name)
        self._file = self._open()
