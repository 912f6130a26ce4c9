"""The network of isolated pods between machines: packets travel from node host to node host.

Owns which packets go where (`routes`, pure) and carrying them (`carrier`): out of the device that the machine's routes
lead to, over one authenticated stream for each peer, into the device of the host that the addressee's node is of. Does
not own the network of one machine (`runtime.isolation`) or the addresses of services (`proxy`). Like any network it may
drop packets, and never waits for a slow peer.
"""
