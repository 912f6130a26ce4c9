"""Who may call an API server over gRPC: whoever has a certificate. What with which object, the authorizer says."""

from rayplane.control_plane.rpc import EVERYONE, each

OBJECTS = each(EVERYONE, "Get", "List", "Create", "Update", "Patch", "Delete", "DeleteCollection", "Batch", "Watch")
DISCOVERY = each(EVERYONE, "Endpoints")
