"""A multi-version key-value store with etcd's semantics.

Owns revisions, key history, compaction, events of the past, the snapshot stream and the buckets that sit beside the
keys (meta, lease, members, alarm, auth). Does not own replication, leases' time, watch delivery or the log.

    store = Store(LmdbBackend(path, BUCKETS))        # or Store(MemoryBackend(BUCKETS))
    with store.write() as txn:                       # no await inside
        txn.put(b"a", b"1", lease=0)
        txn.delete_range(b"b", b"c")
    txn.events, txn.revision                         # [Change], which an mvccpb.Event can be made of; one main revision
    store.set_applied(index, term)                   # same backend transaction as the writes before it
    store.range(b"a", b"z", limit=10)                # RangeResult(kvs, count, more)
    store.events(5, b"a", b"z", max_events=1000)     # EventBatch(groups=[(revision, [Change])], next_revision)
    store.compact(5); store.scrub(1000)              # history below 5 goes at once, its bytes piece by piece
    chunks = store.snapshot(); other.restore(chunks) # consistent cut, digest at the end
    await store.defragment()                         # gives freed space back; `..._gently`: in slices of a loop

Concurrency: single-threaded; every call is synchronous and atomic between two awaits; what awaits says so, and works
on a view of its own. A write
transaction must end before the next begins. Messages handed out are shared: copy before changing one.
"""

from rayplane.storage.mvcc.buckets import BUCKETS
from rayplane.storage.mvcc.errors import (
    CompactedError,
    FutureRevisionError,
    MvccError,
)
from rayplane.storage.mvcc.key_index import KeyIndex
from rayplane.storage.mvcc.past import as_of
from rayplane.storage.mvcc.records import Change
from rayplane.storage.mvcc.results import Applied, EventBatch, Found, RangeResult
from rayplane.storage.mvcc.store import Store, contains
from rayplane.storage.mvcc.write_txn import WriteTxn

__all__ = [
    "BUCKETS",
    "Applied",
    "Change",
    "CompactedError",
    "EventBatch",
    "Found",
    "FutureRevisionError",
    "KeyIndex",
    "MvccError",
    "RangeResult",
    "Store",
    "WriteTxn",
    "as_of",
    "contains",
]
