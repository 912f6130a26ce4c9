"""An etcd member: the raft core driven over a log, an MVCC store and peers, served by the etcd v3 gRPC services.

    member = Member(config, env, network)
    await member.start()            # opens or makes the data directory, listens
    await member.ready()            # the cluster has a leader and knows this member
    await member.stop()

    await restore_member(config, env.disk, chunks)      # instead of an empty directory, before the first start

A put goes this way to disk:

    services/kv                  is it well-formed, is there space, in whose name is it
    replication/proposals        an entry for the log, here or at the leader; its caller waits
    replication/driver           owns the raft node; log, peers and state machine in their order
    raft/rawnode, raft/leader    the entry's term and index, messages, what is committed
    storage/wal/log              durable here
    replication/transport        durable at the others
    state_machine/apply, kv      its effect on keys, leases, watchers
    storage/mvcc, keyvalue       a revision of the key, in the key-value file

Owns, from the bottom up: the replicated state machine (`state_machine`), the start from a data directory (`bootstrap`),
the log and its one driver (`replication`), what happens by itself (`upkeep`, `metrics`), what is served (`services`,
`web`); `member` puts them together, `ports` are what they may ask of each other. Does not own consensus
(`control_plane.etcd.raft`), bytes on disk (`storage`), or TLS and sockets (`control_plane.rpc`).

Concurrency: one event loop, no threads but for password hashes and long JSON, no time but the loop's. Requests are the
tasks of their RPCs; they put input into raft and wait on a future that the apply step resolves. Bounds: proposals that
wait (`max_pending_proposals`, refused), messages for a peer (`peer_queue_messages`, dropped), events for a watch stream
(`watchable_store.EVENTS_BUFFERED_MAX`, then read from the store), watchers per stream.
"""

from rayplane.control_plane.etcd.server.bootstrap.restore import restore_member
from rayplane.control_plane.etcd.server.config import ETCD_VERSION, MemberConfig
from rayplane.control_plane.etcd.server.errors import RefusedToStart
from rayplane.control_plane.etcd.server.member import Member

__all__ = [
    "ETCD_VERSION",
    "Member",
    "MemberConfig",
    "RefusedToStart",
    "restore_member",
]
