"""Replicas beside an older build: its directory and calls are understood, and what it cannot know it is not asked."""

import base64
import json
from pathlib import Path

import pytest

from rayplane.control_plane.api.authorization.node_identity import host_identity
from rayplane.control_plane.rpc import Context, Identity
from rayplane.node.volumes import MemoryDirectory, PeerError, ReplicaService
from rayplane.node.volumes.drivers.replicated.manifest import Version
from rayplane.node.volumes.drivers.replicated.replica_client import Replica
from rayplane.node.volumes.errors import NotFilled
from rayplane.proto.rayplane.v1 import volumes_pb2 as pb
from rayplane.storage.env import LocalDisk
from tests.node.volumes.test_replica_store import store
from tests.recorded import unpacked

WRITER = Context(identity=Identity(*host_identity(["n"], fallback="")))


async def test_replicas_of_an_older_build_are_read_and_its_calls_answered(tmp_path: Path) -> None:
    recorded = unpacked(tmp_path)
    replicas = store(LocalDisk(recorded / "node"))
    assert replicas.committed == {"v": Version(1, 1)}
    service = ReplicaService({"n": replicas})
    for name, asked, answered in json.loads((recorded / "replica.json").read_text()):
        request = getattr(pb, {"Capacity": "NodeCapacity"}.get(name, name) + "Request")
        answer = await getattr(service, name)(request.FromString(base64.b64decode(asked)), WRITER)
        if answered:
            # What the older build reads of it is what it would have answered itself.
            assert _without_news(answer) == type(answer).FromString(base64.b64decode(answered))
    replicas.close()


def _without_news(answer: object) -> object:
    if isinstance(answer, pb.NodeCapacityResponse):
        answer.ClearField("knows_filling")
    return answer


async def test_who_does_not_look_whether_a_replica_is_filled_gets_no_vote_of_one_that_is_not() -> None:
    replicas = store()
    await replicas.create("v", 1000, again=True)
    service = ReplicaService({"n": replicas})
    ref = pb.VolumeRef(node="n", volume="v")
    with pytest.raises(NotFilled):
        await service.Prepare(pb.PrepareRequest(ref=ref, epoch=1, writer="n"), WRITER)
    with pytest.raises(NotFilled):
        await service.Inventory(pb.InventoryRequest(ref=ref), WRITER)
    assert (await service.Prepare(pb.PrepareRequest(ref=ref, epoch=1, writer="n", knows_filling=True), WRITER)).filling


class OlderHost:
    """A host whose build knows nothing of replicas that are filled again."""

    created = 0

    async def Capacity(self, request: pb.NodeCapacityRequest, timeout: float) -> pb.NodeCapacityResponse:
        return pb.NodeCapacityResponse(total_bytes=9, free_bytes=9)

    async def Create(self, request: pb.CreateReplicaRequest, timeout: float) -> pb.CreateReplicaResponse:
        self.created += 1
        return pb.CreateReplicaResponse()


async def test_a_lost_replica_is_not_made_again_where_it_would_count_as_an_empty_one() -> None:
    directory, host = MemoryDirectory(), OlderHost()
    directory.addresses["n"] = "n"
    replica = Replica("v", "n", stubs=lambda address: host, directory=directory, timeout_s=1.0)
    with pytest.raises(PeerError, match="older rayplane"):
        await replica.create(1000, again=True)
    assert host.created == 0
    await replica.create(1000)
    assert host.created == 1
