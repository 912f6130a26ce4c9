"""Composition: what a cluster consists of, and the hosts that run it.

Owns the cluster's configuration and topology, its keys and certificates, the hosts (Ray actors, one process,
simulation), the supervisor, and bringing clusters up and down. Does not own what any component does; it only builds
them, starts them and gives them their outside world. The only layer, with the command line above it, that knows Ray.
"""
