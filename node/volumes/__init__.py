"""Persistent volumes: real bytes in real directories, local to a node or replicated over several.

Owns the mounts of pods (`volume_manager`), the drivers (`drivers.local`, `drivers.replicated`), the space each node has
reserved for volumes, and the CSI face of it all. Does not own which volumes exist or which claim has which: that is the
controllers'.

`LocalBackend`: a directory of one node. `ReplicatedBackend`: the publishing node's directory is scanned every 200 ms
and its changes are committed, generation by generation, on a majority of replicas; processes that must know call the
sync barrier (a Unix socket, RAYPLANE_VOLUME_SYNC). Publishing elsewhere raises the volume's epoch, which fences the
writer before. What was not yet committed when a node is lost is lost: up to one scan interval, nothing that a barrier
confirmed.

A snapshot is a whole copy of one moment, kept as the driver keeps volumes: on the node of a local volume, on replicas
of its own for a replicated one. Volumes are made from snapshots, and from volumes, by copying again.

Where the disk is simulated (`Disk.local_path()` is None) there are no directories: reservations, replicas, epochs and
fencing work, volumes stay empty.

Concurrency: one event loop; files are read and written in worker threads; calls for one volume wait for each other.
"""

from rayplane.node.volumes.backend import Backend, Published, Usage, VolumeInfo
from rayplane.node.volumes.csi import CsiDriver
from rayplane.node.volumes.drivers.local import LocalBackend
from rayplane.node.volumes.drivers.replicated.backend import ReplicatedBackend, ReplicatedConfig
from rayplane.node.volumes.drivers.replicated.directory import Directory, MemoryDirectory, VolumeRecord
from rayplane.node.volumes.drivers.replicated.publication import Publication
from rayplane.node.volumes.drivers.replicated.replica_store import ReplicaStore
from rayplane.node.volumes.drivers.replicated.service import ReplicaService
from rayplane.node.volumes.drivers.replicated.timing import ReplicationTiming
from rayplane.node.volumes.errors import (
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
from rayplane.node.volumes.reservations import Reservations

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
