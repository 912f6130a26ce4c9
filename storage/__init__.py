"""Bytes that last: write-ahead log, MVCC store, volume backends, backup files.

Owns everything that touches a disk, behind the `Env` of `storage.env`. Knows nothing of Kubernetes kinds, of
Raft, or of Ray.
"""
