"""Isolated pods beside those of another runtime: services lead from either to the other, and policies count there."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.config import NAMESPACES, NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.proxy.proxy import ServiceProxy
from rayplane.node.proxy.rules import Endpoint
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.fake_runtime import FakeRuntime
from tests.node.isolated import SLEEP, Isolating, isolating, make_isolating
from tests.node.processes import NODE, MakeHost, run_in
from tests.node.test_policies_in_pods import policy
from tests.node.test_services_in_pods import ASK, SERVE, put, service

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]
POLICIES = "networkpolicies.networking.k8s.io"
SHUT = "nobody"
NETWORKS = ("10.77.0.0/16", "10.78.0.0/16", "127.78.0.0/16")


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeRuntime]:
    found = FakeRuntime(tmp_path / "s")
    await found.start()
    yield found
    await found.stop()


@dataclass
class World:
    """Pods `web` and `box` are isolated; `theirs` is of another runtime, whose pods are found from the machine."""

    api: FakeClient
    here: NodeHost
    there: NodeHost

    def ip(self, name: str) -> str:
        return str(self.api.pod(name)["status"]["podIP"])

    def end(self, name: str) -> Object:
        pod = self.api.pod(name)
        ref = {"kind": "Pod", "namespace": "default", "name": name}
        ready = {"ready": True}
        return {
            "addresses": [self.ip(name)],
            "nodeName": pod["spec"]["nodeName"],
            "targetRef": ref,
            "conditions": ready,
        }

    async def until(self, line: str, wanted: str) -> None:
        """Wait until `box` is answered by that pod, or by nobody."""
        async with asyncio.timeout(60):
            while True:
                out, err, code = await run_in(self.here, "box", "python3", "-c", ASK, "1", f"{line} 1")
                assert code == 0, err
                said = out.decode().strip().split("/")[0]
                if (said if said in ("theirs", "web") else SHUT) == wanted:
                    return
                await asyncio.sleep(0.01)

    @property
    def proxy(self) -> ServiceProxy:
        """That of the host whose pods are the other runtime's."""
        assert self.there.proxy is not None
        return self.there.proxy


@pytest.fixture
async def world(api: FakeClient, make_isolating: Isolating, make_host: MakeHost, fake: FakeRuntime) -> World:
    here = await make_isolating(NODE)
    theirs = NodeConfig("n2", runtime=f"cri:unix://{fake.path}")
    there = await make_host(theirs, isolation=NAMESPACES, loopback_networks=NETWORKS, dns="10.78.0.10")
    commands = {"web": ["python3", "-c", SERVE], "box": SLEEP.split(), "theirs": SLEEP.split()}
    for name, command in commands.items():
        pod = make_pod(name, node="n2" if name == "theirs" else "n1", container={"command": command})
        pod["metadata"]["labels"] = {"app": name}
        api.put("pods", pod)
    await api.until(lambda: all(pod_is_ready(api.pod(name)) for name in ("web", "box", "theirs")))
    return World(api, here, there)


@pytest.fixture
def answering(world: World) -> Iterator[int]:
    """The port at which `theirs` answers its name."""
    with socket.create_server((world.ip("theirs"), 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"theirs")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


async def said(proxy: ServiceProxy, endpoint: Endpoint) -> bytes:
    pipe = await proxy.dial(endpoint)
    try:
        return await pipe.read()
    finally:
        await pipe.close(broken=False)


async def test_services_lead_from_isolated_pods_to_others_and_back(world: World, answering: int) -> None:
    put(world.api, service("theirs", clusterIP="10.78.1.1", ports=[{"port": 80}]), world.end("theirs"), port=answering)
    await world.until("TCP 10.78.1.1 80", "theirs")
    web = Endpoint(world.ip("web"), 8080, "n1", "default/web")
    assert world.proxy.network_of(web) is None, "only its node host leads there"
    assert (await said(world.proxy, web)).startswith(b"web ")
    both = service("both", clusterIP="10.78.1.2", ports=[{"port": 80}])
    put(world.api, both, world.end("theirs"), port=answering)
    await world.until("TCP 10.78.1.2 80", "theirs")
    put(world.api, both, world.end("web"), port=8080)
    await world.until("TCP 10.78.1.2 80", "web")


async def test_policies_count_for_what_services_lead_from_one_kind_to_the_other(
    world: World, fake: FakeRuntime, answering: int
) -> None:
    put(world.api, service("theirs", clusterIP="10.78.1.1", ports=[{"port": 80}]), world.end("theirs"), port=answering)
    await world.until("TCP 10.78.1.1 80", "theirs")
    only = [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]
    world.api.put(POLICIES, policy("leaves", {"app": "box"}, policyTypes=["Egress"], egress=only))
    await world.until("TCP 10.78.1.1 80", SHUT)
    world.api.remove(POLICIES, "default/leaves")
    await world.until("TCP 10.78.1.1 80", "theirs")
    world.api.put(POLICIES, policy("closed", {"app": "theirs"}, policyTypes=["Ingress"]))
    await world.until("TCP 10.78.1.1 80", SHUT)
    # Of a pod of the other runtime its own host judges.
    rules: Any = world.there.rules
    fake.network = "192.0.2"
    world.api.put("pods", make_pod("asks", node="n2", container={"command": SLEEP.split()}))
    await world.api.until(lambda: pod_is_ready(world.api.pod("asks")))
    ask = world.ip("asks"), world.ip("web"), 8080, "TCP"
    await world.api.until(lambda: rules.may_reach(*ask))
    world.api.put(POLICIES, policy("guarded", {"app": "web"}, policyTypes=["Ingress"]))
    await world.api.until(lambda: not rules.may_reach(*ask))
    assert rules.may_reach("127.0.0.1", *ask[1:]), "a person at the machine is none of its pods"


async def test_who_does_not_keep_policies_whole_says_so(world: World) -> None:
    world.api.put(POLICIES, policy("any", {}, policyTypes=["Ingress"]))

    def told() -> list[str]:
        return [e["message"] for e in world.api.objects.get("events", {}).values() if e["reason"] == "NotEnforced"]

    await world.api.until(lambda: bool(told()))
    assert told() == [
        "node n2 does not keep it: its pods are in the network of another runtime (it counts for what services lead "
        "between them and isolated ones)"
    ]
