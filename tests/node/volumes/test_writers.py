"""A volume's writer is who its certificate says: no node host writes in the name of another."""

import pytest

from rayplane.control_plane.rpc import Context, Identity
from rayplane.node.volumes import Fenced, ReplicaService, ReplicaStore, Reservations
from rayplane.node.volumes.drivers.replicated.manifest import EMPTY, Version
from rayplane.node.volumes.errors import NotTheWriter
from rayplane.proto.rayplane.v1 import volumes_pb2 as pb
from rayplane.storage.env import SimulatedDisk
from tests.node.volumes.volume_cluster import caller

REF = pb.VolumeRef(node="c", volume="v")
FIRST = Version(1, 1)


@pytest.fixture
async def service() -> ReplicaService:
    """A replica on node c that node a writes with epoch 1."""
    disk = SimulatedDisk()
    store = ReplicaStore("c", disk, Reservations(disk, "c", 1000))
    service = ReplicaService({"c": store})
    await store.create("v", 100)
    await service.Prepare(pb.PrepareRequest(ref=REF, epoch=1, writer="a"), caller("a"))
    return service


@pytest.mark.parametrize(
    "context",
    [
        caller("b"),
        caller("b", "d"),
        Context(identity=Identity("a", ("rayplane:node-hosts",))),
        Context(identity=Identity("system:node:a", ("rayplane:node-hosts",))),
        Context(),
    ],
    ids=["another host", "of several nodes", "no node", "not among the nodes", "nobody"],
)
async def test_a_host_prepares_for_its_own_nodes_only(service: ReplicaService, context: Context) -> None:
    with pytest.raises(NotTheWriter, match="may not write as node a"):
        await service.Prepare(pb.PrepareRequest(ref=REF, epoch=2, writer="a"), context)
    assert service.stores["c"].inventory("v", files=False, after=b"").promised == 1


async def test_a_host_writes_for_each_of_its_nodes(service: ReplicaService) -> None:
    await service.Prepare(pb.PrepareRequest(ref=REF, epoch=2, writer="b"), caller("d", "b"))
    assert service.stores["c"].inventory("v", files=False, after=b"").writer == "b"


async def test_nobody_changes_a_replica_in_the_writers_name(service: ReplicaService) -> None:
    change = pb.ApplyRequest(ref=REF, epoch=1, version=FIRST.message())
    commit = pb.CommitRequest(ref=REF, epoch=1, base=EMPTY.message(), version=FIRST.message())
    with pytest.raises(NotTheWriter):
        await service.Apply(change, caller("b"))
    await service.Apply(change, caller("a"))
    with pytest.raises(NotTheWriter):
        await service.Commit(commit, caller("b"))
    assert service.stores["c"].committed == {"v": EMPTY}
    await service.Commit(commit, caller("a"))
    assert service.stores["c"].committed == {"v": FIRST}


async def test_a_writer_that_was_replaced_learns_that_it_is_fenced(service: ReplicaService) -> None:
    await service.Prepare(pb.PrepareRequest(ref=REF, epoch=2, writer="b"), caller("b"))
    with pytest.raises(Fenced):
        await service.Apply(pb.ApplyRequest(ref=REF, epoch=1, version=FIRST.message()), caller("a"))
    with pytest.raises(Fenced):
        await service.Prepare(pb.PrepareRequest(ref=REF, epoch=1, writer="a"), caller("a"))
