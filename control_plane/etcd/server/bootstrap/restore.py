"""Restore of a backup into a data directory: every founder of a new cluster gets the same one.

As with etcd's own restore, the keys, their history and the leases come from the snapshot; members, ids and alarms are
those of the new cluster.
"""

from collections.abc import Iterable

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.codec import encode_hard_state
from rayplane.control_plane.etcd.server.config import MemberConfig, cluster_id, member_id
from rayplane.control_plane.etcd.server.errors import RefusedToStart
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.proto.etcd.rpc_pb2 import Member
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.env import Disk
from rayplane.storage.keyvalue import MemoryBackend
from rayplane.storage.mvcc import BUCKETS, Store
from rayplane.storage.wal import SnapshotFiles, SnapshotMark, Wal

_NOT_RESTORED = ("members", "removed_members", "alarm")
_TERM = 1


async def restore_member(config: MemberConfig, disk: Disk, chunks: Iterable[bytes]) -> int:
    """Fill an empty directory so that `Member(config, ...)` starts with the snapshot's content; its revision.

    `chunks`: what `Store.snapshot` or Maintenance.Snapshot gave. All founders must be given the same. Raises
    RefusedToStart when there is a log already, CorruptSnapshot.
    """
    config.validate()
    if Wal.exists(disk):
        raise RefusedToStart("there is a member in this data directory already: restore into an empty one")
    store = Store(MemoryBackend(BUCKETS))
    store.restore(chunks)
    for bucket in _NOT_RESTORED:
        for key in [key for key, _ in store.backend.scan(bucket)]:
            store.backend.delete(bucket, key)
    machine = StateMachine(store)
    founders = config.founders
    for id_, (_, url) in sorted(founders.items()):
        change = raft.ConfChange(raft.ConfChangeType.ADD_NODE, id_)
        machine.apply_conf_change(change, Member(ID=id_, peerURLs=[url]))
    machine.save_conf_state(raft.ConfState(voters=tuple(sorted(founders))))
    # As if the founders' entries had been applied already: the log begins after them.
    mark = SnapshotMark(len(founders), _TERM)
    store.set_applied(*mark)
    await SnapshotFiles(disk).write(mark, store.snapshot())
    own = member_id([config.peer_url], config.initial_cluster_token)
    identity = wire.Identity(member_id=own, cluster_id=cluster_id(list(founders)), founder=True)
    wal = await Wal.create(disk, identity.SerializeToString(), segment_bytes=config.wal_segment_bytes)
    try:
        await wal.mark_snapshot(*mark)
        await wal.save(encode_hard_state(raft.HardState(term=_TERM, commit=mark.index)))
    finally:
        await wal.close()
    return store.revision
