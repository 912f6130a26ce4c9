"""The service proxy: its rules, and real connections to real processes."""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.nftables.ruleset import Table
from rayplane.node.proxy import proxy as proxies
from rayplane.node.proxy.datagrams import UdpListener
from rayplane.node.proxy.health_check import HealthListener
from rayplane.node.proxy.listeners import TcpListener
from rayplane.node.proxy.rules import SLICES, Endpoint, HostView, Socket, Target, endpoints_of, plan_service
from rayplane.node.runtime.pod_network import OwnNetwork
from rayplane.node.tasks import Tasks
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.ports import free_port

MakeHost = Callable[..., Awaitable[NodeHost]]
VIEW = HostView({"n1": "127.77.1.1", "n2": "127.77.2.1"}, frozenset({"sim"}))

# Answers each connection with its name, then with the number of bytes it read until the client's end.
ECHO = """
import os, socket
s = socket.create_server((os.environ["POD_IP"], 18081))
while True:
    c, _ = s.accept()
    try:
        c.sendall(os.environ["HOSTNAME"].encode() + b" ")
        n = 0
        while data := c.recv(65536):
            n += len(data)
        c.sendall(str(n).encode())
    except OSError:
        pass  # a probe
    c.close()
"""


def service(**spec: Any) -> Object:
    spec = {"clusterIP": "127.96.0.5", "ports": [{"name": "http", "port": 80}], **spec}
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}


def endpoint(ip: str, node: str = "n1", **conditions: bool) -> Object:
    ref = {"kind": "Pod", "namespace": "default", "name": ip}
    return {"addresses": [ip], "nodeName": node, "targetRef": ref, "conditions": {"ready": True, **conditions}}


def slices(*endpoints: Object, port: int = 8080) -> list[Object]:
    labels = {"kubernetes.io/service-name": "web"}
    ports = [{"name": "http", "port": port, "protocol": "TCP"}]
    metadata = {"name": "web-1", "namespace": "default", "labels": labels}
    return [{"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": list(endpoints)}]


def ips(endpoints: tuple[Endpoint, ...]) -> list[str]:
    return [e.ip for e in endpoints]


def test_cluster_ip_goes_to_ready_endpoints() -> None:
    plan = plan_service(service(), slices(endpoint("10.0.0.1"), endpoint("10.0.0.2", ready=False)), VIEW)
    assert list(plan) == [Socket("127.96.0.5", 80)]
    target = plan[Socket("127.96.0.5", 80)]
    assert target.endpoints == (Endpoint("10.0.0.1", 8080, "n1", "default/10.0.0.1"),)
    assert target.affinity_s == 0


def test_hints_keep_traffic_near_while_there_is_an_endpoint() -> None:
    here = HostView({"n1": "127.77.1.1"}, node_zones={"n1": "east"})

    def reached(*hinted: tuple[str, str, str]) -> list[str]:
        found = []
        for ip, zone, node in hinted:
            hints = {"forZones": [{"name": zone}]} if zone else {}
            hints |= {"forNodes": [{"name": node}]} if node else {}
            found.append(endpoint(ip, node or "n9") | {"hints": hints})
        (target,) = plan_service(service(), slices(*found), here).values()
        return ips(target.endpoints)

    assert reached(("10.0.0.1", "east", ""), ("10.0.0.2", "west", "")) == ["10.0.0.1"]
    assert reached(("10.0.0.1", "west", ""), ("10.0.0.2", "west", "")) == ["10.0.0.1", "10.0.0.2"]
    assert reached(("10.0.0.1", "east", ""), ("10.0.0.2", "", "")) == ["10.0.0.1", "10.0.0.2"]  # one without a hint
    assert reached(("10.0.0.1", "east", "n1"), ("10.0.0.2", "east", "n2")) == ["10.0.0.1"]
    assert reached(("10.0.0.1", "east", "n3"), ("10.0.0.2", "west", "n4")) == ["10.0.0.1"]  # none on the node: its zone


