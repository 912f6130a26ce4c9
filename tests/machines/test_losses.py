"""Machines of a cluster are lost, drained, and come up again at other addresses: it goes on, and keeps its bytes.

Each of the tests holds alone, and after those before it.

On a cluster of their own: a Ray whose head was killed and is back may have thrown away the package that machines get
which come later.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rayplane.control_plane.rpc.tls import Authority
from rayplane.control_plane.testing.machines.machines import NETWORK, Machines
from rayplane.control_plane.testing.machines.rays import RayNodes
from tests.e2e.harness import Kubectl, until
from tests.e2e.shop import DESK, Customer, build_images, database, identity_of_database, shop
from tests.e2e.shop_images import missing
from tests.machines.places import ROLES, Placed, healthy, healthy_elsewhere, needs_machines, node_on, voters
from tests.machines.pods import WRITE, apply, asked, claimed, likes, replicas, server, write_data

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), needs_machines]


def speak(kubectl: Kubectl, one: str, other: str) -> bool:
    """Whether the pods of two nodes, made anew where they went with their machine, reach each other."""
    apply(kubectl, server(one), server(other))
    kubectl("wait", f"pod/on-{one}", f"pod/on-{other}", "--for=condition=Ready", "--timeout=180s")
    there, back = asked(kubectl, one, other), asked(kubectl, other, one)
    return there == [f"on-{other}"] * 2 and back == [f"on-{one}"] * 2


@pytest.fixture(scope="module")
def keeper(cluster: Placed, machines: Machines, kubectl: Kubectl) -> str:
    """The node of the third machine where a deployment keeps precious bytes on a replicated volume."""
    near = node_on(cluster, machines.all[2])
    apply(kubectl, *claimed("keeper", near=near))
    kubectl("rollout", "status", "deployment/keeper", "--timeout=180s")
    write_data(kubectl, "keeper", "precious")
    return near


@pytest.mark.turn(0, of=4)
def test_a_lost_machine_is_made_up_for(
    cluster: Placed, machines: Machines, rays: RayNodes, kubectl: Kubectl, keeper: str
) -> None:
    third = machines.all[2]
    lost, kept = keeper, node_on(cluster, cluster.machine)
    third.lose()
    until("all its actors are elsewhere", lambda: healthy_elsewhere(cluster, ROLES, third), timeout_s=150)
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


@pytest.mark.turn(0, of=4)
def test_a_machine_that_is_lost_on_purpose_comes_back(cluster: Placed, machines: Machines) -> None:
    said = cluster.rayplane("chaos", "inject", "lose_machine: {target: node random, for: 10m}").stdout
    [lost] = [machine for machine in machines.living() if machine.address in said]
    assert lost.processes("raylet") == []
    until("all is well elsewhere", lambda: healthy_elsewhere(cluster, ROLES, lost), timeout_s=150)
    assert "was left broken: lose_machine" in cluster.rayplane("chaos", "heal").stdout
    until("it has its member again", lambda: healthy(cluster) and lost.address in voters(cluster))
    apart = len(cluster.places("apiserver"))
    until("API servers are apart", lambda: healthy(cluster) and len({*cluster.places("apiserver").values()}) == apart)


@pytest.mark.turn(1, of=4)
@pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server")
@pytest.mark.usefixtures("keeper")
def test_supervisor_load_balancer_and_rays_head_on_the_lost_machine(
    cluster: Placed, machines: Machines, rays: RayNodes, kubectl: Kubectl
) -> None:
    head, spare = machines.all[0], machines.all[3]
    assert set(cluster.places("lb").values()) == {head.address}
    head.lose()
    # Whoever runs Ray gives its head, with its tables, another machine; all else goes by itself.
    rays.start_head(spare)
    moved = ("supervisor", *ROLES)
    until("all is well elsewhere", lambda: healthy_elsewhere(cluster, moved, head), timeout_s=200)
    cluster.rayplane("kubeconfig")
    kubectl("create", "configmap", "elsewhere")
    kubectl("rollout", "status", "deployment/keeper", "--timeout=90s")
    assert kubectl("exec", "deployment/keeper", "--", "cat", "/data/file") == "precious"


@pytest.mark.turn(1, of=4)
@pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server")
@pytest.mark.usefixtures("keeper")
def test_a_drained_machine_is_empty_until_it_is_used_again(
    cluster: Placed, machines: Machines, kubectl: Kubectl
) -> None:
    # Not the supervisor's, which Ray may bring back where it was: then the command says so.
    address = next(m.address for m in machines.living() if m.address not in cluster.places("supervisor").values())
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


@pytest.mark.turn(2, of=4)
@pytest.mark.skipif(bool(missing()), reason=f"this machine has no {missing()}")
def test_a_shop_goes_on_with_its_database_elsewhere(
    cluster: Placed, machines: Machines, rays: RayNodes, tmp_path: Path
) -> None:
    third = machines.all[2]
    build_images(cluster, tmp_path)
    cluster.kubectl()("create", "namespace", "shop")
    kubectl, authority = cluster.kubectl(namespace="shop"), Authority.create("shop")
    near = likes(node_on(cluster, third))
    apply(kubectl, *database(beside=[DESK], affinity=near), *shop(authority))
    for name in ("statefulset/database", "deployment/cache", "deployment/shop"):
        kubectl("rollout", "status", name, "--timeout=180s")
    customer = Customer(cluster, authority)
    until("the shop is served", lambda: customer.ask("PUT") is not None)
    assert customer.ask("POST", "a kettle") == ["1"]
    identity = identity_of_database(kubectl, "shop")
    kubectl("exec", "database-0", "-c", "desk", "--", "python3", "-c", WRITE, "so much is safe")
    assert kubectl.json("get", "pod", "database-0")["spec"]["nodeName"] == node_on(cluster, third)
    third.lose()
    until("the shop sells", lambda: customer.ask("POST", "tea"), timeout_s=300)
    assert "a kettle" in customer.ask("GET")["orders"]
    assert identity.isdigit() and identity_of_database(kubectl, "shop") == identity
    third.boot()
    rays.join(third)


@pytest.mark.turn(2, of=4)
@pytest.mark.usefixtures("keeper")
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
