"""An etcd member: the raft core driven over a log, an MVCC store and peers, served by the etcd v3 gRPC services.

    member = Member(config, env, network)
    await member.start()            # opens or makes the data directory, listens
    await member.ready()            # the cluster has a leader and knows this member
    await member.stop()

    await restore_member(config, env.disk, chunks)      # instead of an empty directory, before the first start

Owns: the order between log, sends and applying (`driver`), the replicated state machine (`apply`, `kv`, `lease`,
`cluster`, `auth`), watches (`watch`), the peer wire (`peer`), recovery from a data directory (`recovery`, `restore`),
the services and the table of errors. Does not own consensus (`control_plane.etcd.raft`), bytes on disk (`storage`), or
TLS and sockets (`control_plane.rpc`).

Concurrency: one event loop, no threads but for password hashes and long JSON, no time but the loop's. Requests are the
tasks of their RPCs; they put input into raft and wait on a future that the apply step resolves. Bounds: proposals that
wait (`max_pending_proposals`, refused), messages for a peer (`peer_queue_messages`, dropped), events for a watch stream
(`watch.EVENTS_BUFFERED_MAX`, then read from the store), watchers per stream.
"""

from rayplane.control_plane.etcd.server.bootstrap.recovery import BackendFactory, default_backend
from rayplane.control_plane.etcd.server.bootstrap.restore import restore_member
from rayplane.control_plane.etcd.server.config import ETCD_VERSION, MemberConfig
from rayplane.control_plane.etcd.server.errors import RefusedToStart
from rayplane.control_plane.etcd.server.member import Member
from rayplane.control_plane.etcd_errors import EtcdError

__all__ = [
    "ETCD_VERSION",
    "BackendFactory",
    "EtcdError",
    "Member",
    "MemberConfig",
    "RefusedToStart",
    "default_backend",
    "restore_member",
]