def test_node_ports_of_nodes_in_two_zones_lead_to_their_own() -> None:
    here = HostView({"n1": "127.77.1.1", "n2": "127.77.2.1"}, node_zones={"n1": "east", "n2": "west"})
    found = [endpoint(ip, "n9") | {"hints": {"forZones": [{"name": zone}]}} for ip, zone in
             (("10.0.0.1", "east"), ("10.0.0.2", "west"))]  # fmt: skip
    ported = service(type="NodePort", ports=[{"name": "http", "port": 80, "nodePort": 30080}])
    plan = plan_service(ported, slices(*found), here)
    assert ips(plan[Socket("127.77.1.1", 30080)].endpoints) == ["10.0.0.1"]
    assert ips(plan[Socket("127.77.2.1", 30080)].endpoints) == ["10.0.0.2"]


def test_no_socket_for_headless_simulated_or_empty_services() -> None:
    assert plan_service(service(clusterIP="None"), slices(endpoint("10.0.0.1")), VIEW) == {}
    assert plan_service(service(type="ExternalName"), slices(endpoint("10.0.0.1")), VIEW) == {}
    assert plan_service(service(), slices(endpoint("10.0.0.1", "sim")), VIEW) == {}
    assert plan_service(service(), [], VIEW) == {}


def test_ending_endpoints_serve_while_none_is_ready() -> None:
    ending = endpoint("10.0.0.2", ready=False, serving=True, terminating=True)
    assert ips(endpoints_of(slices(ending), "http", VIEW)) == ["10.0.0.2"]
    assert ips(endpoints_of(slices(ending, endpoint("10.0.0.1")), "http", VIEW)) == ["10.0.0.1"]


def test_node_ports_and_external_addresses() -> None:
    ports = [{"name": "http", "port": 80, "nodePort": 30080}]
    balancer = {"loadBalancer": {"ingress": [{"ip": "127.99.0.3"}]}}
    one = service(type="LoadBalancer", ports=ports, externalIPs=["127.99.0.9"]) | {"status": balancer}
    plan = plan_service(one, slices(endpoint("10.0.0.1")), VIEW)
    assert sorted(plan) == [
        Socket("127.77.1.1", 30080),
        Socket("127.77.2.1", 30080),
        Socket("127.96.0.5", 80),
        Socket("127.99.0.3", 80),
        Socket("127.99.0.9", 80),
    ]
    one["spec"]["externalTrafficPolicy"] = "Local"
    plan = plan_service(one, slices(endpoint("10.0.0.1", "n2"), endpoint("10.0.0.3", "far")), VIEW)
    assert plan[Socket("127.77.1.1", 30080)].endpoints == ()
    assert ips(plan[Socket("127.77.2.1", 30080)].endpoints) == ["10.0.0.1"]
    assert ips(plan[Socket("127.96.0.5", 80)].endpoints) == ["10.0.0.1", "10.0.0.3"]
    # Pods of the machine reach what is outside for others as they reach the cluster's address.
    assert ips(plan[Socket("127.77.2.1", 30080)].for_pods) == ["10.0.0.1", "10.0.0.3"]


def test_internal_policy_and_affinity() -> None:
    one = service(internalTrafficPolicy="Local", sessionAffinity="ClientIP")
    plan = plan_service(one, slices(endpoint("10.0.0.1", "far"), endpoint("10.0.0.2")), VIEW)
    assert ips(plan[Socket("127.96.0.5", 80)].endpoints) == ["10.0.0.2"]
    assert plan[Socket("127.96.0.5", 80)].affinity_s == 10800


# --- real connections -----------------------------------------------------------------------------


async def ask(ip: str, port: int, data: bytes = b"") -> str:
    reader, writer = await asyncio.open_connection(ip, port)
    writer.write(data)
    writer.write_eof()
    answer = (await reader.read()).decode()
    writer.close()
    return answer


async def start_echo(api: FakeClient, *names: str) -> list[Object]:
    for name in names:
        probe = {"readinessProbe": {"tcpSocket": {"port": 18081}, "periodSeconds": 1}}
        api.put("pods", make_pod(name, container={"command": [sys.executable, "-c", ECHO], **probe}))
    await api.until(lambda: all(pod_is_ready(api.pod(n)) for n in names))
    return [endpoint(api.pod(n)["status"]["podIP"]) for n in names]


