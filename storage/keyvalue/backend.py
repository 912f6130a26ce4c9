"""The port between a store and the file that keeps its bytes.

A backend is a set of ordered maps (buckets) and one open write transaction that every call goes through: reads see
all writes at once, a killed process loses only what came after the last `commit`, a lost machine what came after
the last `flush`.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

PENDING_SHIFT = 12
"""A write counts as pending once, and once more for each `1 << PENDING_SHIFT` bytes."""

Record = tuple[str, bytes, bytes]
"""Bucket, key, value."""


class Reader(Protocol):
    """The content of one moment, whatever is written meanwhile. Close it soon: it keeps freed space from reuse."""

    def get_many(self, bucket: str, keys: Sequence[bytes]) -> list[bytes]:
        """Values in the order of the keys; KeyError if one is missing."""

    def scan(self, bucket: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end in key order; `end` None is to the last."""

    def records(self) -> Iterator[Record]:
        """Everything, by bucket and key."""

    def close(self) -> None:
        """Give the reader's space back. May be called again."""


class Replacement(Protocol):
    """New content in the making, beside the present one, which goes on being read and written until the end."""

    def add(self, bucket: str, key: bytes, value: bytes) -> None:
        """Records come by bucket and key."""

    def finish(self) -> None:
        """The new content replaces the present one, in one step."""

    async def finish_durable(self) -> None:
        """As `finish`, once the new content survives a lost machine."""

    def abandon(self) -> None:
        """Forget the new content; nothing happens after `finish`."""


class Backend(Protocol):
    """Ordered maps with a write transaction. Unknown buckets raise KeyError."""

    @property
    def pending(self) -> int:
        """Writes since the last commit; one of many KiB counts for several."""

    @property
    def trusted(self) -> bool:
        """False if the machine stopped uncleanly since the last open: the content may be damaged; restore it."""

    def get(self, bucket: str, key: bytes) -> bytes | None: ...

    def put(self, bucket: str, key: bytes, value: bytes) -> None: ...

    def append(self, bucket: str, key: bytes, value: bytes) -> None:
        """As `put`, for a key above all others: faster, and denser on disk."""

    def delete(self, bucket: str, key: bytes) -> None:
        """Nothing happens if the key isn't there."""

    def scan(self, bucket: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end in key order; `end` None is to the last. Write only after it is exhausted."""

    def commit(self) -> None:
        """All writes so far become visible to a reopened backend, in one step."""

    async def flush(self) -> None:
        """Commit and return when everything committed survives a lost machine."""

    def reader(self) -> Reader:
        """Commit, then what is there now, to be read at leisure."""

    def view(self) -> Iterator[Record]:
        """All records of `reader`, which is closed when they end or are dropped."""

    def replacement(self) -> Replacement:
        """Begin new content; it must be finished or abandoned."""

    def replace(self, records: Iterator[Record]) -> None:
        """Replace the whole content and commit. If `records` raises, the content is as at the last commit."""

    async def defragment(self) -> None:
        """Give back the space that deleted records left, in slices, while reading and writing go on."""

    def size(self) -> tuple[int, int]:
        """Bytes on disk, and bytes of them in use."""

    async def idle(self) -> None:
        """Return when no thread works on the files any more: then close or abandon the backend."""

    def close(self) -> None:
        """Commit and release the files; the backend cannot be used afterwards, nor what still reads it."""

    def abandon(self) -> None:
        """Release the files as they were committed last; the backend cannot be used afterwards."""
