"""Pods that choose their runtime by a RuntimeClass: data and processes side by side on one node."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import logs

pytestmark = pytest.mark.processes
MakeHost = Callable[..., Awaitable[NodeHost]]
SAYS = {"command": ["sh", "-c", "echo I am real; sleep 1000"]}


def put(api: FakeClient, name: str, runtime_class: str | None) -> None:
    spec: dict[str, Any] = {"runtimeClassName": runtime_class} if runtime_class else {}
    api.put("pods", make_pod(name, container=SAYS, **spec))


def phase(api: FakeClient, name: str) -> str:
    return str(api.pod(name)["status"].get("phase"))


@pytest.fixture
def classes(api: FakeClient) -> None:
    for handler in ("simulated", "process", "runc"):
        api.put("runtimeclasses.node.k8s.io", {"metadata": {"name": f"as-{handler}"}, "handler": handler})


@pytest.mark.usefixtures("classes")
@pytest.mark.parametrize("node", [NodeConfig("n1", runtime="process"), NodeConfig("n1", processes=True)])
async def test_a_node_has_both_where_a_class_says_so(node: NodeConfig, api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(node)
    for name, chosen in (("data", "as-simulated"), ("real", "as-process"), ("plain", ""), ("other", "as-runc")):
        put(api, name, chosen)
    await api.until(lambda: {phase(api, name) for name in ("data", "real", "plain", "other")} == {"Running"})

    async def says(name: str) -> bytes:
        said = b""
        for _ in range(2000):
            if said := await logs(host, name):
                break
        return said

    assert await says("data") == b"simulated container main started\n"
    assert await says("real") == b"I am real\n"
    usual = b"I am real\n" if node.runs_processes else b"simulated container main started\n"
    assert await says("plain") == await says("other") == usual


@pytest.mark.usefixtures("classes")
async def test_a_node_refuses_what_it_has_not(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1"))
    put(api, "real", "as-process")
    put(api, "lost", "none")
    await api.until(lambda: phase(api, "real") == phase(api, "lost") == "Failed")
    assert api.pod("real")["status"]["message"] == 'Pod was rejected: no runtime for "process" is configured on node n1'
    assert api.pod("lost")["status"]["message"] == 'Pod was rejected: runtimeclass.node.k8s.io "none" not found'
    assert api.pod("real")["status"]["reason"] == "RuntimeHandlerNotSupported"
