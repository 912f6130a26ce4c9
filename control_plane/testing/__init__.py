"""Clusters for programs and their tests: what `import rayplane` offers.

Owns the public Python API. Owns no behaviour of clusters: it composes `control_plane.cluster` as the command line does.
"""
