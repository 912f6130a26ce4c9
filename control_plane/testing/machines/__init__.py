"""Machines made out of namespaces of Linux, for tests and measurements of clusters that are spread over several.

Each has an address, host name, processes, shared memory and folder of its own; a bridge in a network of its own joins
them and nothing else. Only root may make them. Owns no behaviour of clusters: Ray and rayplane are started on them by
their command lines.
"""