@pytest.mark.processes
async def test_connections_reach_pods_and_half_close(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1", runtime="process"))
    a, b = await start_echo(api, "a", "b")
    port = free_port()
    api.put("services", service(clusterIP="127.96.0.5", ports=[{"name": "http", "port": port}]))
    dead = endpoint("127.77.1.250")
    api.put("endpointslices.discovery.k8s.io", slices(a, b, dead, port=18081)[0])

    async def connected() -> bool:
        try:
            return bool(await ask("127.96.0.5", port))
        except OSError:
            return False

    while not await connected():
        await asyncio.sleep(0.01)
    # A dead endpoint is passed over, the others share the connections.
    answers = [await ask("127.96.0.5", port, b"x" * 300_000) for _ in range(9)]
    assert {answer.split()[0] for answer in answers} == {"a", "b"}
    assert {answer.split()[1] for answer in answers} == {"300000"}
    # A removed service takes no more connections.
    api.remove("services", "default/web")
    while await connected():
        await asyncio.sleep(0.01)


@pytest.mark.processes
async def test_pods_of_another_machine_are_reached_through_their_host(api: FakeClient, make_host: MakeHost) -> None:
    await make_host(NodeConfig("n1", runtime="process"))
    (a,) = await start_echo(api, "a")
    a["targetRef"]["name"] = "a"
    # The second host says that it is on another machine than the first.
    await make_host(NodeConfig("n2"), proxy=True, advertise_host="elsewhere")
    node_port = free_port()
    ports = [{"name": "http", "port": free_port(), "nodePort": node_port}]
    api.put("services", service(ports=ports))
    api.put("endpointslices.discovery.k8s.io", slices(a, port=18081)[0])
    while True:
        try:
            answer = await ask("127.77.2.1", node_port, b"x" * 200_000)
            break
        except OSError:
            await asyncio.sleep(0.01)
    assert answer == "a 200000"


class Kernel:
    """A kernel that takes packet rules, or not."""

    def __init__(self) -> None:
        self.table, self.refuses = Table(), False

    async def apply(self) -> None:
        if self.refuses:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")


async def test_addresses_of_other_clusters_are_left_alone(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1"), proxy=True, loopback_networks=("127.96.0.0/16",))
    proxy = host.proxy
    assert proxy is not None
    # Nor is the network: this host is reached on loopback only.
    external = ["127.97.77.5", "10.0.0.9"]
    web = service(clusterIP="127.96.77.5", externalIPs=external, ports=[{"name": "http", "port": 18085}])
    api.put("services", web)
    for one in slices(endpoint("127.77.1.9", node="elsewhere")):
        api.put(SLICES, one)
    await api.until(lambda: proxy._listeners)
    assert [*proxy._listeners] == [Socket("127.96.77.5", 18085)]

    def said() -> list[str]:
        return [e["message"] for e in api.objects.get("events", {}).values() if e["reason"] == "CannotListen"]

    await api.until(lambda: len(said()) >= len(external))
    assert sorted(said()) == [f"{address} is no address of this cluster" for address in sorted(external)]


async def test_addresses_that_packet_rules_serve_are_not_told_of(api: FakeClient, make_host: MakeHost) -> None:
    host, kernel = await make_host(NodeConfig("n1"), proxy=True, loopback_networks=("127.96.0.0/16",)), Kernel()
    proxy = host.proxy
    assert proxy is not None
    proxy._kernel = kernel  # type: ignore[assignment]
    external = ["127.97.77.5", "192.0.2.7"]
    api.put("services", service(clusterIP="127.96.77.5", externalIPs=external, ports=[{"name": "http", "port": 18085}]))
    for one in slices(endpoint("127.77.1.9", node="elsewhere")):
        api.put(SLICES, one)

    def said() -> set[str]:
        events = api.objects.get("events", {}).values()
        return {e["message"].partition(" ")[0] for e in events if e["reason"] == "CannotListen"}

    await api.until(lambda: proxy._in_kernel and said() != set())
    assert said() == {"127.97.77.5"}, "no pod's packets to another cluster's loopback address leave it"
    kernel.refuses = True
    proxy.reopen()
    await api.until(lambda: said() == {*external})


async def test_ports_of_sctp_are_told_of_wherever_no_packet_rules_serve_them(
    api: FakeClient, make_host: MakeHost
) -> None:
    host, kernel = await make_host(NodeConfig("n1"), proxy=True), Kernel()
    proxy = host.proxy
    assert proxy is not None
    proxy._kernel = kernel  # type: ignore[assignment]

    def said() -> list[str]:
        events = api.objects.get("events", {}).values()
        return [e["involvedObject"]["name"] for e in events if e["reason"] == "NotServed"]

    def put(name: str, number: int, **target: Any) -> None:
        made = service(clusterIP=f"127.96.8.{number}", ports=[{"port": 80, "protocol": "SCTP"}])
        made["metadata"]["name"] = name
        [one] = slices({**endpoint("127.77.1.9", node="elsewhere"), **target})
        one["metadata"] = {**one["metadata"], "name": name, "labels": {"kubernetes.io/service-name": name}}
        one["ports"] = [{"port": 8080, "protocol": "SCTP"}]
        api.put("services", made)
        api.put(SLICES, one)

    put("pods", 1)
    await api.until(lambda: proxy._in_kernel and len(proxy._by_rules_alone) == 1)
    assert said() == []
    put("elsewhere", 2, targetRef=None)
    await api.until(lambda: said() == ["elsewhere"])
    kernel.refuses = True
    proxy.reopen()
    await api.until(lambda: sorted(said()) == ["elsewhere", "pods"])


class Machine(OwnNetwork):
    """The machine's network, where others have a port."""

    def __init__(self, error: int | None) -> None:
        self.error = error

    async def listen(self, ip: str, port: int) -> socket.socket:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        return await super().listen("127.0.0.1", 0)

    async def listen_udp(self, ip: str, port: int) -> socket.socket:
        await self.listen(ip, port)
        return await super().listen_udp("127.0.0.1", 0)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EADDRINUSE])
