"""The topology in etcd, and the names of former members beside it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.supervisor.changes import RETIRED_MAX, added
from rayplane.control_plane.cluster.supervisor.etcd import EtcdTopologyStore
from rayplane.control_plane.cluster.supervisor.ports import TopologyChanged
from rayplane.control_plane.cluster.topology import RETIRED_PREFIX, Topology, is_retired, spared
from rayplane.proto.etcd import kv_pb2
from tests.apiserver.fake_etcd import FakeEtcd
from tests.cluster.test_supervisor_plan import MACHINES, TOPOLOGY


def test_however_many_members_retire_few_names_are_kept_and_none_is_given_again() -> None:
    async def retire() -> None:
        etcd = FakeEtcd()
        store = EtcdTopologyStore(etcd)  # type: ignore[arg-type]
        revision, given = 0, list[str]()
        for _ in range(200):
            given.append(TOPOLOGY.next_member(await store.retired()))
            revision = await store.save(TOPOLOGY, revision=revision, retire=[given[-1]])
        revision = await store.save(TOPOLOGY, revision=revision, retire=["green"])
        assert len(set(given)) == 200
        assert await store.retired() == {"green", given[-1]}
        with pytest.raises(TopologyChanged):
            await store.save(TOPOLOGY, revision=revision - 1, retire=["blue"])
        assert await store.load() == (TOPOLOGY, revision)
        retired = await store.retired()
        for name in (given[0], given[-1], "green"):
            with pytest.raises(UsageError, match="of members that were removed"):
                added(TOPOLOGY, "member", name, MACHINES, retired)

    asyncio.run(retire())


def test_many_names_of_an_earlier_version_are_forgotten_little_by_little() -> None:
    async def retire() -> None:
        etcd = FakeEtcd()
        store = EtcdTopologyStore(etcd)  # type: ignore[arg-type]
        revision = await store.save(TOPOLOGY, revision=0, retire=[])
        for n in range(200):
            key = RETIRED_PREFIX + b"member-%d" % n
            etcd.live[key] = kv_pb2.KeyValue(key=key, mod_revision=revision)
        for n in range(200, 210):
            revision = await store.save(TOPOLOGY, revision=revision, retire=[f"member-{n}"])
        assert await store.retired() == {"member-209"}

    asyncio.run(retire())


@given(st.sets(st.sampled_from(["green", "blue", *(f"member-{n}" for n in range(12)), "member-x"])))
def test_what_is_spared_says_nothing_new(retired: set[str]) -> None:
    kept = retired - spared(retired)
    assert all(is_retired(name, kept) for name in retired)
    assert sum(name.startswith("member-") and name != "member-x" for name in kept) <= 1
    assert Topology(()).next_member(kept) == Topology(()).next_member(retired) not in retired


def test_names_that_people_gave_are_remembered_up_to_a_limit() -> None:
    retired = {f"green-{n}" for n in range(RETIRED_MAX)}
    with pytest.raises(UsageError, match="leave the name out"):
        added(TOPOLOGY, "member", "blue", MACHINES, retired)
    assert added(TOPOLOGY, "member", "", MACHINES, retired).name == "member-3"
