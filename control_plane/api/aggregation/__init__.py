"""Aggregated APIs: groups and versions that another server answers for, pure.

Owns: what an APIService says, when its server counts as available, what such a server serves, and how all that is
served stands together in discovery and OpenAPI. Does not own: how such a server is asked (`apiserver.aggregator`).
"""
