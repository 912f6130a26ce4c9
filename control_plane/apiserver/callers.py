"""Callers of an API server over gRPC: whoever has a certificate. The authorizer says who may do what."""

from rayplane.control_plane.rpc import EVERYONE, each

OBJECTS = each(EVERYONE, "Get", "List", "Create", "Update", "Patch", "Delete", "DeleteCollection", "Batch", "Watch")
DISCOVERY = each(EVERYONE, "Endpoints")
