"""A cluster of three machines: its parts are spread, and pods reach each other as policies let them."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.testing.machines.machines import NETWORK, Machine, Machines
from rayplane.control_plane.testing.machines.rays import RayNodes
from tests.e2e.harness import Kubectl, until
from tests.machines.places import Placed, needs_machines, redis_on
from tests.machines.pods import (
    apply,
    asked,
    asking,
    claimed,
    replicas,
    server,
    service,
    write_data,
    write_once,
    writing,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), needs_machines]

# Two hosts share each of the first machines.
HEAD = f"{NETWORK}.100"
SIZE = ("--members", "3", "--apiservers", "2", "--schedulers", "2", "--controllers", "2", "--nodes", "5")
ROLES = ("lb", "member", "apiserver", "scheduler", "controllers", "node-host")
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


def at(machines: Machines, address: str) -> Machine:
    return next(m for m in machines.all if m.address == address)


def leader(cluster: Placed) -> str:
    return next((m["name"] for m in cluster.status().get("members", []) if m.get("leader")), "")


def healthy(cluster: Placed) -> bool:
    return bool(cluster.status().get("healthy"))


def voters(cluster: Placed) -> set[str]:
    """Where the members are that answer."""
    return {m["endpoint"].partition(":")[0] for m in cluster.status().get("members", []) if m.get("healthy")}


def node_on(cluster: Placed, machine: Machine) -> str:
    """A node whose host is there; each host here has one node, of the same number."""
    hosts = cluster.places("node-host")
    return next(name.replace("node-host", "node") for name, address in hosts.items() if address == machine.address)


def speak(kubectl: Kubectl, one: str, other: str) -> bool:
    """Whether the pods of two nodes, made anew where they went with their machine, reach each other."""
    apply(kubectl, server(one), server(other))
    kubectl("wait", f"pod/on-{one}", f"pod/on-{other}", "--for=condition=Ready", "--timeout=180s")
    there, back = asked(kubectl, one, other), asked(kubectl, other, one)
    return there == [f"on-{other}"] * 2 and back == [f"on-{one}"] * 2


def test_the_leaders_machine_cut_off_and_healed(cluster: Placed, machines: Machines, kubectl: Kubectl) -> None:
    def elsewhere() -> str:
        """A leader that is not where commands run."""
        name = leader(cluster)
        if name and cluster.places("member").get(name) == cluster.machine.address:
            cluster.rayplane("chaos", "kill", "leader")
            return ""
        return name

    until("somebody leads elsewhere", elsewhere)
    before = leader(cluster)
    machine = at(machines, cluster.places("member")[before])
    found = cluster.endpoints()
    machine.cut()
    try:
        # Ray would take a machine that is away for longer for lost.
        assert write_once(cluster, found) == "written"
    finally:
        machine.heal()
    until("all is well again", lambda: healthy(cluster))
    assert leader(cluster) != before
    assert kubectl("get", "configmap", "written", "-o", "name").strip() == "configmap/written"


@pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server")
def test_data_flows_without_rays_head_and_placement_goes_on_with_it(
    cluster: Placed, machines: Machines, kubectl: Kubectl
) -> None:
    head = machines.all[0]
    (gcs,) = head.processes("gcs_server")
    words = [os.fsdecode(word) for word in processes.arguments(gcs) if word]
    variables = dict(v.split("=", 1) for v in Path(f"/proc/{gcs}/environ").read_text().split("\0") if "=" in v)
    flows = [writing(cluster), asking(kubectl, node_on(cluster, cluster.machine), node_on(cluster, machines.all[2]))]
    os.kill(gcs, signal.SIGKILL)
    until("it is gone", lambda: not head.processes("gcs_server"))
    kubectl("create", "deployment", "headless", "--image=busybox", "--replicas=4", "--", "sleep", "100000")
    kubectl("rollout", "status", "deployment/headless", "--timeout=180s")
    subprocess.Popen(head.command(*words), env=variables, stdout=subprocess.DEVNULL).returncode = 0
    until("it answers", lambda: "node-5" in cluster.rayplane("add", "node").stdout)
    until("all is well", lambda: healthy(cluster))
    kubectl("wait", "node/node-5", "--for=condition=Ready", "--timeout=180s")
    for made, failed in [flow.end() for flow in flows]:
        assert made and not failed


def test_a_lost_machine_is_made_up_for(cluster: Placed, machines: Machines, rays: RayNodes, kubectl: Kubectl) -> None:
    third = machines.all[2]
    lost, kept = node_on(cluster, third), node_on(cluster, cluster.machine)
    apply(kubectl, *claimed("keeper", near=lost))
    kubectl("rollout", "status", "deployment/keeper", "--timeout=180s")
    write_data(kubectl, "keeper", "precious")
    third.lose()
    living = {m.address for m in machines.all[:2]}

    def made_up_for() -> bool:
        return healthy(cluster) and all(set(cluster.places(role).values()) <= living for role in ROLES)

    until("all its actors are elsewhere", made_up_for, timeout_s=150)
    assert len(cluster.places("member")) == 3
    kubectl("rollout", "status", "deployment/keeper", "--timeout=180s")
    assert kubectl("exec", "deployment/keeper", "--", "cat", "/data/file") == "precious"
    until("pods of the node that moved are reached", lambda: speak(kubectl, lost, kept))
    # A machine that comes to Ray is used at once.
    third.boot()
    rays.join(third)
    said = cluster.rayplane("add", "node").stdout
    assert f"{node_on(cluster, third)} added" in said
    # So it is by what there is several of, and had to share the others.
    three = {m.address for m in machines.all[:3]}
    until("each machine has a replica", lambda: set(replicas(kubectl, "keeper")) == three)
    until("each machine has a member", lambda: voters(cluster) == three)


@pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server")
def test_supervisor_load_balancer_and_rays_head_on_the_lost_machine(
    cluster: Placed, machines: Machines, rays: RayNodes, kubectl: Kubectl
) -> None:
    head, spare = machines.all[0], machines.all[3]
    assert set(cluster.places("lb").values()) == {head.address}
    head.lose()
    # Whoever runs Ray gives its head, with its tables, another machine; all else goes by itself.
    rays.start_head(spare)

    def made_up_for() -> bool:
        return healthy(cluster) and all(head.address not in cluster.places(r).values() for r in ("supervisor", *ROLES))

    until("all is well elsewhere", made_up_for, timeout_s=200)
    cluster.rayplane("kubeconfig")
    kubectl("create", "configmap", "elsewhere")
    kubectl("rollout", "status", "deployment/keeper", "--timeout=90s")
    assert kubectl("exec", "deployment/keeper", "--", "cat", "/data/file") == "precious"


@pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server")
def test_a_drained_machine_is_empty_until_it_is_used_again(
    cluster: Placed, machines: Machines, kubectl: Kubectl
) -> None:
    (address,) = set(cluster.places("supervisor").values())
    nodes = [name for name, at in cluster.places("node-host").items() if at == address]
    said = cluster.rayplane("drain", "machine", address, "--force").stdout
    assert said.endswith(f"{address} is drained\n"), said
    left = {name for role in ("supervisor", *ROLES) for name, at in cluster.places(role).items() if at == address}
    assert left == set(nodes), "node hosts stay with their volumes"
    assert cluster.status()["drained"] == [address]
    kubectl("rollout", "status", "deployment/keeper", "--timeout=60s")
    assert kubectl("exec", "deployment/keeper", "--", "cat", "/data/file") == "precious"
    cluster.rayplane("undrain", "machine", address)
    until("its members are back", lambda: address in voters(cluster) and healthy(cluster))


def test_a_cold_start_at_other_addresses_after_ray_has_gone(
    cluster: Placed, machines: Machines, kubectl: Kubectl
) -> None:
    before = sorted(kubectl.names("configmaps,deployments,services", "--all-namespaces"))
    living = machines.living()
    for machine in living:
        machine.lose()
    for machine in living:
        machine.boot()
    cluster.rayplane("down")
    for number, machine in enumerate(living, 51):
        machine.lose()
        machine.address = f"{NETWORK}.{number}"
    for machine in living:
        machine.boot()
    again = RayNodes(living[0].address)
    again.start_head(living[0])
    again.join(*living[1:])
    later = replace(cluster, variables=again.environment)
    later.rayplane("up", "--address", "auto")
    try:
        assert set(later.places("member").values()) <= {m.address for m in living}
        kubectl = later.kubectl()
        assert sorted(kubectl.names("configmaps,deployments,services", "--all-namespaces")) == before
        kubectl("rollout", "status", "deployment/keeper", "--timeout=90s")
        assert kubectl("exec", "deployment/keeper", "--", "cat", "/data/file") == "precious"
    finally:
        later.rayplane("down")
