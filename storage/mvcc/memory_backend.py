"""The backend in memory: for simulation and tests.

With a disk, `flush` writes the whole content as one file and a new backend starts from the last one, so that a crash
leaves what LMDB leaves after a lost machine: a past state with its applied index.
"""

from collections.abc import Iterator, Sequence

from sortedcontainers import SortedDict

from storage.env import Disk
from storage.mvcc import stream
from storage.mvcc.backend import BUCKETS, Record


class MemoryBackend:
    """Ordered dicts."""

    def __init__(self, disk: Disk | None = None, path: str = "mvcc.image", *, buckets: Sequence[str] = BUCKETS) -> None:
        self._names = tuple(buckets)
        self._disk, self._path = disk, path
        self._buckets: dict[str, SortedDict[bytes, bytes]] = {name: SortedDict() for name in self._names}
        self._pending = 0
        self.trusted = True
        if disk is not None and disk.exists(path):
            self._load(stream.decode([disk.read(path)], self._names))

    @property
    def pending(self) -> int:
        return self._pending

    def _load(self, records: Iterator[Record]) -> None:
        loaded: dict[str, dict[bytes, bytes]] = {name: {} for name in self._names}
        for bucket, key, value in records:
            loaded[bucket][key] = value
        self._buckets = {name: SortedDict(content) for name, content in loaded.items()}
        self._pending = 0

    def get(self, bucket: str, key: bytes) -> bytes | None:
        return self._buckets[bucket].get(key)

    def put(self, bucket: str, key: bytes, value: bytes) -> None:
        self._buckets[bucket][key] = value
        self._pending += 1

    def delete(self, bucket: str, key: bytes) -> None:
        self._buckets[bucket].pop(key, None)
        self._pending += 1

    def scan(self, bucket: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        content = self._buckets[bucket]
        for key in content.irange(start, end, inclusive=(True, False)):
            yield key, content[key]

    def commit(self) -> None:
        self._pending = 0

    async def flush(self) -> None:
        self.commit()
        if self._disk is not None:
            await self._disk.write_atomic(self._path, b"".join(stream.encode(self.view(), self._names)))

    def view(self) -> Iterator[Record]:
        self.commit()
        records = [(bucket, key, value) for bucket, content in self._buckets.items() for key, value in content.items()]
        return iter(records)

    def replace(self, records: Iterator[Record]) -> None:
        self._load(records)

    def size(self) -> tuple[int, int]:
        used = sum(len(k) + len(v) for content in self._buckets.values() for k, v in content.items())
        return used, used

    def close(self) -> None:
        self.commit()
