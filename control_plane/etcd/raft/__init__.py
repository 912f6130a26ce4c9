"""Raft consensus as a pure library: state and input in, effects out.

Owns the protocol: elections, replication, flow control, the commit rule, linearizable reads, membership, leadership
transfer. Does not own disks, sockets, clocks or the state machine: the driver does. No I/O, no asyncio, no time, no
randomness but the generator it is given: the same inputs give the same outputs, which is how it is tested.

Concurrency: not thread-safe, never blocks. One owner calls it.

The driver's loop
=================

One Ready is out at a time; `tick`, `step`, `propose`... may be called while it is out::

    while node.has_ready():
        ready = node.ready()
        send(ready.messages)                      # may run in parallel with the next two steps
        wal.save(ready.hard_state, ready.entries, ready.snapshot, sync=ready.must_sync)
        apply(ready.committed_entries)            # durable here already: may run in parallel with the save
                                                  # node.apply_conf_change(cc) once per CONF_CHANGE entry
        if ready.snapshot: restore it; storage.apply_snapshot(ready.snapshot)
        storage.append(ready.entries)             # MemoryStorage, after the save
        if ready.hard_state: storage.set_hard_state(ready.hard_state)
        send(ready.messages_after_append)         # only after the save
        node.advance(ready)                       # only after save and apply; counts this node's own vote and ack

Starting: a founding member writes what `bootstrap(peers)` returns to its log and starts from that; a joining member
starts with an empty MemoryStorage; a restarted member builds `MemoryStorage(...)` from its disk. All three then
construct `RawNode(config, storage, rng)` with `config.applied` = the last index in its state machine and the
ConfState as of that index. An id is one disk's: a member that lost its disk comes back under another id, or its old
acknowledgements would be counted for what it no longer has.

Entries of type NORMAL with empty data are appended by each new leader: the state machine skips them.

Where it comes from
===================

"Paper": Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm", extended version; its figure 2 is
tested rule by rule. "Thesis": Ongaro, "Consensus: Bridging Theory and Practice".

    elections, replication, commit rule       paper §5.1-§5.4                     core, election, follower, leader
    pre-vote                                  thesis §9.6                         election
    leases of followers, check-quorum         thesis §4.2.3, §6.2                 core, leader
    leadership transfer                       thesis §3.10                        leader, election
    one membership change at a time           thesis §4.1, §4.2.1, §4.2.2         membership, rawnode, leader
    snapshots                                 paper §7                            follower, log, progress
    linearizable reads                        paper §8, thesis §6.4               reads, leader
    writing to the leader's disk in parallel  thesis §10.2.1                      types.Ready, rawnode
    back-off by terms                         paper §5.3, last paragraphs         log.find_conflict_by_term
    flow control: probe, replicate, snapshot  after etcd's raft                   progress

Choices that differ from the sources, each with its reason where it is made:

- A membership change takes effect when it is applied, not when it is appended (as in etcd). Hence three rules: the
  next one is proposed only when the last one is applied and the leader has committed in its own term
  (`RawNode.propose_conf_change`); nobody campaigns with a committed change unapplied (`election.hup`); of two changes
  in a restarted log the first is taken for committed (`RaftLog`).
- A removed leader leads on until another one has taken over, and accepts nothing after its removal
  (`leader._hand_over_if_removed`).
- A leader sends one append for all that came in since the last Ready, not one per proposal
  (`leader.flush`).
- A higher term alone does not start a follower's election time over; the paper says so, etcd does otherwise.
- `RawNode.forget_leader`: see below.

A leader that is known to be gone
=================================

After a leader's silence the others wait out an election timeout, since silence may be the network's. A process that
was killed is not silent: its port refuses connections at once. A driver that sees this calls
`forget_leader(leader)`, and the failover takes two to three ticks instead of one to two election timeouts:

1.  The member has no leader from then on: the lease is void and pre-votes are answered. Term and vote stay.
2.  It campaigns itself when it is its turn: `heartbeat_ticks` + 1 ticks later, and one more for each voter with a lower
    id, the forgotten one left out. Turns keep apart those who learn of it together, where chance would split their
    votes; the wait before the first is longer than the time between two heartbeats.
3.  Whoever refuses a pre-vote for the asker's log, and follows nobody, hastens likewise: its log is the newer one.

A wrong report (a proxy, a restarted network card) is harmless: the leader's next heartbeat restores it and draws a
full timeout again. Until then a pre-vote reaches only those who were misled too, so that with a majority hearing the
leader no term is raised and nobody elected; without pre-vote only the lease is given up and nothing is hastened. Each
report leads to one campaign at most. Safety never rests on it: votes and the commit rule know nothing of it.

Bounds
======

Everything is bounded by `Config`, in bytes as well as in messages: uncommitted entries of a leader, appends under way
to each member, an append, a Ready's committed entries, waiting reads. `MemoryStorage.payload_bytes` says how much the
log holds and `compaction_point` where to cut it; when to do so is the driver's decision.
"""

from rayplane.control_plane.etcd.raft.config import Config
from rayplane.control_plane.etcd.raft.errors import (
    Compacted,
    ConfChangeRefused,
    ConfigError,
    InvariantViolated,
    LostEntries,
    ProposalDropped,
    RaftError,
    ReadIndexDropped,
    SnapshotOutOfDate,
    SnapshotUnavailable,
    StorageError,
    TransferRefused,
    Unavailable,
)
from rayplane.control_plane.etcd.raft.rawnode import RawNode, bootstrap
from rayplane.control_plane.etcd.raft.storage import MemoryStorage
from rayplane.control_plane.etcd.raft.types import (
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
    Standing,
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
    "LostEntries",
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
    "Standing",
    "Status",
    "StorageError",
    "TransferRefused",
    "Unavailable",
    "bootstrap",
]
