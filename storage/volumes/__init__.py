"""Persistent volumes: real bytes in real directories, local to a node or replicated over several.

Owns volume backends, the replication engine, the replicas' store, space reservations and the CSI face of it all.
Does not own which pod uses which volume, nor sockets: gRPC servers and stubs are passed in, and agreement on who holds
and who writes a volume is asked of a `Directory`.

`LocalBackend`: a directory of one node. `ReplicatedBackend`: the publishing node's directory is scanned every 200 ms
and its changes are committed, generation by generation, on a majority of replicas; processes that must know call the
sync barrier (a Unix socket, RAYPLANE_VOLUME_SYNC). Publishing elsewhere raises the volume's epoch, which fences the
writer before. What was not yet committed when a node is lost is lost: up to one scan interval, nothing that a barrier
confirmed.

Where the disk is simulated (`Disk.local_path()` is None) there are no directories: reservations, replicas, epochs and
fencing work, volumes stay empty.

Concurrency: one event loop; files are read and written in worker threads; calls for one volume wait for each other.
"""

from rayplane.storage.volumes.backend import Backend, Published, Usage, VolumeInfo
from rayplane.storage.volumes.csi import CsiDriver
from rayplane.storage.volumes.directory import Directory, MemoryDirectory, VolumeRecord
from rayplane.storage.volumes.errors import (
    CorruptVolume,
    Fenced,
    InvalidVolume,
    NoCapacity,
    NoQuorum,
    PeerError,
    StaleReplica,
    VolumeConflict,
    VolumeError,
    VolumeFull,
    VolumeNotFound,
    WrongNode,
)
from rayplane.storage.volumes.local import LocalBackend
from rayplane.storage.volumes.publication import Publication, ReplicationTiming
from rayplane.storage.volumes.replica import ReplicaService, ReplicaStore
from rayplane.storage.volumes.replicated import ReplicatedBackend, ReplicatedConfig
from rayplane.storage.volumes.reservations import Reservations

__all__ = [
    "Backend",
    "CorruptVolume",
    "CsiDriver",
    "Directory",
    "Fenced",
    "InvalidVolume",
    "LocalBackend",
    "MemoryDirectory",
    "NoCapacity",
    "NoQuorum",
    "PeerError",
    "Publication",
    "Published",
    "ReplicaService",
    "ReplicaStore",
    "ReplicatedBackend",
    "ReplicatedConfig",
    "ReplicationTiming",
    "Reservations",
    "StaleReplica",
    "Usage",
    "VolumeConflict",
    "VolumeError",
    "VolumeFull",
    "VolumeInfo",
    "VolumeNotFound",
    "VolumeRecord",
    "WrongNode",
]
