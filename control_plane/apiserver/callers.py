"""Callers of an API server over gRPC: everybody, also without a certificate.

Each call finds out by itself who asks, and the authorizer says who may do what.
"""

from rayplane.control_plane.rpc import EVERYONE, each

OBJECTS = each(EVERYONE, "Get", "List", "ListStream", "Create", "Update", "Patch", "Delete") | each(
    EVERYONE, "DeleteCollection", "Batch", "Watch"
)
DISCOVERY = each(EVERYONE, "Endpoints")
PODS = each(EVERYONE, "Logs", "Exec", "Attach", "PortForward")
CHAOS = each(EVERYONE, "Targets", "Begin", "End", "List", "Heal", "Run")
AGGREGATION = each(EVERYONE, "Purge", "Collect", "Read", "Patch")
