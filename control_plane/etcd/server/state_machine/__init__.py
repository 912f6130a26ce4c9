"""The replicated state machine: what every member knows by the log.

Owns what each committed request does: `apply` takes them; `kv` and `large_range` read and write keys, `lessor` knows
the leases, `membership` the members, `alarms` the alarms, `auth` users and roles, `watchable_store` what watchers are
told. Does not own the order of entries (`replication`), time (the leader's is given to it), nor bytes on disk
(`storage.mvcc`).
"""
