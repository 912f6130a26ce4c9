"""A store as it was: a snapshot without what was written after a revision. Pure."""

from collections.abc import Iterator

from rayplane.storage.keyvalue import stream
from rayplane.storage.mvcc.buckets import BUCKETS
from rayplane.storage.mvcc.errors import CompactedError, FutureRevisionError
from rayplane.storage.mvcc.records import unpack
from rayplane.storage.mvcc.store import META_REVISION, Store


def as_of(store: Store, revision: int) -> Iterator[bytes]:
    """The snapshot that the store would have given right after a revision; leases are those of now.

    History before stays. Raises CompactedError, FutureRevisionError.
    """
    if revision > store.revision:
        raise FutureRevisionError(revision, store.revision)
    if revision < store.compacted_revision:
        raise CompactedError(revision, store.compacted_revision)
    return stream.encode(_until(store, revision), BUCKETS)


def _until(store: Store, revision: int) -> Iterator[tuple[str, bytes, bytes]]:
    for bucket, key, value in stream.decode(store.snapshot(), BUCKETS):
        if bucket == "meta" and key == META_REVISION:
            value = revision.to_bytes(8)
        if bucket != "key" or unpack(key) >> 32 <= revision:
            yield bucket, key, value
