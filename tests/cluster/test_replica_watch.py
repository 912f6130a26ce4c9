"""Volumes that lost a replica are watched until each is rebuilt, and judged by what had been acknowledged."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.replicas import Content, Replicas
from rayplane.control_plane.cluster.trial.replica_watch import ReplicaWatch
from rayplane.control_plane.faults.vocabulary import REPLICA, REPLICA_IN_USE, BadTarget, Target
from rayplane.node.volumes.drivers.replicated.directory import VolumeRecord
from rayplane.node.volumes.drivers.replicated.manifest import Entry, Version
from rayplane.proto.rayplane.v1.volumes_pb2 import FILE

RECORD = VolumeRecord("v", 1, ("a", "b", "c"), epoch=1, writer="b")


def content(generation: int, *blocks: bytes) -> Content:
    files = {b"f": Entry(FILE, 0o644, 1, blocks=blocks)} if blocks else {}
    return Content(Version(1, generation), files)


class Volumes(Replicas):
    """Replicas of one volume, that of the claim `data`."""

    def __init__(self) -> None:
        self.held: dict[str, Content] = {}

    async def volumes(self) -> dict[str, VolumeRecord]:
        return {"data": RECORD}

    async def contents(self, record: VolumeRecord) -> Mapping[str, Content]:
        return self.held


@pytest.mark.parametrize(
    "target,nodes",
    [
        (Target(REPLICA_IN_USE, "data"), {"b"}),
        (Target(REPLICA, "data"), {"a", "c"}),
        (Target(REPLICA, "data@c"), {"c"}),
        (Target(REPLICA, count=1), {"a", "c"}),
    ],
)
async def test_a_target_means_the_replica_in_use_or_another(target: Target, nodes: set[str]) -> None:
    found = {await Volumes().chosen(target, random.Random(n)) for n in range(20)}
    assert found == {(f"data@{node}",) for node in nodes}
    assert Target.parse(str(target)) == target


async def test_who_is_not_there_is_told() -> None:
    with pytest.raises(ClusterError, match="claim other"):
        await Volumes().chosen(Target(REPLICA, "other"), random.Random(1))
    with pytest.raises(BadTarget):
        Target.parse("pod data@c")


async def test_a_volume_is_watched_until_its_replica_holds_again_what_was_acknowledged() -> None:
    volumes = Volumes()
    lost: list[str] = []
    said: list[str] = []
    watch = ReplicaWatch(volumes, lost.append, said.append)
    volumes.held = {"a": content(3, b"x"), "b": content(3, b"x"), "c": content(2)}
    watch.watch(await watch.acknowledged(["data@b"]))
    del volumes.held["b"]
    assert "b, c" in await watch.missing()
    volumes.held |= {"b": content(2), "c": content(3, b"x")}
    assert "on b" in await watch.missing() and not watch.judged
    volumes.held["b"] = content(4, b"y")
    assert await watch.missing() == "" and watch.judged == 1
    assert not lost and "rebuilt on a, b, c" in said[0]


@pytest.mark.parametrize("after", [{"b": content(3)}, {"b": content(4, b"x"), "c": content(4, b"y")}])
async def test_other_bytes_than_others_hold_are_a_loss(after: Any) -> None:
    volumes = Volumes()
    lost: list[str] = []
    watch = ReplicaWatch(volumes, lost.append, lambda text: None)
    volumes.held = dict.fromkeys("abc", content(3, b"x"))
    watch.watch(await watch.acknowledged(["data@b"]))
    volumes.held |= after
    assert await watch.missing() == ""
    assert len(lost) == 1 and "other bytes" in lost[0]


async def test_what_no_majority_holds_was_promised_to_nobody() -> None:
    volumes = Volumes()
    watch = ReplicaWatch(volumes, lambda text: None, lambda text: None)
    volumes.held = {"a": content(3, b"x")}
    assert await watch.acknowledged(["data@b"]) == {}
