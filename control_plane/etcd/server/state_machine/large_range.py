"""Large ranges: answered from stored bytes, in slices, with other requests in between.

A stored record is a serialized KeyValue and a RangeResponse is little more than those one after the other, so nothing
is decoded unless it must be compared or cut. All slices read the store as it was when the request's turn came.
"""

import asyncio
from collections.abc import Callable

from rayplane.control_plane.etcd.server.state_machine import kv
from rayplane.control_plane.rpc import Encoded
from rayplane.proto.etcd.kv_pb2 import KeyValue
from rayplane.proto.etcd.rpc_pb2 import RangeRequest, RangeResponse, ResponseHeader
from rayplane.storage.mvcc import Found, Store
from rayplane.storage.mvcc.records import fields, pack

#: Keys from which on a range is answered in slices.
LARGE_KEYS = 512
#: Records read at once, at most, and the bytes of them to aim at.
SLICE_KEYS = 512
SLICE_BYTES = 512 * 1024
_KVS = b"\x12"  # RangeResponse.kvs: field 2, length-delimited


def is_large(store: Store, request: RangeRequest) -> bool:
    """Whether a range is worth slices; an estimate that costs next to nothing."""
    if not request.range_end or request.count_only:
        return False
    if 0 < request.limit < LARGE_KEYS and request.revision in (0, store.revision) and not kv.RangePlan(request).selects:
        return False
    return store.index.count(request.key, request.range_end) >= LARGE_KEYS


async def run_large_range(store: Store, request: RangeRequest, header: Callable[[int], ResponseHeader]) -> Encoded:
    """As `kv.run_range`. Raises CompactedError, FutureRevisionError."""
    plan = kv.RangePlan(request)
    found = await store.find_gently(request.key, request.range_end, revision=request.revision, limit=plan.cut)
    head = RangeResponse(header=header(store.revision))
    records = await _read(store, found)
    if plan.selects:
        records = await _select(plan, records)
    more = 0 < plan.limit < len(records)
    if more:
        del records[plan.limit :]
    if request.keys_only:
        records = await _without_values(records)
    tail = RangeResponse(more=more, count=found.count)
    parts = [head.SerializeToString()]
    for start in range(0, len(records), SLICE_KEYS):
        await asyncio.sleep(0)
        parts.append(b"".join(fields(_KVS, records[start : start + SLICE_KEYS])))
    return Encoded(b"".join([*parts, tail.SerializeToString()]))


async def _read(store: Store, found: Found) -> list[bytes]:
    records: list[bytes] = []
    reader = store.reader()
    try:
        step = SLICE_KEYS // 8
        while len(records) < len(found.revisions):
            if records:
                await asyncio.sleep(0)
            start = len(records)
            read = reader.get_many("key", [pack(rev) for rev in found.revisions[start : start + step]])
            records += read
            step = min(SLICE_KEYS, step * 2) if sum(map(len, read)) < SLICE_BYTES else max(1, step // 2)
    finally:
        reader.close()
    return records


async def _select(plan: kv.RangePlan, records: list[bytes]) -> list[bytes]:
    """Those that pass the filters, in the order asked for."""
    chosen: list[tuple[int | bytes, bytes]] = []
    for start in range(0, len(records), SLICE_KEYS):
        await asyncio.sleep(0)
        for record in records[start : start + SLICE_KEYS]:
            decoded = KeyValue.FromString(record)
            if plan.passes(decoded):
                chosen.append((plan.sort_value(decoded), record))
    if plan.sorts:
        chosen.sort(key=lambda pair: pair[0], reverse=plan.descends)
    return [record for _, record in chosen]


async def _without_values(records: list[bytes]) -> list[bytes]:
    cut: list[bytes] = []
    for start in range(0, len(records), SLICE_KEYS):
        await asyncio.sleep(0)
        for record in records[start : start + SLICE_KEYS]:
            decoded = KeyValue.FromString(record)
            decoded.ClearField("value")
            cut.append(decoded.SerializeToString())
    return cut
