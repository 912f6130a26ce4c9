"""Reading all objects of a resource from etcd, for a cache that follows from there on."""

import asyncio
from collections.abc import Callable

from rayplane.control_plane.api.errors import Expired, ServiceUnavailable
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.storage.entries import Entry
from rayplane.control_plane.apiserver.storage.store import Storage
from rayplane.control_plane.backoff import Backoff

_PAGE = 1000
_RETRIES = Backoff(0.05, 1.0)
# What was compacted while it was read is read again; so often it has lost a race with compaction, not more.
_TRIES = 20


async def read_all(
    info: ResourceInfo, storage: Storage, *, floor: Callable[[], int], position: Callable[[], int]
) -> tuple[list[Entry], int]:
    """All objects at a revision from which on the history is here: `floor` and `position` are where it begins and ends.

    As they were where the kept history begins; where etcd has compacted that, now or while the pages are read, as
    they are where the stream is by then. ServiceUnavailable when compaction is faster every time.
    """
    revision = floor()
    for attempt in range(_TRIES):
        try:
            entries = await _snapshot(info, storage, revision)
        except Expired:
            # The stream, too, finds out and goes on from now: until then its position may be compacted as well.
            await asyncio.sleep(_RETRIES.pause_s(attempt))
            revision = position()
            continue
        if revision >= floor():
            return entries, revision
        revision = floor()
    raise ServiceUnavailable(f"{info.name} cannot be loaded: etcd's history is compacted too fast", retry_after=1)


async def _snapshot(info: ResourceInfo, storage: Storage, revision: int) -> list[Entry]:
    prefix = info.storage_prefix
    start, entries = prefix, list[Entry]()
    while True:
        page = await storage.page(info, prefix, start=start, limit=_PAGE, revision=revision)
        entries.extend(page.entries)
        if page.left <= 0:
            return entries
        start = page.last_key + "\0"
