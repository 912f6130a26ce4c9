"""etcd members: a replicated, linearizable key-value store that speaks the etcd v3 gRPC API.

Owns consensus (`raft`, pure), the member around it (`server`: log, apply loop, gRPC services, membership), and who may
call that (`callers`).
Does not own bytes on disk nor revisions of keys (`storage`), nor anything of Kubernetes: keys are opaque here.

Concurrency: a member is one asyncio task owner on one thread. The raft core is called only from that thread and
never awaits; everything slow (fsync, network) happens in the server between `ready()` and `advance()`.
"""
