"""Annotations with which a node host says of its nodes what Kubernetes' Node has no field for."""

HOST_ADDRESS = "rayplane.io/host-address"
"""host:port of the gRPC services of the node's host."""
RUNTIME = "rayplane.io/runtime"
"""`simulated` or `process`."""
VOLUME_CAPACITY = "rayplane.io/volume-capacity"
"""What the volumes on the node may hold together, a quantity."""
