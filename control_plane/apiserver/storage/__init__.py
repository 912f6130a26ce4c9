"""Objects in etcd: written, read directly, encrypted, compacted (Kubernetes' `storage/etcd3`).

Owns the keys and the bytes of stored objects, transactions that are certain of their outcome, encryption at rest, the
leases of Events and the compaction of history. Does not own caches (`watch_cache`) or what an object means.
"""
