"""Composition: what a cluster consists of, and the hosts that run it.

Owns the cluster's configuration and topology, its keys and certificates and their renewal, the hosts (Ray actors, one
process), the supervisor, bringing clusters up and down, and finding out what is wrong with one. Does not own what any
component does; it only builds them, starts them and gives them their outside world. The third host, virtual time, is
`control_plane.simulation`. The only layer that knows Ray.
"""
