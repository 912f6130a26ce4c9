"""Replicas of replicated volumes in a running cluster: whom a target means, what they hold, and the loss of one.

A replica is told by the volume's claim, or the volume itself where no claim has it, and its node: `data@node-1`.
"""

import asyncio
import contextlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.node_annotations import member_address
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.faults.vocabulary import REPLICA_IN_USE, Target
from rayplane.control_plane.rpc import Network, Stub
from rayplane.node.volumes.drivers.replicated.directory import VolumeRecord
from rayplane.node.volumes.drivers.replicated.lease_directory import records_of
from rayplane.node.volumes.drivers.replicated.manifest import Manifest, Version, majority, used_bytes
from rayplane.node.volumes.drivers.replicated.replica_client import Replica
from rayplane.node.volumes.errors import PeerError
from rayplane.proto.rayplane.v1 import volumes_pb2 as pb
from rayplane.storage.errors import Code

NAMESPACE = "default"
CALL_S = 5.0
READ_AGAIN = 5
"""So often is read again what changes while it is read."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of one replica."""

    version: Version
    files: Manifest

    def __str__(self) -> str:
        return f"{len(self.files)} files, {used_bytes(self.files)} bytes"


class Replicas:
    """A view of the replicated volumes that pods use, through the API and the hosts of their nodes."""

    def __init__(self, api: ApiClient, network: Network) -> None:
        self._api = api
        self._network = network

    async def volumes(self) -> dict[str, VolumeRecord]:
        """Volumes that some node writes, by claim of `default`. Raises ClusterError."""
        try:
            records, found = await asyncio.gather(records_of(self._api), self._api.list("persistentvolumes"))
        except ApiError as e:
            raise ClusterError(f"volumes cannot be listed: {e}") from e
        used = {one.volume_id: one for one in records if one.writer and not one.deleted}
        claims: dict[str, VolumeRecord] = {}
        for volume in found.items:
            spec = meta.spec(volume)
            claim, handle = spec.get("claimRef") or {}, (spec.get("csi") or {}).get("volumeHandle")
            if claim.get("namespace") == NAMESPACE and handle in used:
                claims[claim["name"]] = used[handle]
        return claims

    async def chosen(self, target: Target, rng: random.Random) -> tuple[str, ...]:
        """Replicas that a target means now. Raises ClusterError when there is none."""
        there = sorted(
            f"{claim}@{node}"
            for claim, record in (await self.volumes()).items()
            for node in record.replicas
            if (node == record.writer) == (target.role == REPLICA_IN_USE)
            and target.name in ("", claim, f"{claim}@{node}")
        )
        if not there:
            of = f"the claim {target.name}" if target.name else "any claim"
            raise ClusterError(f"there is no {target.role} now of {of} of the namespace {NAMESPACE} that a pod uses")
        return Target(count=target.count or 1).choose(there, rng)

    async def lose(self, name: str) -> None:
        """The node forgets what it has stored. Raises ClusterError."""
        claim, node = name.split("@")
        record = (await self.volumes()).get(claim)
        if record is None:
            raise ClusterError(f"no pod uses a replicated volume of the claim {claim} now")
        try:
            await (await self._replica(record.volume_id, node)).delete()
        except PeerError as e:
            raise ClusterError(f"{name}: {e}") from e

    async def contents(self, record: VolumeRecord) -> Mapping[str, Content]:
        """What those replicas hold, by node, that are there and whole. Raises ClusterError."""
        try:
            found = await asyncio.gather(*(self._content(record.volume_id, node) for node in record.replicas))
        except ApiError as e:
            raise ClusterError(f"nodes cannot be listed: {e}") from e
        return {node: one for node, one in zip(record.replicas, found, strict=True) if one is not None}

    async def _content(self, volume: str, node: str) -> Content | None:
        replica = await self._replica(volume, node)
        for _ in range(READ_AGAIN):
            with contextlib.suppress(PeerError):
                return None if (await replica.state()).filling else Content(*await replica.manifest())
        return None

    async def _replica(self, volume: str, node: str) -> Replica:
        return Replica(volume, node, stubs=self._stub, directory=_Hosts(self._api), timeout_s=CALL_S)

    def _stub(self, address: str) -> Stub:
        return Stub(self._network.channel(address), pb.DESCRIPTOR.services_by_name["VolumeReplica"])


class _Hosts:
    """Addresses of nodes' hosts."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def address(self, node: str) -> str | None:
        try:
            return member_address(await self._api.get("nodes", node)) or None
        except ApiError as e:
            raise PeerError(Code.UNAVAILABLE, e.message) from e


def acknowledged(record: VolumeRecord, contents: Mapping[str, Content]) -> Content | None:
    """The newest that a majority holds, and so was promised to whoever wrote it; None where fewer answer."""
    newest = sorted(contents.values(), key=lambda one: one.version, reverse=True)
    needed = majority(record.replicas)
    return newest[needed - 1] if len(newest) >= needed else None
