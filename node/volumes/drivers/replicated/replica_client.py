"""The sending end of `rayplane.v1.VolumeReplica`: one volume's replica on one node."""

from collections.abc import Callable
from typing import Any, Protocol

from rayplane.node.volumes.drivers.replicated.manifest import (
    BATCH_BYTES,
    BLOCK_BYTES,
    Difference,
    Entry,
    Version,
    batches,
)
from rayplane.node.volumes.errors import PeerError, called
from rayplane.proto.rayplane.v1 import volumes_pb2 as pb
from rayplane.storage.errors import Code

Stubs = Callable[[str], Any]
"""Address (host:port) -> a stub of VolumeReplica: `await stub.Prepare(request, timeout=seconds)`."""


class Addresses(Protocol):
    """Last known addresses of nodes' hosts."""

    async def address(self, node: str) -> str | None: ...


class Replica:
    """A volume's replica on a node. Every call raises PeerError; the node is looked up anew each time."""

    def __init__(self, volume: str, node: str, *, stubs: Stubs, directory: Addresses, timeout_s: float) -> None:
        self.node = node
        self._volume, self._stubs, self._directory, self._timeout_s = volume, stubs, directory, timeout_s
        self._ref = pb.VolumeRef(node=node, volume=volume)

    async def _call(self, name: str, request: Any) -> Any:
        address = await called(self._directory.address(self.node))
        if address is None:
            raise PeerError(Code.UNAVAILABLE, f"node {self.node} has no known address")
        return await called(getattr(self._stubs(address), name)(request, timeout=self._timeout_s))

    async def free_bytes(self) -> int:
        response = await self._call("Capacity", pb.NodeCapacityRequest(node=self.node))
        return int(response.free_bytes)

    async def create(self, capacity_bytes: int, *, again: bool = False) -> None:
        """`again`: in place of one that was lost; only where that is known to be heeded, as older builds do not."""
        if again and not (await self._call("Capacity", pb.NodeCapacityRequest(node=self.node))).knows_filling:
            raise PeerError(
                Code.UNAVAILABLE,
                f"the host of node {self.node} is of an older rayplane, where a replica that was lost would count as "
                "an empty one: upgrade it",
            )
        request = pb.CreateReplicaRequest(ref=self._ref, capacity_bytes=capacity_bytes, again=again)
        await self._call("Create", request)

    async def resize(self, capacity_bytes: int) -> None:
        await self._call("Resize", pb.ResizeReplicaRequest(ref=self._ref, capacity_bytes=capacity_bytes))

    async def delete(self, epoch: int = 0) -> None:
        """`epoch`: of a writer that gives it up; a newer one keeps it. Without, it goes whoever writes it."""
        await self._call("Delete", pb.DeleteReplicaRequest(ref=self._ref, epoch=epoch))

    async def prepare(self, epoch: int, writer: str) -> Version | None:
        """What it has committed; None for one that was lost and is not filled yet: it knows nothing."""
        response = await self._call("Prepare", self._promise(epoch, writer))
        return None if response.filling else Version.of(response.committed)

    def _promise(self, epoch: int, writer: str) -> pb.PrepareRequest:
        return pb.PrepareRequest(ref=self._ref, epoch=epoch, writer=writer, knows_filling=True)

    def _page(self, after: bytes) -> pb.InventoryRequest:
        return pb.InventoryRequest(ref=self._ref, files=True, after=after, knows_filling=True)

    async def state(self) -> pb.InventoryResponse:
        response: pb.InventoryResponse = await self._call(
            "Inventory", pb.InventoryRequest(ref=self._ref, knows_filling=True)
        )
        return response

    async def manifest(self) -> tuple[Version, dict[bytes, Entry]]:
        """Return what the replica holds. Raises FAILED_PRECONDITION if it changes meanwhile."""
        found: dict[bytes, Entry] = {}
        version, after = None, b""
        while True:
            page = await self._call("Inventory", self._page(after))
            if version is not None and version != Version.of(page.committed):
                raise PeerError(Code.FAILED_PRECONDITION, f"the replica on node {self.node} changed while it was read")
            version = Version.of(page.committed)
            for file in page.files:
                found[file.path] = Entry.of(file)
                after = file.path
            if not page.more:
                return version, found

    async def fetch(self, hashes: list[bytes]) -> list[bytes]:
        """Blocks by hash, of about BATCH_BYTES together; the caller checks them."""
        response = await self._call("Fetch", pb.FetchRequest(ref=self._ref, hashes=hashes))
        return list(response.blocks)

    async def apply_files(self, difference: Difference, *, version: Version) -> None:
        """Stage names and attributes of a change set."""
        request = pb.ApplyRequest(ref=self._ref, epoch=version.epoch, version=version.message())
        size = 0
        for path in difference.removed:
            request.removed.append(path)
            size += len(path)
            if size > BATCH_BYTES // 2:
                await self._call("Apply", request)
                del request.removed[:]
                size = 0
        for path, entry in difference.files.items():
            message = entry.message(path)
            if size and size + message.ByteSize() > BATCH_BYTES:
                await self._call("Apply", request)
                del request.removed[:]
                del request.files[:]
                size = 0
            request.files.append(message)
            size += message.ByteSize()
        # Also where there is nothing to say: it begins the change set.
        await self._call("Apply", request)

    async def apply_blocks(self, blocks: list[bytes], *, version: Version) -> None:
        """Stage blocks of a change set, about BATCH_BYTES of them."""
        await self._call(
            "Apply",
            pb.ApplyRequest(ref=self._ref, epoch=version.epoch, version=version.message(), blocks=blocks),
        )

    async def commit(self, *, base: Version, version: Version) -> None:
        await self._call(
            "Commit",
            pb.CommitRequest(ref=self._ref, epoch=version.epoch, base=base.message(), version=version.message()),
        )


def block_batches(difference: Difference) -> list[list[bytes]]:
    """The new blocks of a change set, in groups that fit one call."""
    lengths = {
        block: difference.files[path].block_bytes or BLOCK_BYTES for block, (path, _) in difference.new_blocks.items()
    }
    return list(batches(lengths, lengths))
