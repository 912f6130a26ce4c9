"""The dashboard: a web page of the cluster, and the gateway that lends it a kubeconfig's identity.

Owns the page (`page/`: modules of JavaScript that a browser loads as they are, on lit-html and xterm, which
`scripts/page.py` brings) and its door on loopback (`door`): the gateway to a running cluster (`gateway`), or the player
of a recording (`player`, `recorded`). Does not own what the page shows: objects and packing come from the API servers
by the requests any client makes, so that RBAC has the word, how the cluster stands from its views (`cluster.views`),
or all of it from the recording.

The page has one way to say who asks, a bearer token with each request. Nothing is sent by a browser unasked, so that no
other page can act through it.
"""

from rayplane.control_plane.dashboard.door import Door
from rayplane.control_plane.dashboard.gateway import Gateway
from rayplane.control_plane.dashboard.player import Player

__all__ = ["Door", "Gateway", "Player"]
