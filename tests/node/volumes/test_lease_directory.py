"""Nodes that hold volumes, as the API tells of them."""

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS
from rayplane.control_plane.client import Informer
from rayplane.node.volumes.drivers.replicated.lease_directory import LeaseDirectory
from tests.fakes import FakeClient

READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def node(name: str, address: str) -> Object:
    return {"metadata": {"name": name, "annotations": {HOST_ADDRESS: address}}, "status": READY}


async def test_a_node_that_joined_gets_no_replica_and_is_not_spoken_to_about_one() -> None:
    api = FakeClient()
    api.put("nodes", node("n1", "192.0.2.1:7000"))
    api.put("nodes", node("edge", "edge.nodes.rayplane.internal@192.0.2.9:7000"))
    nodes = Informer(api, "nodes")  # type: ignore[arg-type]
    nodes.start()
    try:
        directory = LeaseDirectory(api, nodes)  # type: ignore[arg-type]
        assert await directory.nodes() == {"n1": "192.0.2.1:7000"}
        assert (await directory.address("n1"), await directory.address("edge")) == ("192.0.2.1:7000", None)
    finally:
        await nodes.stop()