@pytest.mark.parametrize("kind", [TcpListener, UdpListener, HealthListener])
async def test_a_port_that_the_machine_keeps_is_open_to_pods(kind: Any, error: int) -> None:

    def listener(*networks: OwnNetwork) -> Any:
        places = [(network, Socket("127.0.0.1", 0)) for network in networks]
        more = (None, None) if kind is not HealthListener else ()
        turn = {"turn": 0} if more else {}
        return kind(places, Target("default/web", ()), *more, Tasks(), **turn)

    both = listener(OwnNetwork(), Machine(error))
    for _ in range(2):
        refused = await both.open()
        assert refused is not None and refused.errno == error
        assert len(both._sockets if kind is UdpListener else both._servers) == 1
    await both.close()
    with pytest.raises(OSError, match=os.strerror(error)):
        await listener(Machine(error)).open()
    alone = listener(OwnNetwork())
    assert await alone.open() is None
    await alone.close()


@pytest.mark.parametrize("pods", [None, errno.EADDRINUSE])
async def test_cannot_listen_says_for_whom_and_is_tried_again(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, pods: int | None
) -> None:
    """Where the kernel takes no packet rules, and another program has the port of the machine."""
    web = Socket("10.96.0.5", 80)
    machine, network = Machine(errno.EADDRINUSE), Machine(pods)
    monkeypatch.setattr(proxies, "DIRECT", machine)
    monkeypatch.setattr(proxies, "BIND_RETRY_S", 0.01)
    host = await make_host(NodeConfig("n1"), proxy=True, loopback_networks=("10.96.0.0/16",))
    proxy = host.proxy
    assert proxy is not None
    proxy._config = replace(proxy._config, network=network)
    api.put("services", service(clusterIP=web.ip))
    for one in slices(endpoint("10.0.0.1", node="elsewhere")):
        api.put(SLICES, one)

    def said() -> set[str]:
        return {e["message"] for e in api.objects.get("events", {}).values() if e["reason"] == "CannotListen"}

    await api.until(lambda: said() != set())
    whom = "" if pods else " for people at this machine (pods reach it)"
    assert said() == {f"cannot listen on 127.96.0.5:80{whom}: Address already in use"}
    assert [*proxy._listeners] == ([] if pods else [web])
    for _ in range(3):
        await proxy._apply()
        assert len(proxy._retries) <= 1, "each change would begin tries of its own"
    machine.error = network.error = None
    await api.until(lambda: web in proxy._listeners and not proxy._listeners[web].closed)
