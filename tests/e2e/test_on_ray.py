"""A small cluster on Ray: it heals from killed processes, grows, and ends without a trace."""

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from rayplane.control_plane.rpc.tls import Credentials
from rayplane.storage.env.private import wider
from tests.e2e.harness import Cluster, Traces, listeners, processes_of, unlisted, until

SMALL = ("--members", "3", "--apiservers", "2", "--schedulers", "1", "--controllers", "1", "--nodes", "2")
_NO_TOKEN = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def cluster(lone_cluster: Cluster) -> Iterator[Cluster]:
    try:
        lone_cluster.rayplane("up", "--host", "ray", *SMALL)
        yield lone_cluster
    finally:
        lone_cluster.rayplane("down", "--purge")


def healthy(cluster: Cluster) -> bool:
    return bool(cluster.status().get("healthy"))


def leader(cluster: Cluster) -> str:
    return next((m["name"] for m in cluster.status().get("members", []) if m.get("leader")), "")


def closed(cluster: Cluster) -> None:
    """Ray has no needless process, listens on loopback alone, opens no folder, its workers are as dear as others."""
    found = listeners(cluster)
    for name in ("gcs_server", "raylet", "ComponentActor"):
        assert [who for who in found.values() if name in who], f"no {name} listens: {found}"
    assert [f"{a} {who}" for a, who in found.items() if not a[0].startswith("127.")] == []
    assert unlisted(cluster) == []
    # What Ray runs beside workers; `cat` stands in for each of the raylet's two agents.
    programs = [Path(c.split()[0]).name for c in processes_of(cluster).values() if not c.startswith("ray::")]
    assert sorted(p.rstrip("0123456789.") for p in programs) == ["cat", "cat", "gcs_server", "python", "raylet"]
    assert wider(Path(cluster.state()["host"]["dir"])) == wider(cluster.directory) == []
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in processes_of(cluster)} == {own}


def refusal(channel: grpc.Channel) -> grpc.StatusCode:
    """What Ray's head says to somebody without its token."""
    with channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")(b"", timeout=10)
    code: grpc.StatusCode = refused.value.code()
    return code


@pytest.mark.turn(0, of=2)
def test_ray_with_tls_is_closed_to_who_has_no_certificate_of_the_cluster(lone_cluster: Cluster) -> None:
    small = ("--members", "1", "--apiservers", "1", "--schedulers", "1", "--controllers", "1", "--nodes", "1")
    try:
        lone_cluster.rayplane("up", "--host", "ray", "--ray-tls", *small)
        closed(lone_cluster)
        host = lone_cluster.state()["host"]
        head, mine = f"127.0.0.1:{host['port']}", Credentials.read(Path(host["dir"], "tls"))
        assert refusal(grpc.insecure_channel(head)) is grpc.StatusCode.UNAVAILABLE
        anonymous = grpc.ssl_channel_credentials(mine.ca)
        assert refusal(grpc.secure_channel(head, anonymous)) is grpc.StatusCode.UNAVAILABLE
        # The certificate lets in, and is not enough.
        assert refusal(grpc.secure_channel(head, mine.grpc_channel())) is _NO_TOKEN
    finally:
        lone_cluster.rayplane("down", "--purge")
    assert not Path(host["dir"]).exists()


@pytest.mark.turn(1, of=2)
def test_killed_actors_come_back_and_down_leaves_no_trace(cluster: Cluster) -> None:
    traces = Traces.of(cluster)
    closed(cluster)
    assert refusal(grpc.insecure_channel(f"127.0.0.1:{cluster.state()['host']['port']}")) is _NO_TOKEN
    kubectl = cluster.kubectl()
    kubectl("create", "deployment", "web", "--image=nginx", "--replicas=4")
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")

    before = leader(cluster)
    assert cluster.rayplane("chaos", "kill", "leader").stdout.startswith(before)
    # Acknowledged while a member is away, and there when it is back.
    kubectl("create", "configmap", "written", "--from-literal=during=election")
    until("another leader", lambda: leader(cluster) not in ("", before))

    node = kubectl.items("pods")[0]["spec"]["nodeName"]
    cluster.rayplane("chaos", "kill", "node", node)
    until("the cluster is healthy again", lambda: healthy(cluster))
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    kubectl("scale", "deployment/web", "--replicas=6")
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    assert kubectl("get", "configmap", "written", "-o", "jsonpath={.data.during}") == "election"

    cluster.rayplane("down")
    assert traces.left() == []
