"""Nodes on machines that are no part of the cluster's host: they join over the API, and need no Ray.

Owns tokens, whom a stranger trusts, a node's two certificates, and the process that is the node. Does not own what the
node does then (`node`), nor who approves and signs (`controllers`, `cluster.supervisor`).
"""
