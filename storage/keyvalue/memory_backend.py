"""The backend in memory: for simulation and tests.

With a disk, `flush` writes the whole content as one file and a new backend starts from the last one, so that a crash
leaves what LMDB leaves after a lost machine: a past state with its applied index.
"""

from collections.abc import Iterator, Sequence

from sortedcontainers import SortedDict

from rayplane.storage.env import Disk
from rayplane.storage.keyvalue import stream
from rayplane.storage.keyvalue.backend import PENDING_SHIFT, Record


class MemoryBackend:
    """Ordered dicts."""

    def __init__(self, buckets: Sequence[str], disk: Disk | None = None, path: str = "mvcc.image") -> None:
        self._names = tuple(buckets)
        self._disk, self._path = disk, path
        self._buckets: dict[str, SortedDict[bytes, bytes]] = {name: SortedDict() for name in self._names}
        self._pending = 0
        self._bytes = 0
        self.trusted = True
        if disk is not None and disk.exists(path):
            self.replace(stream.decode([disk.read(path)], self._names))

    @property
    def pending(self) -> int:
        return self._pending

    def get(self, bucket: str, key: bytes) -> bytes | None:
        return self._buckets[bucket].get(key)

    def put(self, bucket: str, key: bytes, value: bytes) -> None:
        content = self._buckets[bucket]
        old = content.get(key)
        self._bytes += len(value) + (len(key) if old is None else -len(old))
        content[key] = value
        self._pending += 1 + (len(value) >> PENDING_SHIFT)

    append = put

    def delete(self, bucket: str, key: bytes) -> None:
        old = self._buckets[bucket].pop(key, None)
        self._bytes -= 0 if old is None else len(key) + len(old)
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

    def reader(self) -> "MemoryReader":
        self.commit()
        return MemoryReader({name: dict(content) for name, content in self._buckets.items()})

    def view(self) -> Iterator[Record]:
        return self.reader().records()

    def replacement(self) -> "MemoryReplacement":
        return MemoryReplacement(self, self._names)

    def replace(self, records: Iterator[Record]) -> None:
        new = self.replacement()
        for record in records:
            new.add(*record)
        new.finish()

    def swap(self, content: dict[str, dict[bytes, bytes]]) -> None:
        """Take this as the whole content."""
        self._buckets = {name: SortedDict(bucket) for name, bucket in content.items()}
        self._bytes = sum(len(k) + len(v) for bucket in content.values() for k, v in bucket.items())
        self._pending = 0

    async def defragment(self) -> None:
        self.commit()

    def size(self) -> tuple[int, int]:
        return self._bytes, self._bytes

    async def idle(self) -> None:
        pass

    def close(self) -> None:
        self.commit()

    def abandon(self) -> None:
        pass


class MemoryReader:
    """A copy of the dicts, in key order; the values are shared."""

    def __init__(self, content: dict[str, dict[bytes, bytes]]) -> None:
        self._content = content

    def get_many(self, bucket: str, keys: Sequence[bytes]) -> list[bytes]:
        content = self._content[bucket]
        return [content[key] for key in keys]

    def scan(self, bucket: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._content[bucket].items():
            if key >= start and (end is None or key < end):
                yield key, value

    def records(self) -> Iterator[Record]:
        return iter([(name, key, value) for name, bucket in self._content.items() for key, value in bucket.items()])

    def close(self) -> None:
        self._content = {name: {} for name in self._content}


class MemoryReplacement:
    """New dicts."""

    def __init__(self, backend: MemoryBackend, names: Sequence[str]) -> None:
        self._backend = backend
        self._content: dict[str, dict[bytes, bytes]] = {name: {} for name in names}

    def add(self, bucket: str, key: bytes, value: bytes) -> None:
        self._content[bucket][key] = value

    def finish(self) -> None:
        self._backend.swap(self._content)

    async def finish_durable(self) -> None:
        self.finish()

    def abandon(self) -> None:
        self._content = {}
