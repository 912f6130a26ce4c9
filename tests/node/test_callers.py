"""Which other nodes reach the ports of a host's pods through it."""

import pytest

from rayplane.control_plane.api.authorization.node_identity import host_identity, node_user
from rayplane.control_plane.identities import NODES
from rayplane.control_plane.rpc import Identity
from rayplane.node.callers import node

OWN, JOINED = Identity(*host_identity(("n1",), fallback="")), Identity(node_user("edge"), (NODES,))


@pytest.mark.parametrize(("isolates", "joined"), [(False, True), (True, False)])
def test_a_node_that_joined_does_not_pass_by_the_network_of_isolated_pods(isolates: bool, joined: bool) -> None:
    callers = node(isolates)["PortForward"]
    assert callers.refusal(OWN, "/") is None
    assert (callers.refusal(JOINED, "/") is None) is joined
