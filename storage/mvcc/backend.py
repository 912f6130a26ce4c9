"""The port between the store and what keeps its bytes.

A backend is a set of ordered maps (buckets) and one open write transaction that every call goes through: reads see
all writes at once, a killed process loses only what came after the last `commit`, a lost machine what came after
the last `flush`.
"""

from collections.abc import Iterator
from typing import Protocol

BUCKETS = ("key", "meta", "lease", "members", "removed_members", "alarm", "auth", "auth_users", "auth_roles")
"""Every bucket there is; order is part of the snapshot format, so append only."""

Record = tuple[str, bytes, bytes]
"""Bucket, key, value."""


class Backend(Protocol):
    """Ordered maps with a write transaction. Unknown buckets raise KeyError."""

    @property
    def pending(self) -> int:
        """Writes since the last commit."""

    @property
    def trusted(self) -> bool:
        """False if the machine stopped uncleanly since the last open: the content may be damaged; restore it."""

    def get(self, bucket: str, key: bytes) -> bytes | None: ...

    def put(self, bucket: str, key: bytes, value: bytes) -> None: ...

    def delete(self, bucket: str, key: bytes) -> None:
        """Nothing happens if the key isn't there."""

    def scan(self, bucket: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end in key order; `end` None is to the last. Write only after it is exhausted."""

    def commit(self) -> None:
        """All writes so far become visible to a reopened backend, in one step."""

    async def flush(self) -> None:
        """Commit and return when everything committed survives a lost machine."""

    def view(self) -> Iterator[Record]:
        """Commit, then all records, by bucket and key, as they are now whatever is written meanwhile."""

    def replace(self, records: Iterator[Record]) -> None:
        """Replace the whole content and commit. If `records` raises, the content is as at the last commit."""

    def size(self) -> tuple[int, int]:
        """Bytes on disk, and bytes of them in use."""

    def close(self) -> None:
        """Commit and release the files; the backend cannot be used afterwards."""
