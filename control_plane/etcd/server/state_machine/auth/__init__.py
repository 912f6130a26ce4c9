"""etcd's authentication: users, roles, ranges of keys, tokens.

`store` is what all members agree on, `checks` and `ranges` are the pure rules over it, `tokens` and `secrets` tell who
calls and whether the password is right, `service` is the Auth service and puts a caller's name on requests. Does not
own client certificates (`control_plane.rpc` names the caller they are for).
"""
