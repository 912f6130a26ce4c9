"""kubectl's streams to pods, its rights and its tokens, through TLS and the load balancer."""

import asyncio
import functools
import json
from typing import Any

import jwt
import pytest
import yaml

from tests.apiserver.secure import KUBECTL, Cluster, cluster

__all__ = ["cluster"]
pytestmark = pytest.mark.e2e
# With `false` kubectl speaks SPDY/3.1, as it did by itself before 1.30.
BOTH_WAYS = pytest.mark.parametrize("websockets", ["true", "false"])


async def test_logs(cluster: Cluster) -> None:
    code, out, err = await cluster.kubectl("logs", "p")
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"line {i} of c" for i in range(5)]
    _, out, _ = await cluster.kubectl("logs", "p", "--tail=1", "-f")
    assert out == "line 4 of c\n"
    code, _, err = await cluster.kubectl("logs", "p", "-c", "none")
    assert code == 1
    assert "container none is not valid for pod p" in err


@BOTH_WAYS
async def test_exec_passes_streams_and_exit_code(cluster: Cluster, websockets: str) -> None:
    kubectl = functools.partial(cluster.kubectl, environment={"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": websockets})
    code, out, err = await kubectl("exec", "p", "--", "echo", "hello there")
    assert out == "echo hello there\n"
    assert err.startswith("trouble\n")
    assert code == 7
    code, out, _ = await kubectl("exec", "-i", "p", "--", "cat", stdin="from stdin")
    assert (code, out) == (0, "from stdin")


@BOTH_WAYS
async def test_port_forward_carries_connections_both_ways(cluster: Cluster, websockets: str) -> None:
    environment = {"KUBECTL_PORT_FORWARD_WEBSOCKETS": websockets}
    process = await cluster.start_kubectl("port-forward", "pod/p", ":8080", environment=environment)
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        port = int(line.split("127.0.0.1:")[1].split(" ")[0])
        for message in (b"one", b"two"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(message)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 10) == b"port 8080: " + message
            writer.close()
    finally:
        process.kill()
        await process.wait()


async def test_who_may_only_get_runs_no_commands(cluster: Cluster) -> None:
    """A WebSocket begins with GET, and kubectl opens one: it takes the right to create all the same."""
    rules = ("create", "role", "looker", "--verb=get", "--resource=pods,pods/exec,pods/attach,pods/portforward")
    for arguments in (rules, ("create", "rolebinding", "lookers", "--role=looker", "--user=jane")):
        assert (await cluster.kubectl(*arguments))[0] == 0
    for command in (("exec", "p", "--", "echo"), ("attach", "p"), ("port-forward", "p", ":80")):
        code, out, err = await cluster.kubectl(*command, user="jane", groups=())
        assert (code, out) == (1, "")
        assert 'User "jane" cannot create resource "pods/' in err


async def test_rights_follow_the_certificate(cluster: Cluster) -> None:
    code, _, err = await cluster.kubectl("get", "pods", user="jane", groups=())
    assert code == 1
    assert 'User "jane" cannot list resource "pods" in API group "" in the namespace "default"' in err
    for arguments in (
        ("create", "role", "reader", "--verb=get,list", "--resource=pods"),
        ("create", "rolebinding", "readers", "--role=reader", "--user=jane"),
    ):
        code, _, err = await cluster.kubectl(*arguments)
        assert code == 0, err
    code, out, err = await cluster.kubectl("get", "pods", "-o", "name", user="jane", groups=())
    assert (code, out) == (0, "pod/p\n"), err
    _, out, _ = await cluster.kubectl("auth", "can-i", "delete", "pods", user="jane", groups=())
    assert out == "no\n"


async def test_service_account_token_is_good_until_the_account_goes(cluster: Cluster) -> None:
    code, token, err = await cluster.kubectl("create", "token", "default")
    assert code == 0, err
    arguments = ("auth", "whoami", "--token", token.strip(), "-o", "jsonpath={.status.userInfo.username}")
    # The certificate would win over the token: use a configuration without one.
    path = cluster.kubeconfig("nobody", [])
    config = yaml.safe_load(path.read_text())
    config["users"][0]["user"] = {"token": token.strip()}
    path.write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        KUBECTL,
        *arguments[:2],
        *arguments[4:],
        env={"KUBECONFIG": str(path), "HOME": str(cluster.directory)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert out.decode() == "system:serviceaccount:default:default"


async def test_a_kubelets_certificate_sees_its_own_with_kubectl(cluster: Cluster) -> None:
    node: dict[str, Any] = {"user": "system:node:n1", "groups": ("system:nodes",)}
    code, out, err = await cluster.kubectl("get", "pods", "--field-selector", "spec.nodeName=n1", "-o", "name", **node)
    assert (code, out) == (0, "pod/p\n"), err
    _, _, err = await cluster.kubectl("get", "secrets", **node)
    assert err == (
        'Error from server (Forbidden): secrets is forbidden: User "system:node:n1" cannot list resource "secrets" in '
        'API group "" in the namespace "default": No Object name found\n'
    )
    _, _, err = await cluster.kubectl("taint", "nodes", "n1", "a=b:NoExecute", **node)
    assert 'nodes "n1" is forbidden: node "n1" is not allowed to modify taints' in err


async def test_kubectl_binds_tokens_and_is_told_of_a_shorter_life(cluster: Cluster) -> None:
    bound = ("--bound-object-kind", "Pod", "--bound-object-name", "p")
    code, token, err = await cluster.kubectl("create", "token", "default", "--duration", "876000h", *bound)
    assert (code, err) == (0, "Warning: requested expiration of 3153600000 seconds shortened to 31536000 seconds\n")
    assert jwt.decode(token.strip(), options={"verify_signature": False})["kubernetes.io"]["pod"]["name"] == "p"
    code, out, err = await cluster.kubectl("auth", "whoami", "--as", "jane", "--as-uid", "u-1", "-o", "json")
    assert json.loads(out)["status"]["userInfo"]["uid"] == "u-1", err


async def test_balancer_goes_on_when_a_server_stops(cluster: Cluster) -> None:
    for _ in range(3):
        assert (await cluster.kubectl("get", "pod", "p", "-o", "name"))[1] == "pod/p\n"
    await cluster.servers[1].stop()
    for _ in range(3):
        code, out, err = await cluster.kubectl("get", "pod", "p", "-o", "name")
        assert (code, out) == (0, "pod/p\n"), err
    assert cluster.balancer.address


async def test_top_shows_what_the_node_hosts_tell(cluster: Cluster) -> None:
    capacity = {"cpu": "2", "memory": "4Gi", "pods": "110"}
    status = {"capacity": capacity, "allocatable": capacity}
    await cluster.client().patch("nodes", "n1", "", {"status": status}, subresource="status")
    code, out, err = await cluster.kubectl("top", "nodes")
    assert code == 0, err
    assert out.splitlines()[1].split() == ["n1", "500m", "25%", "1024Mi", "25%"]
    code, out, err = await cluster.kubectl("top", "pods")
    assert code == 0, err
    assert out.splitlines()[1].split() == ["p", "250m", "64Mi"]
