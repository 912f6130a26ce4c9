"""A cluster of three machines and a spare one, for the tests of one module."""

import shutil
from collections.abc import Iterator

import pytest

from rayplane.control_plane.testing.machines.machines import NETWORK, Machines
from rayplane.control_plane.testing.machines.rays import RayNodes
from tests.e2e.harness import Kubectl, until
from tests.machines.places import NODES, Placed, redis_on
from tests.machines.pods import apply, server, service

# Two hosts share each of the first machines.
HEAD = f"{NETWORK}.100"
SIZE = ("--members", "3", "--apiservers", "3", "--schedulers", "2", "--controllers", "2", "--nodes", "5")


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """Three for the cluster and one to spare, which has its disk as well; the second keeps the tables of Ray's head."""
    with Machines(4) as made:
        yield made


@pytest.fixture(scope="module")
def rays(machines: Machines) -> RayNodes:
    head, store, third, _ = machines.all
    # Ray's own answer to a lost head: whoever has its address and its tables is the head.
    found = RayNodes(HEAD, redis=redis_on(store) if shutil.which("redis-server") else "")
    found.start_head(head)
    found.join(store, third)
    return found


@pytest.fixture(scope="module")
def cluster(machines: Machines, rays: RayNodes) -> Iterator[Placed]:
    # Not from the head's machine: any will do.
    placed = Placed.on(machines.all[1], "spread", rays.environment)
    try:
        placed.rayplane(
            "up", "--host", "ray", "--address", "auto", "--runtime", "process", "--isolation", "namespaces", *SIZE
        )
        yield placed
    finally:
        placed.rayplane("down")
    living = machines.living()
    until("all actors have ended", lambda: not [m.name for m in living if m.processes("ray::ComponentActor")])


@pytest.fixture(scope="module")
def kubectl(cluster: Placed) -> Kubectl:
    kubectl = cluster.kubectl()
    apply(kubectl, *(server(node) for node in NODES), service("all", {"kind": "server"}))
    for node in NODES:
        apply(kubectl, service(node, {"on": node}))
    kubectl("wait", "pods", "--all", "--for=condition=Ready", "--timeout=180s")
    return kubectl
