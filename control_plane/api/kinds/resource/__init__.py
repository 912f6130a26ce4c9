"""Kinds of resource.k8s.io: devices of nodes, and the claims that pods make to them; one module each.

Owns all that is special to these kinds. Does not own what several groups share (`control_plane.api.kinds`), nor CEL:
API servers judge the expressions of selectors.
"""
