"""Authorization rules: RBAC decisions, the roles every cluster starts with, what nodes may see and change.

Owns: the decisions, over roles, bindings and a graph of objects that the caller hands in.
Does not own: who somebody is (authentication), reading the roles (the API server), the kinds
of `rbac.authorization.k8s.io` (`control_plane.api.kinds.rbac`).

Concurrency: pure functions and values; the node graph belongs to the one who feeds it.
"""
