"""A cluster of three machines: its parts are spread, and pods reach each other as policies let them."""

import shutil
from collections.abc import Iterator

import pytest

from rayplane.control_plane.testing.machines.machines import NETWORK, Machines
from rayplane.control_plane.testing.machines.rays import RayNodes
from tests.e2e.harness import Kubectl, until
from tests.machines.places import Placed, needs_machines, redis_on
from tests.machines.pods import apply, asked, server, service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), needs_machines]

# Two hosts share each of the first machines.
HEAD = f"{NETWORK}.100"
SIZE = ("--members", "3", "--apiservers", "2", "--schedulers", "2", "--controllers", "2", "--nodes", "5")
NODES = [f"node-{number}" for number in range(5)]


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
    until("all actors have ended", lambda: not [m.name for m in machines.all if m.processes("ray::ComponentActor")])


@pytest.fixture(scope="module")
def kubectl(cluster: Placed) -> Kubectl:
    kubectl = cluster.kubectl()
    apply(kubectl, *(server(node) for node in NODES), service("all", {"kind": "server"}))
    for node in NODES:
        apply(kubectl, service(node, {"on": node}))
    kubectl("wait", "pods", "--all", "--for=condition=Ready", "--timeout=90s")
    return kubectl


def everybody() -> list[str]:
    return [f"on-{node}" for node in NODES for _ in ("tcp", "udp")]


def test_what_there_is_several_of_is_on_different_machines(cluster: Placed, machines: Machines) -> None:
    addresses = {m.address for m in machines.all}
    for role, apart in (("member", 3), ("apiserver", 2), ("scheduler", 2), ("controllers", 2), ("node-host", 3)):
        places = set(cluster.places(role).values())
        assert len(places) == apart and places <= addresses, role


def test_pods_of_all_machines_reach_each_other_by_address_and_by_name(kubectl: Kubectl) -> None:
    """Those of two hosts of one machine, too, whichever of them the machine's routes lead to."""
    ips = [kubectl.json("get", "pod", f"on-{node}")["status"]["podIP"] for node in NODES]
    for node in NODES:
        assert asked(kubectl, node, *ips) == everybody(), f"by address from {node}"
        assert asked(kubectl, node, *NODES) == everybody(), f"by name from {node}"


def test_policies_are_kept_across_machines(kubectl: Kubectl) -> None:
    only = {"podSelector": {"matchLabels": {"on": "node-1"}}}
    spec = {"podSelector": {"matchLabels": {"on": "node-2"}}, "ingress": [{"from": [only]}]}
    meta = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "lock"}}
    apply(kubectl, meta | {"spec": spec})
    try:
        until("it is enforced", lambda: "on-node-2" not in asked(kubectl, "node-0", "node-2", limit_s=0.5))
        assert asked(kubectl, "node-1", "node-2") == ["on-node-2"] * 2
        assert "on-node-2" not in asked(kubectl, "node-3", "node-2", limit_s=0.5)
        assert asked(kubectl, "node-2", "node-3") == ["on-node-3"] * 2, "it may itself ask whom it likes"
    finally:
        kubectl("delete", "networkpolicy", "lock")
    until("all are let in again", lambda: asked(kubectl, "node-0", "node-2", limit_s=0.5) == ["on-node-2"] * 2)
