"""A backup is restored on several machines, and what a cluster leaves on each is deleted with it."""

import pytest

from rayplane.control_plane.testing.machines.machines import NETWORK, Machines
from rayplane.control_plane.testing.machines.rays import RayNodes
from tests.e2e.harness import until
from tests.machines.places import Placed, needs_machines

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), needs_machines]

ONE_EACH = ("--apiservers", "1", "--schedulers", "1", "--controllers", "1", "--nodes", "1")


def test_members_are_on_their_machines_after_a_restore_and_a_purge_leaves_nothing_on_any() -> None:
    with Machines(2) as machines:
        head, other = machines.all
        rays = RayNodes(f"{NETWORK}.1")
        rays.start_head(head)
        rays.join(other)
        cluster = Placed.on(other, "restored", rays.environment)
        try:
            cluster.rayplane("up", "--host", "ray", "--address", "auto", *ONE_EACH)
            kubectl = cluster.kubectl()
            kubectl("create", "configmap", "kept")
            file = str(other.place / "backup")
            cluster.rayplane("backup", file)
            kubectl("create", "configmap", "later")
            cluster.rayplane("restore", file, "--force")
            kubectl("get", "configmap", "kept")
            kubectl("get", "configmap", "later", code=1)
            until("all members vote", lambda: cluster.status().get("healthy"))
            places = cluster.places("member")
            assert len(places) == 3 and set(places.values()) == {head.address, other.address}
        finally:
            cluster.rayplane("down", "--purge")
        assert not [path for machine in machines.all for path in machine.path(".rayplane").glob("*")]
