"""etcd's authentication: users, roles, ranges of keys, tokens.

Owns three things: `store` is what all members agree on, `checks` and `ranges` are the pure rules over it, `tokens` are
what callers show. Does not own who calls (`services.callers`), passwords (`services.passwords`), nor client
certificates (`control_plane.rpc` names the caller they are for).
"""
