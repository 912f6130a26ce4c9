"""The aggregation layer: which groups and versions other servers answer for, and whether they can be asked.

Owns: following APIServices, looking after their servers, calls to them as this cluster's front proxy. Does not own: the
rules (`api.aggregation`), or requests of clients that are handed on (`rest.aggregated`).
"""
