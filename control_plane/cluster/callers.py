"""Callers of the supervisor's methods."""

from rayplane.control_plane.identities import API_SERVERS, CONTROLLER_MANAGER, MASTERS
from rayplane.control_plane.rpc import ADMINISTRATORS, EVERYONE, Callers, each

SUPERVISOR = {
    **each(ADMINISTRATORS, "Topology", "Add", "Remove", "Drain", "Move", "Kill", "LoseMachine", "Disturb", "Advance"),
    # It judges by itself: each actor may renew its own certificate.
    **each(EVERYONE, "Renew"),
    **each(Callers.of(users=(CONTROLLER_MANAGER,)), "Sign"),
}
_ASKED = Callers.of(groups=(API_SERVERS, MASTERS))
"""API servers have asked RBAC first."""
FAULTS = each(_ASKED, "Targets", "Begin", "End", "List", "Heal", "Run")
VIEWS = each(_ASKED, "Look")
# As from API servers: whom they cannot tell any more, since all have other addresses, asks here.
DISCOVERY = each(EVERYONE, "Endpoints")
