"""Names of the buckets of a member's key-value file (etcd's schema)."""

BUCKETS = ("key", "meta", "lease", "members", "removed_members", "alarm", "auth", "auth_users", "auth_roles")
"""Every bucket there is; order is part of the snapshot format, so append only."""
