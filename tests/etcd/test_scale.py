"""Large ranges: answers in slices are those given at once."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.etcd.server.state_machine import kv
from rayplane.control_plane.etcd.server.state_machine.large_range import LARGE_KEYS, is_large, run_large_range
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.keyvalue import LmdbBackend, MemoryBackend
from rayplane.storage.mvcc import BUCKETS, Store
from tests.tiers import examples

KEYS = 3_000
R = pb.RangeRequest


def header(revision: int) -> pb.ResponseHeader:
    return pb.ResponseHeader(revision=revision)


@pytest.fixture(scope="module", params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    rng = random.Random(1)
    path = tmp_path_factory.mktemp("scale")
    made = Store(MemoryBackend(BUCKETS) if request.param == "memory" else LmdbBackend(path, BUCKETS))
    for number in range(KEYS):
        with made.write() as txn:
            txn.put(b"k%04d" % rng.randrange(KEYS), rng.randbytes(rng.choice((0, 1, 127, 128, 300))), number % 3)
            if number % 50 == 49:
                txn.delete_range(b"k%04d" % rng.randrange(KEYS))
    return made


REQUEST = st.fixed_dictionaries(
    {
        "limit": st.sampled_from([0, LARGE_KEYS, 1_000, 10_000]),
        "revision": st.sampled_from([0, KEYS // 2, KEYS]),
        "keys_only": st.booleans(),
        "sort_order": st.sampled_from([R.NONE, R.ASCEND, R.DESCEND]),
        "sort_target": st.sampled_from([R.KEY, R.VERSION, R.CREATE, R.MOD, R.VALUE]),
        "min_mod_revision": st.sampled_from([0, 1_000]),
        "max_create_revision": st.sampled_from([0, 2_000]),
    }
)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(options=REQUEST)
async def test_a_large_range_is_answered_as_a_small_one(store: Store, options: dict[str, Any]) -> None:
    request = R(key=b"k", range_end=b"l", **options)
    assert is_large(store, request)
    wanted = kv.run_range(store, request)
    answer = await run_large_range(store, request, header)
    assert pb.RangeResponse.FromString(answer.data) == wanted


async def test_a_large_range_is_of_one_moment(store: Store) -> None:
    request = R(key=b"k", range_end=b"l")
    wanted = kv.run_range(store, request)
    ranging, turns = asyncio.ensure_future(run_large_range(store, request, header)), 0
    await asyncio.sleep(0)
    while not ranging.done():
        with store.write() as txn:
            txn.put(b"k%04d" % turns, b"later")
        store.compact(store.revision)
        store.scrub(1_000_000)
        store.commit()
        turns += 1
        await asyncio.sleep(0)
    assert turns > 2
    assert pb.RangeResponse.FromString((await ranging).data) == wanted
