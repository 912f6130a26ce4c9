"""The volume manager: persistent volumes of the pods of a host, from a claim to a directory.

Makes the drivers of each node (local and replicated) on a part of the host's disk of its own, serves them as CSI and
to other hosts' replicas, and publishes volumes for pods. A volume which several pods of a node use is
published once. Drivers are made when first used: a host with hundreds of simulated nodes opens no store for each.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import LOCAL, REPLICATED
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.volumes import claim_name
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.rpc import RpcError, Service, Stub
from rayplane.node import callers
from rayplane.node.errors import MountError
from rayplane.node.volumes import (
    Backend,
    CsiDriver,
    LocalBackend,
    Published,
    ReplicaService,
    ReplicaStore,
    ReplicatedBackend,
    Reservations,
    VolumeError,
)
from rayplane.node.volumes.attachments import Attachments
from rayplane.node.volumes.drivers.replicated.lease_directory import LeaseDirectory
from rayplane.node.volumes.drivers.replicated.upkeep import Upkeep
from rayplane.node.volumes.projected import mount_failed
from rayplane.proto.csi import csi_pb2
from rayplane.proto.rayplane.v1 import volumes_pb2
from rayplane.storage.beneath import is_whole
from rayplane.storage.env import Clock, Disk, SubDisk

log = logging.getLogger(__name__)

VERSION = "1.0.0"
T = TypeVar("T")


class NodePods(Protocol):
    """The pods of the nodes of a host."""

    def live(self, node: str) -> Iterable[Object]:
        """Those that run or are going to."""

    def stop(self, node: str, uids: Collection[str], reason: str, message: str) -> None:
        """Stop the containers of these pods; the Event on each says why."""


class VolumeManager:
    """Volumes of the nodes `names`. `start` before the host serves, `stop` after its pods have ended.

    `channel`: an address (host:port) to a channel for stubs; `capacity_bytes`: what one node's volumes may hold.
    """

    def __init__(
        self,
        names: Sequence[str],
        disk: Disk,
        clock: Clock,
        *,
        client: ApiClient,
        directory: LeaseDirectory,
        channel: Callable[[str], Any],
        pods: NodePods,
        attachments: Attachments,
        capacity_bytes: int,
    ) -> None:
        self._attachments = attachments
        self._client, self._directory, self._channel, self._pods = client, directory, channel, pods
        self._clock, self._capacity_bytes = clock, capacity_bytes
        self._disks = {name: SubDisk(disk, name) for name in names}
        self._ledgers: dict[str, Reservations] = {}
        self._stores: _Lazy[ReplicaStore] = _Lazy(names, self._make_store)
        self._local: _Lazy[LocalBackend] = _Lazy(names, self._make_local)
        self._replicated: _Lazy[ReplicatedBackend] = _Lazy(names, self._make_replicated)
        self._upkeep = Upkeep(self._stores.made, directory=directory, stubs=self._stub)
        self._users: dict[tuple[str, str], dict[str, None]] = {}  # (node, volume) to uids of pods
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def start(self) -> None:
        """Open what is on the disk."""
        for name, disk in self._disks.items():
            if disk.exists("volumes/replicas") or disk.exists("volumes/replicas.image"):
                await self._replicated[name].start()
        await self._upkeep.start()

    async def stop(self) -> None:
        await self._upkeep.stop()
        for replicated in self._replicated.made():
            await replicated.stop()
        for local in self._local.made():
            await local.stop()

    def space(self) -> dict[str, tuple[int, int]]:
        """Bytes that the volumes of each node may hold, and those that are free, of nodes that have had any."""
        return {node: (ledger.total_bytes, ledger.free_bytes) for node, ledger in self._ledgers.items()}

    def services(self) -> list[Service]:
        driver = CsiDriver({LOCAL: self._local, REPLICATED: self._replicated}, version=VERSION)
        replicas = volumes_pb2.DESCRIPTOR.services_by_name["VolumeReplica"]
        return [
            *(Service(csi_pb2.DESCRIPTOR.services_by_name[n], driver, callers=c) for n, c in callers.CSI.items()),
            Service(replicas, ReplicaService(self._stores), callers=callers.VOLUME_REPLICA),
        ]

    def in_use(self, node: str) -> list[str]:
        """Volumes as the node's status lists those that its pods use."""
        return self._attachments.in_use(node)

    # --- pods -------------------------------------------------------------------------------------

    async def publish(self, pod: Object, volume: dict[str, Any], *, node: str) -> Published:
        """Make a pod's claim usable on `node`. Raises MountError, also when the claim is not bound yet."""
        source = await self._source(pod, volume)
        if "csi" not in source:
            return Published(_directory_of(volume, source), block=source.get("volumeMode") == "Block")
        if source["csi"]["driver"] not in (LOCAL, REPLICATED):
            await self._attachments.take(pod, volume["name"], source["csi"], node=node)
            return Published("")
        backend, volume_id = self._backend(source["csi"], node), source["csi"]["volumeHandle"]
        key = (node, volume_id)
        # First, so that a pod that ends while this is under way gives back what came of it, and one that does already
        # leaves it here.
        self._users.setdefault(key, {})[meta.uid(pod)] = None
        async with self._locks.setdefault(key, asyncio.Lock()):
            try:
                return await backend.publish(volume_id)
            except (VolumeError, ApiError, RpcError, OSError) as e:
                raise mount_failed(volume["name"], f"rpc error: {e}") from e

    async def unpublish(self, pod: Object, *, node: str) -> None:
        """The pod has ended: give back each volume it was the last to use on `node`."""
        self._attachments.give_back(pod, node=node)
        uid = meta.uid(pod)
        for key in [k for k, users in self._users.items() if k[0] == node and uid in users]:
            async with self._locks.setdefault(key, asyncio.Lock()):
                users = self._users.get(key, {})
                users.pop(uid, None)
                if users:
                    continue
                self._users.pop(key, None)
                await self._give_back(key)
            self._locks.pop(key, None)

    async def release_unused(self) -> None:
        """After a restart: nobody here uses the volumes which an earlier life of these nodes had in use, unless one of
        the pods that are here now claims them."""
        held = [(node, record) for record in await self._directory.records() if (node := record.writer) in self._disks]
        if not held:
            return
        volumes = (await self._client.list("persistentvolumes")).items
        claims = {_handle(v): meta.spec(v).get("claimRef") or {} for v in volumes}
        for node, record in held:
            claim = claims.get(record.volume_id, {})
            wanted = _claimed(self._pods.live(node))
            if (claim.get("namespace"), claim.get("name")) in wanted or (node, record.volume_id) in self._users:
                continue
            try:
                await self._replicated[node].release(record.volume_id, node)
            except VolumeError as e:
                log.warning("volume %s stays in use by node %s: %s", record.volume_id, node, e)

    async def _give_back(self, key: tuple[str, str]) -> None:
        node, volume_id = key
        for backends in (self._local, self._replicated):
            backend = backends.known(node)
            if backend is None:
                continue
            try:
                await backend.unpublish(volume_id)
            except (VolumeError, ApiError, RpcError, OSError) as e:
                # The next publication takes the volume over by its epoch. Elsewhere it finds what a majority has.
                log.warning("volume %s of node %s was not given back: %s", volume_id, node, e)

    async def _source(self, pod: Object, volume: dict[str, Any]) -> dict[str, Any]:
        """Spec of the PersistentVolume behind a volume of a pod."""
        name = claim_name(volume, meta.name(pod))
        client, namespace = self._client, meta.namespace(pod)
        try:
            claim = await client.get("persistentvolumeclaims", name, namespace)
            if meta.is_deleting(claim):
                raise mount_failed(volume["name"], f"can't start pod because PVC {name} is being deleted")
            if meta.status(claim).get("phase") != "Bound":
                raise mount_failed(volume["name"], f'PersistentVolumeClaim is not bound: "{name}"')
            found = await client.get("persistentvolumes", meta.spec(claim)["volumeName"])
        except NotFound as e:
            raise mount_failed(volume["name"], e.message) from e
        except ApiError as e:
            raise MountError(f"cannot read claim {namespace}/{name}: {e.message}") from e
        # A claim says what its writer wants; the volume says whose it is.
        if (meta.spec(found).get("claimRef") or {}).get("uid") != meta.uid(claim):
            raise mount_failed(volume["name"], f'volume "{meta.name(found)}" is bound to a different claim')
        return meta.spec(found)

    def _backend(self, source: dict[str, Any], node: str) -> Backend:
        return self._replicated[node] if source["driver"] == REPLICATED else self._local[node]

    # --- backends ---------------------------------------------------------------------------------

    def _ledger(self, node: str) -> Reservations:
        if node not in self._ledgers:
            self._ledgers[node] = Reservations(self._disks[node], node, self._capacity_bytes)
        return self._ledgers[node]

    def _make_local(self, node: str) -> LocalBackend:
        return LocalBackend(node, self._disks[node], self._ledger(node), self._clock)

    def _make_store(self, node: str) -> ReplicaStore:
        return ReplicaStore(node, self._disks[node], self._ledger(node))

    def _make_replicated(self, node: str) -> ReplicatedBackend:
        return ReplicatedBackend(
            self._stores[node],
            self._disks[node],
            self._clock,
            directory=self._directory,
            stubs=self._stub,
            on_fenced=lambda volume_id: self._fenced(node, volume_id),
            is_wanted=lambda volume_id: bool(self._users.get((node, volume_id))),
        )

    def _stub(self, address: str) -> Stub:
        return Stub(self._channel(address), volumes_pb2.DESCRIPTOR.services_by_name["VolumeReplica"])

    def _fenced(self, node: str, volume_id: str) -> None:
        """Another node has taken the volume over: its pods here must not go on."""
        text = f"volume {volume_id} is used by another node now: the containers are stopped"
        self._pods.stop(node, self._users.get((node, volume_id), {}), "VolumeTakenOver", text)


