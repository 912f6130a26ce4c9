"""Raft consensus as a pure library: state and input in, effects out.

Owns the protocol (Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm",
extended version; and Ongaro's thesis for pre-vote, leader transfer, ReadIndex and single-server
membership change): elections, replication, flow control, commit rule, membership. Does not own
disks, sockets, clocks or the state machine: the driver does. No I/O, no asyncio, no time, no
randomness but the generator it is given.

Concurrency: not thread-safe, never blocks. One owner calls it.

The driver's loop (one Ready is out at a time; `tick`, `step`, `propose`... may be called while it
is out)::

    while node.has_ready():
        ready = node.ready()
        send(ready.messages)                      # may run in parallel with the next two steps
        wal.save(ready.hard_state, ready.entries, ready.snapshot, sync=ready.must_sync)
        apply(ready.committed_entries)            # durable here already: may run in parallel with
        the save
                                                  # node.apply_conf_change(cc) once per CONF_CHANGE
                                                  # entry
        if ready.snapshot: restore it; storage.apply_snapshot(ready.snapshot)
        storage.append(ready.entries)             # MemoryStorage, after the save
        if ready.hard_state: storage.set_hard_state(ready.hard_state)
        send(ready.messages_after_append)         # only after the save
        node.advance(ready)                       # only after save and apply; counts this node's
        own vote and ack

Starting: a founding member writes what `bootstrap(peers)` returns to its log and starts from that;
a joining member starts with an empty MemoryStorage; a restarted member builds `MemoryStorage(...)`
from its disk. All three then construct `RawNode(config, storage, rng)` with `config.applied` = the
last index in its state machine and the ConfState as of that index.

Entries of type NORMAL with empty data are appended by each new leader: the state machine skips
them.
"""

from control_plane.etcd.raft.config import Config
from control_plane.etcd.raft.errors import (
    Compacted,
    ConfChangeRefused,
    ConfigError,
    InvariantViolated,
    ProposalDropped,
    RaftError,
    ReadIndexDropped,
    SnapshotOutOfDate,
    SnapshotUnavailable,
    StorageError,
    TransferRefused,
    Unavailable,
)
from control_plane.etcd.raft.rawnode import RawNode, bootstrap
from control_plane.etcd.raft.storage import MemoryStorage
from control_plane.etcd.raft.types import (
    NONE,
    ConfChange,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    PeerProgress,
    ProgressState,
    ReadState,
    Ready,
    Role,
    Snapshot,
    SoftState,
    Status,
)

__all__ = [
    "NONE",
    "Compacted",
    "ConfChange",
    "ConfChangeRefused",
    "ConfChangeType",
    "ConfState",
    "Config",
    "ConfigError",
    "Entry",
    "EntryType",
    "HardState",
    "InvariantViolated",
    "MemoryStorage",
    "Message",
    "MessageType",
    "PeerProgress",
    "ProgressState",
    "ProposalDropped",
    "RaftError",
    "RawNode",
    "ReadIndexDropped",
    "ReadState",
    "Ready",
    "Role",
    "Snapshot",
    "SnapshotOutOfDate",
    "SnapshotUnavailable",
    "SoftState",
    "Status",
    "StorageError",
    "TransferRefused",
    "Unavailable",
    "bootstrap",
]
