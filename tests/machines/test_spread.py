"""A cluster of three machines: its parts are spread, pods reach each other as policies let them, nothing is left."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.testing.machines.machines import Machine, Machines
from rayplane.control_plane.testing.machines.rays import RayNodes
from tests.e2e.harness import Kubectl, until
from tests.machines.places import NODES, Placed, healthy, needs_machines, node_on
from tests.machines.pods import apply, asked, asking, write_once, writing

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), needs_machines, pytest.mark.turn(3, of=4)]


def everybody() -> list[str]:
    return [f"on-{node}" for node in NODES for _ in ("tcp", "udp")]


def test_what_there_is_several_of_is_on_different_machines(cluster: Placed, machines: Machines) -> None:
    addresses = {m.address for m in machines.all}
    for role, apart in (("member", 3), ("apiserver", 3), ("scheduler", 2), ("controllers", 2), ("node-host", 3)):
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
    cluster: Placed, machines: Machines, rays: RayNodes, kubectl: Kubectl
) -> None:
    head, spare = machines.all[0], machines.all[3]
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
    # The head has forgotten who needs rayplane's package, and throws it away with the first who came since.
    cluster.rayplane("remove", "node", "node-5")
    rays.join(spare)
    cluster.rayplane("add", "node")
    kubectl("wait", f"node/{node_on(cluster, spare)}", "--for=condition=Ready", "--timeout=180s")


def test_members_are_on_their_machines_after_a_restore_and_a_purge_leaves_nothing_on_any(
    cluster: Placed, machines: Machines, kubectl: Kubectl
) -> None:
    """The last, as it is the end of the cluster."""
    kubectl("create", "configmap", "kept")
    file = str(cluster.machine.place / "backup")
    cluster.rayplane("backup", file)
    kubectl("create", "configmap", "later")
    cluster.rayplane("restore", file, "--force")
    kubectl("get", "configmap", "kept")
    kubectl("get", "configmap", "later", code=1)
    until("all members vote", lambda: healthy(cluster))
    places = cluster.places("member")
    assert len(places) == len(set(places.values())) == 3
    assert set(places.values()) <= {machine.address for machine in machines.all}
    cluster.rayplane("down", "--purge")
    assert not [path for machine in machines.all for path in machine.path(".rayplane").glob("*")]