class _Lazy(Mapping[str, T]):
    """A backend for each of `names`, made when it is asked for."""

    def __init__(self, names: Sequence[str], make: Callable[[str], T]) -> None:
        self._names = names
        self._make = make
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._made:
            if name not in self._names:
                raise KeyError(name)
            self._made[name] = self._make(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def known(self, name: str) -> T | None:
        return self._made.get(name)

    def made(self) -> list[T]:
        return [*self._made.values()]


def _directory_of(volume: dict[str, Any], source: dict[str, Any]) -> str:
    """Path of a volume made by hand on this machine (hostPath or local)."""
    path = (source.get("hostPath") or source.get("local") or {}).get("path")
    if not path:
        raise mount_failed(volume["name"], "volumes of this type are not supported")
    if not is_whole(path):
        raise mount_failed(volume["name"], f"path {path} must be absolute and must not contain '..'")
    return os.path.realpath(path)


def _claimed(pods: Iterable[Object]) -> set[tuple[str, str]]:
    """(namespace, name) of the claims of pods."""
    return {
        (meta.namespace(pod), claim)
        for pod in pods
        for volume in pod["spec"].get("volumes") or ()
        if (claim := claim_name(volume, meta.name(pod)))
    }


def _handle(volume: Object) -> str:
    return str((meta.spec(volume).get("csi") or {}).get("volumeHandle") or "")
