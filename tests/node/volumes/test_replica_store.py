"""One node's replicas: whatever is committed is there, whole; what is not used any more is gone."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.node.volumes import CorruptVolume, Fenced, ReplicaStore, Reservations, StaleReplica, VolumeFull
from rayplane.node.volumes.drivers.replicated.manifest import (
    DIRECTORY,
    EMPTY,
    FILE,
    Entry,
    Version,
    difference,
    hash_block,
)
from rayplane.node.volumes.errors import InvalidVolume
from rayplane.proto.rayplane.v1 import volumes_pb2 as pb
from rayplane.storage.env import LocalDisk, SimulatedDisk
from tests.tiers import examples

CONTENT = [b"one", b"two", b"three", b""]


def store(disk: SimulatedDisk | LocalDisk | None = None) -> ReplicaStore:
    disk = disk or SimulatedDisk()
    return ReplicaStore("n", disk, Reservations(disk, "n", 10_000))


def file(*content: bytes) -> Entry:
    return Entry(FILE, 0o644, sum(map(len, content)), 5, tuple(hash_block(c) for c in content))


async def ship(
    target: ReplicaStore, old: dict[bytes, Entry], new: dict[bytes, Entry], *, base: Version, version: Version
) -> None:
    changes = difference(old, new)
    known = {hash_block(c): c for c in CONTENT}
    ref = pb.VolumeRef(node="n", volume="v")
    await target.apply(
        pb.ApplyRequest(
            ref=ref,
            epoch=version.epoch,
            version=version.message(),
            files=[entry.message(path) for path, entry in changes.files.items()],
            removed=changes.removed,
        )
    )
    await target.apply(
        pb.ApplyRequest(
            ref=ref,
            epoch=version.epoch,
            version=version.message(),
            blocks=[known[block] for block in changes.new_blocks],
        )
    )
    await target.commit("v", version.epoch, base=base, version=version)


def held(target: ReplicaStore) -> dict[bytes, Entry]:
    return {f.path: Entry.of(f) for f in target.inventory("v", files=True, after=b"").files}


PATHS = st.sampled_from([b"a", b"b", b"dir/c"])
MANIFEST = st.dictionaries(PATHS, st.lists(st.sampled_from(CONTENT[:3]), max_size=3).map(lambda c: file(*c)))


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(manifests=st.lists(MANIFEST, max_size=6))
async def test_a_replica_holds_the_last_commit_and_nothing_else(manifests: list[dict[bytes, Entry]]) -> None:
    disk = SimulatedDisk()
    target = store(disk)
    await target.create("v", 1000)
    await target.prepare("v", 1, "w")
    old: dict[bytes, Entry] = {}
    base = EMPTY
    for number, manifest in enumerate([*manifests, {}], 1):
        version = Version(1, number)
        await ship(target, old, manifest, base=base, version=version)
        old, base = manifest, version
        assert held(target) == manifest
        target = store(disk)  # as after a crash of the machine
        assert held(target) == manifest and target.committed == {"v": version}
        blocks = sorted({block for entry in manifest.values() for block in entry.blocks})
        assert [hash_block(data) for data in target.fetch("v", blocks)] == blocks
    assert not list(target._backend.scan("block")) and not list(target._backend.scan("count"))


async def test_a_promise_is_kept_over_a_restart() -> None:
    disk = SimulatedDisk()
    target = store(disk)
    await target.create("v", 1000)
    assert await target.prepare("v", 2, "b") == EMPTY
    target = store(disk)
    assert await target.prepare("v", 2, "b") == EMPTY  # its own writer may ask again
    for epoch, writer in ((1, "a"), (2, "a")):
        with pytest.raises(Fenced, match="node b writes with epoch 2"):
            await target.prepare("v", epoch, writer)
    with pytest.raises(Fenced):
        await ship(target, {}, {b"a": file(b"one")}, base=EMPTY, version=Version(1, 1))


async def test_a_new_writer_drops_what_the_old_one_had_begun() -> None:
    target = store()
    await target.create("v", 1000)
    await target.prepare("v", 1, "a")
    await target.apply(
        pb.ApplyRequest(
            ref=pb.VolumeRef(node="n", volume="v"),
            epoch=1,
            version=Version(1, 1).message(),
            blocks=[b"one"],
            files=[file(b"one").message(b"a")],
        )
    )
    await target.prepare("v", 2, "b")
    with pytest.raises(Fenced):
        await target.commit("v", 1, base=EMPTY, version=Version(1, 1))
    assert held(target) == {} and not list(target._backend.scan("block"))


async def test_commits_build_on_what_is_there() -> None:
    target = store()
    await target.create("v", 1000)
    await target.prepare("v", 1, "a")
    await ship(target, {}, {b"a": file(b"one")}, base=EMPTY, version=Version(1, 1))
    await target.commit("v", 1, base=EMPTY, version=Version(1, 1))  # repeated: done already
    with pytest.raises(StaleReplica):
        await ship(target, {}, {b"b": file(b"two")}, base=EMPTY, version=Version(1, 2))
    with pytest.raises(StaleReplica, match="lacks block"):
        await target.apply(
            pb.ApplyRequest(
                ref=pb.VolumeRef(node="n", volume="v"),
                epoch=1,
                version=Version(1, 3).message(),
                files=[file(b"never sent").message(b"c")],
            )
        )
        await target.commit("v", 1, base=Version(1, 1), version=Version(1, 3))
    assert held(target) == {b"a": file(b"one")}


async def test_a_volume_ends_at_its_capacity() -> None:
    target = store()
    await target.create("v", 7)
    await target.prepare("v", 1, "a")
    await ship(target, {}, {b"a": file(b"one", b"two")}, base=EMPTY, version=Version(1, 1))
    with pytest.raises(VolumeFull, match="may hold 7"):
        await ship(
            target,
            {b"a": file(b"one", b"two")},
            {b"a": file(b"one", b"two"), b"b": file(b"three")},
            base=Version(1, 1),
            version=Version(1, 2),
        )
    assert held(target) == {b"a": file(b"one", b"two")}


@pytest.mark.parametrize("path", [b"", b"..", b"a/../b", b"/a", b"a//b", b"a\0b"])
async def test_paths_stay_inside(path: bytes) -> None:
    target = store()
    await target.create("v", 1000)
    await target.prepare("v", 1, "a")
    with pytest.raises(InvalidVolume):
        await ship(target, {}, {path: Entry(DIRECTORY, 0o755)}, base=EMPTY, version=Version(1, 1))


async def test_damaged_blocks_are_not_served() -> None:
    target = store()
    await target.create("v", 1000)
    await target.prepare("v", 1, "a")
    await ship(target, {}, {b"a": file(b"one")}, base=EMPTY, version=Version(1, 1))
    ((key, _),) = list(target._backend.scan("block"))
    target._backend.put("block", key, b"oNe")
    with pytest.raises(CorruptVolume, match="delete this replica"):
        target.fetch("v", [hash_block(b"one")])


async def test_deleting_leaves_other_volumes_alone(tmp_path: Path) -> None:
    target = store(LocalDisk(tmp_path))
    for volume in ("v", "w"):
        await target.create(volume, 1000)
    await target.prepare("v", 1, "a")
    await ship(target, {}, {b"a": file(b"one")}, base=EMPTY, version=Version(1, 1))
    await target.delete("w")
    assert target.volumes() == ["v"] and held(target) == {b"a": file(b"one")}
    await target.delete("v")
    assert target.volumes() == [] and target.capacity() == (10_000, 10_000)
    assert not list(target._backend.scan("block")) and not list(target._backend.scan("file"))
    target.close()


async def test_inventories_come_in_pages() -> None:
    target = store()
    await target.create("v", 1000)
    await target.prepare("v", 1, "a")
    long = {b"%04d" % n + b"x" * 3000: Entry(DIRECTORY, 0o755) for n in range(1000)}
    await ship(target, {}, long, base=EMPTY, version=Version(1, 1))
    found: dict[bytes, Entry] = {}
    after, pages = b"", 0
    while True:
        page = target.inventory("v", files=True, after=after)
        pages += 1
        assert page.ByteSize() < 4 << 20
        for item in page.files:
            assert item.path not in found
            found[item.path] = Entry.of(item)
            after = item.path
        if not page.more:
            break
    assert pages > 1 and found == long
