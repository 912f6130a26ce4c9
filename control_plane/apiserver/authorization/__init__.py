"""Authorization: the node authorizer, RBAC, webhooks of a configuration, and the reviews that ask them.

Owns the decision whether a user may do something. Does not own the rules' language and the node graph, which are pure
(`control_plane.api.authorization.rbac`, `node_graph`), or who the user is (`authentication`).
"""
