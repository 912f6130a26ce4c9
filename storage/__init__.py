"""Bytes that last: key-value file, write-ahead log, MVCC store, backup files.

Owns everything that touches a disk, behind the `Env` of `storage.env`. Knows nothing of Kubernetes, of Raft, of
gRPC, or of Ray.
"""
