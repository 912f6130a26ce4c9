"""The receiving end of `rayplane.v1.VolumeReplica`: replicas of all nodes of a host.

Whoever may call (a node host, as its policy says) writes in the name of its own nodes only: the writer that `Prepare`
names, and that `Apply` and `Commit` speak for, must be a node of the caller's certificate.
"""

from collections.abc import Mapping

from rayplane.control_plane.api.authorization.node_identity import nodes_of
from rayplane.control_plane.rpc import Context
from rayplane.node.volumes.drivers.replicated.manifest import Version
from rayplane.node.volumes.drivers.replicated.replica_store import ReplicaStore
from rayplane.node.volumes.errors import NotFilled, NotTheWriter, VolumeNotFound
from rayplane.proto.rayplane.v1 import volumes_pb2 as pb


class ReplicaService:
    """Handler of `rayplane.v1.VolumeReplica` for all nodes of a host."""

    def __init__(self, stores: Mapping[str, ReplicaStore]) -> None:
        self.stores = stores

    def _store(self, node: str) -> ReplicaStore:
        try:
            return self.stores[node]
        except KeyError:
            raise VolumeNotFound(f"node {node} is not on this host") from None

    async def Capacity(self, request: pb.NodeCapacityRequest, context: Context) -> pb.NodeCapacityResponse:
        total, free = self._store(request.node).capacity()
        return pb.NodeCapacityResponse(total_bytes=total, free_bytes=free, knows_filling=True)

    async def Create(self, request: pb.CreateReplicaRequest, context: Context) -> pb.CreateReplicaResponse:
        await self._store(request.ref.node).create(request.ref.volume, request.capacity_bytes, again=request.again)
        return pb.CreateReplicaResponse()

    async def Resize(self, request: pb.ResizeReplicaRequest, context: Context) -> pb.ResizeReplicaResponse:
        await self._store(request.ref.node).resize(request.ref.volume, request.capacity_bytes)
        return pb.ResizeReplicaResponse()

    async def Delete(self, request: pb.DeleteReplicaRequest, context: Context) -> pb.DeleteReplicaResponse:
        await self._store(request.ref.node).delete(request.ref.volume, request.epoch)
        return pb.DeleteReplicaResponse()

    async def Prepare(self, request: pb.PrepareRequest, context: Context) -> pb.PrepareResponse:
        store = self._store(request.ref.node)
        _must_be(context, request.writer)
        _must_know(store, request)
        committed = await store.prepare(request.ref.volume, request.epoch, request.writer)
        return pb.PrepareResponse(committed=committed.message(), filling=store.is_filling(request.ref.volume))

    async def Apply(self, request: pb.ApplyRequest, context: Context) -> pb.ApplyResponse:
        store = self._store(request.ref.node)
        _must_be(context, store.writer(request.ref.volume, request.epoch))
        await store.apply(request)
        return pb.ApplyResponse()

    async def Commit(self, request: pb.CommitRequest, context: Context) -> pb.CommitResponse:
        store = self._store(request.ref.node)
        _must_be(context, store.writer(request.ref.volume, request.epoch))
        base, version = Version.of(request.base), Version.of(request.version)
        await store.commit(request.ref.volume, request.epoch, base=base, version=version)
        return pb.CommitResponse()

    async def Inventory(self, request: pb.InventoryRequest, context: Context) -> pb.InventoryResponse:
        store = self._store(request.ref.node)
        _must_know(store, request)
        return store.inventory(request.ref.volume, files=request.files, after=request.after)

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> pb.FetchResponse:
        return pb.FetchResponse(blocks=self._store(request.ref.node).fetch(request.ref.volume, list(request.hashes)))


def _must_know(store: ReplicaStore, request: pb.PrepareRequest | pb.InventoryRequest) -> None:
    """Raises NotFilled where the caller, of an older build, would take a replica that was lost for an empty one."""
    if not request.knows_filling and store.is_filling(request.ref.volume):
        raise NotFilled(f"node {request.ref.node} lost its replica of {request.ref.volume}, and it is not filled again")


def _must_be(context: Context, node: str) -> None:
    """Raises NotTheWriter unless the caller is the host of this node."""
    caller = context.identity
    nodes = nodes_of(caller.user, caller.groups) if caller is not None else None
    if node not in (nodes or ()):
        name = caller.user if caller is not None else "a caller without a certificate"
        raise NotTheWriter(f"{name} may not write as node {node}: only the host of that node may")
