"""Kinds of storagemigration.k8s.io: one module each.

Owns all that is special to these kinds. Does not own what several groups share (`control_plane.api.kinds`).
"""
