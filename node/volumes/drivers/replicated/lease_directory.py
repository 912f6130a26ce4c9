"""The records of replicated volumes, kept as Leases at the API.

A volume's record is a Lease in kube-system: its holder is the writing node, its transitions are the epoch, and the
whole record is in an annotation. The API server compares resource versions, so the Lease is as linearizable as etcd.
"""

import contextlib
from dataclasses import asdict

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Conflict, NotFound
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import member_address
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.node.volumes.drivers.replicated.directory import VolumeRecord
from rayplane.node.volumes.errors import PeerError
from rayplane.storage.errors import Code

NAMESPACE = "kube-system"
RECORD = "rayplane.io/volume-record"


class LeaseDirectory:
    """The `Directory` of a cluster: one Lease per volume. Failing calls raise PeerError."""

    def __init__(self, client: ApiClient, nodes: Informer) -> None:
        self._client = client
        self._nodes = nodes

    async def read(self, volume_id: str) -> tuple[VolumeRecord, int] | None:
        try:
            lease = await self._client.get(LEASES, _name(volume_id), NAMESPACE)
        except NotFound:
            return None
        except ApiError as e:
            raise PeerError(Code.UNAVAILABLE, e.message) from e
        return _record(lease), int(meta.resource_version(lease))

    async def records(self) -> list[VolumeRecord]:
        """All of them. Raises ApiError."""
        return await records_of(self._client)

    async def write(self, record: VolumeRecord, revision: int) -> int | None:
        lease = _lease(record, revision)
        try:
            if revision:
                written = await self._client.update(LEASES, lease)
            else:
                written = await self._client.create(LEASES, lease)
        except (AlreadyExists, Conflict, NotFound):
            return None
        except ApiError as e:
            raise PeerError(Code.UNAVAILABLE, e.message) from e
        return int(meta.resource_version(written))

    async def remove(self, volume_id: str) -> None:
        try:
            with contextlib.suppress(NotFound):
                await self._client.delete(LEASES, _name(volume_id), NAMESPACE)
        except ApiError as e:
            raise PeerError(Code.UNAVAILABLE, e.message) from e

    async def nodes(self) -> dict[str, str]:
        await self._nodes.synced()
        ready = (n for n in self._nodes.list() if meta.condition_is(n, "Ready") and not meta.is_deleting(n))
        found = {meta.name(n): member_address(n) for n in ready}
        return {name: address for name, address in sorted(found.items()) if address}

    async def address(self, node: str) -> str | None:
        await self._nodes.synced()
        found = self._nodes.get("", node)
        return (member_address(found) or None) if found is not None else None


async def records_of(client: ApiClient) -> list[VolumeRecord]:
    """Those of all volumes of a cluster. Raises ApiError."""
    leases = (await client.list(LEASES, NAMESPACE)).items
    return [_record(lease) for lease in leases if RECORD in meta.annotations(lease)]


def _name(volume_id: str) -> str:
    return f"volume-{volume_id.lower()}"


def _record(lease: Object) -> VolumeRecord:
    record = orjson.loads(meta.annotations(lease)[RECORD])
    # What the API server lets only a node's own host write: who writes the volume.
    writer = meta.spec(lease).get("holderIdentity") or ""
    return VolumeRecord(**{**record, "replicas": tuple(record["replicas"]), "writer": writer})


def _lease(record: VolumeRecord, revision: int) -> Object:
    metadata: Object = {
        "name": _name(record.volume_id),
        "namespace": NAMESPACE,
        "annotations": {RECORD: orjson.dumps(asdict(record)).decode()},
    }
    if revision:
        metadata["resourceVersion"] = str(revision)
    spec: Object = {"leaseTransitions": record.epoch}
    if record.writer:
        spec["holderIdentity"] = record.writer
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
