"""Bootstrap of a member from its data directory: found a cluster, join one, restart, restore a backup.

Owns what is done before the first message is sent. Does not own the files' formats (`storage`), nor the running member.
"""
