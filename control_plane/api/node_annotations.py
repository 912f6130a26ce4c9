"""Annotations with which a node host says of its nodes what Kubernetes' Node has no field for."""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object

HOST_ADDRESS = "rayplane.io/host-address"
"""host:port of the gRPC services of the node's host; NAME@host:port where it has a node's own certificate, by that
name."""
RUNTIME = "rayplane.io/runtime"
"""`simulated` or `process`."""
HEARTBEAT = "rayplane.io/heartbeat"
"""The node whose Lease tells that this one lives, too: their host renews that one all the time, the others by turns."""
NETWORK = "rayplane.io/network"
"""The name of the network that the node's pods are in, where they are isolated; equal for nodes of one machine."""
ISOLATION = "rayplane.io/isolation"
"""How pods on the node are kept apart, and by what: as its machine lets it."""
NO_RULES = ", no packet rules"
"""The end of that where packets of isolated pods meet no rules of policies and experiments."""
IMAGES = "rayplane.io/images"
"""The images that a simulated node is said to have: a JSON object of sizes, which are quantities, by name."""
VOLUME_CAPACITY = "rayplane.io/volume-capacity"
"""What the volumes on the node may hold together, a quantity."""


def member_address(node: Object) -> str:
    """HOST_ADDRESS where the node's host is one of the cluster's own, which alone hold volumes; empty elsewhere."""
    address: str = meta.annotations(node).get(HOST_ADDRESS, "")
    return "" if "@" in address else address


NO_SERVICES = "ServicesUnavailable"
"""The condition of a Node whose pods find no services; there where it ever was so."""


def isolation_of(node: Object) -> str:
    told: str = meta.annotations(node).get(ISOLATION, "")
    return told


def heartbeat_of(node: Object) -> str:
    """The node whose Lease stands for this node's; empty where its own does."""
    lead: str = meta.annotations(node).get(HEARTBEAT, "")
    return lead


def volume_capacity(node: Object) -> int | None:
    """Bytes for volumes on a node; None when it reports none (no limit known).

    Nothing where nobody can read it, as the other nodes have volumes to take.
    """
    text = meta.annotations(node).get(VOLUME_CAPACITY)
    try:
        return quantity.value(text) if text else None
    except quantity.QuantityError:
        return 0
