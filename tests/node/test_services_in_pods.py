"""Services as pods meet them: who answers, by which protocol, from this machine and another, and who does not."""

import asyncio
import errno
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.nftables import kernel
from rayplane.node.nftables.messages import delete_table
from rayplane.node.proxy import packet_rules
from rayplane.node.proxy.rules import SLICES
from rayplane.node.runtime.isolation.runtime import IsolatedRuntime
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.isolated import Isolating, isolating, make_isolating
from tests.node.processes import NODE, run_in

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]

#: Tells its name and who asked, by TCP and UDP.
SERVE = """
import os, socket, threading
name = os.environ["HOSTNAME"]
def udp():
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("", 8080))
    while True:
        _, who = u.recvfrom(99); u.sendto(f"{name} {who[0]}".encode(), who)
threading.Thread(target=udp).start()
s = socket.create_server(("", 8080))
while True:
    c, who = s.accept(); c.sendall(f"{name} {who[0]}".encode()); c.close()
"""
#: Asks by each line "protocol address port [times]" and prints an answer, or what there was instead of one.
ASK = """
import socket, sys
def ask(protocol, ip, port, wait):
    try:
        if protocol == "TCP":
            with socket.create_connection((ip, port), wait) as c: return c.recv(99).decode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as c:
            c.settimeout(wait); c.connect((ip, port)); c.send(b"?"); return c.recv(99).decode()
    except TimeoutError: return "silence"
    except OSError as e: return type(e).__name__
for line in sys.argv[2:]:
    protocol, ip, port, times = line.split()
    print(*(ask(protocol, ip, int(port), float(sys.argv[1])).replace(" ", "/") for _ in range(int(times))))
"""
#: Asks a kubelet without saying who it is.
KUBELET = """
import ssl, sys, urllib.error, urllib.request
try: urllib.request.urlopen(sys.argv[1], context=ssl._create_unverified_context())
except urllib.error.HTTPError as e: print(e.code, e.read().decode(), end="")
"""
#: Begins an association again and again, as a kernel would that has SCTP.
BEGIN = """
import socket, struct, sys, time
def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8): crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF
init = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65535, 1, 1, 1)
head = struct.pack("!HHI", 5000, int(sys.argv[2]), 0)
packet = head + struct.pack("<I", crc32c(head + bytes(4) + init)) + init
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
while True:
    s.sendto(packet, (sys.argv[1], 0))
    time.sleep(0.05)
"""
#: Tells of the first packet of SCTP that comes: who sent it, and the port that it is for.
HEAR = """
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
packet, who = s.recvfrom(99)
print(who[0], *struct.unpack_from("!2xH", packet, 20))
"""


def kernel_of(host: NodeHost) -> kernel.KernelTable:
    assert host.rules is not None and host.rules.kernel is not None
    return host.rules.kernel


def service(name: str, **spec: Any) -> Object:
    status = spec.pop("status", {})
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": status}


def put(api: FakeClient, one: Object, *endpoints: Object, port: int = 8080) -> None:
    """A service with its endpoints: all its ports lead to one."""
    name = one["metadata"]["name"]
    api.put("services", one)
    ports = [
        {"name": p.get("name", ""), "port": port, "protocol": p.get("protocol", "TCP")} for p in one["spec"]["ports"]
    ]
    about = {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}}
    api.put(SLICES, {"metadata": about, "addressType": "IPv4", "ports": ports, "endpoints": [*endpoints]})


@dataclass
class World:
    """Two machines with a node each: pods `a`, `b` and `box` on the first, `c` on the second."""

    api: FakeClient
    here: NodeHost
    there: NodeHost
    ends: dict[str, Object] = field(default_factory=dict)

    async def ask(self, *lines: str, pod: str = "box", wait: float = 3.0) -> list[list[str]]:
        lines = tuple(line if len(line.split()) == 4 else f"{line} 1" for line in lines)
        out, err, code = await run_in(self.here, pod, "python3", "-c", ASK, str(wait), *lines)
        assert code == 0, err
        return [line.split() for line in out.decode().splitlines()]

    async def until(self, line: str, holds: Callable[[str], bool], *, pod: str = "box") -> None:
        """Wait until an answer is as it should be."""
        async with asyncio.timeout(60):
            while not holds((await self.ask(line, pod=pod, wait=0.5))[0][0]):
                await asyncio.sleep(0.01)

    def ip(self, pod: str) -> str:
        ip: str = self.api.pod(pod)["status"]["podIP"]
        return ip

    def node_ip(self, *, there: bool = False) -> str:
        return self.there.kubelet("n2").node_ip if there else self.here.kubelet("n1").node_ip


@pytest.fixture
async def world(api: FakeClient, make_isolating: Isolating) -> World:
    here = await make_isolating(NODE)
    there = await make_isolating(NodeConfig("n2", runtime="process"), machine="other")
    made = World(api, here, there)
    ready = {"readinessProbe": {"tcpSocket": {"port": 8080}}}
    taken = [{"containerPort": 8080, "hostPort": 8088, "protocol": protocol} for protocol in ("TCP", "UDP")]
    for name, node, ports in (("a", "n1", taken), ("b", "n1", []), ("box", "n1", []), ("c", "n2", taken)):
        container = {"command": ["python3", "-c", SERVE], "ports": ports, **ready}
        api.put("pods", make_pod(name, node=node, container=container))
    await api.until(lambda: all(pod_is_ready(api.pod(name)) for name in ("a", "b", "box", "c")))
    for name, node in (("a", "n1"), ("b", "n1"), ("c", "n2"), ("box", "n1")):
        ref = {"kind": "Pod", "namespace": "default", "name": name}
        made.ends[name] = {
            "addresses": [made.ip(name)],
            "nodeName": node,
            "targetRef": ref,
            "conditions": {"ready": True},
        }
    return made


BOTH = [{"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}]


def put_all_kinds(api: FakeClient, ends: dict[str, Object], box: str) -> None:
    ending = {"conditions": {"ready": False, "serving": True, "terminating": True}}
    ported = [port | {"nodePort": 30080} for port in BOTH]
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    balanced = {"loadBalancer": {"ingress": [{"ip": "127.78.0.3"}]}}
    ranged = {"loadBalancer": {"ingress": [{"ip": "127.78.0.4"}]}}
    put(api, service("all", clusterIP="10.78.1.1", ports=BOTH), ends["a"], ends["b"], ends["c"])
    put(api, service("self", clusterIP="10.78.1.2", ports=BOTH), ends["box"])
    put(api, service("none", clusterIP="10.78.1.3", ports=BOTH))
    put(api, service("near", clusterIP="10.78.1.4", ports=BOTH, internalTrafficPolicy="Local"), ends["a"], ends["c"])
    put(api, service("far", clusterIP="10.78.1.5", ports=BOTH, internalTrafficPolicy="Local"), ends["c"])
    put(api, service("ending", clusterIP="10.78.1.6", ports=BOTH), ends["b"] | ending)
    put(api, service("ported", clusterIP="10.78.1.7", type="NodePort", ports=ported), ends["a"])
    put(api, service("outer", clusterIP="10.78.1.8", externalIPs=["10.80.0.1"], ports=BOTH), ends["c"])
    put(api, service("local", clusterIP="10.78.1.9", ports=BOTH, **local, status=balanced), ends["c"])
    sources = {"loadBalancerSourceRanges": ["10.99.0.0/16", f"{box}/32"]}
    put(
        api,
        service("open", clusterIP="10.78.1.10", ports=BOTH, type="LoadBalancer", **sources, status=ranged),
        ends["a"],
    )
    strangers = {"loadBalancerSourceRanges": ["10.99.0.0/16"]}
    shut = {"loadBalancer": {"ingress": [{"ip": "127.78.0.5"}]}}
    put(
        api,
        service("shut", clusterIP="10.78.1.11", ports=BOTH, type="LoadBalancer", **strangers, status=shut),
        ends["a"],
    )


async def test_services_answer_as_their_fields_say(world: World) -> None:
    node, far = world.node_ip(), world.node_ip(there=True)
    box, silent = world.ip("box"), ("silence",)
    put_all_kinds(world.api, world.ends, box)
    cases: dict[str, tuple[str, ...]] = {
        "10.78.1.1 80": (f"a/{box}", f"b/{box}", f"c/{box}"),
        "10.78.1.2 80": (f"box/{node}",),  # it does not hear from itself
        "10.78.1.3 80": ("ConnectionRefusedError",),
        "10.78.1.1 81": ("ConnectionRefusedError",),
        "10.78.200.1 80": ("ConnectionRefusedError",),
        "10.78.1.4 80": (f"a/{box}",),
        "10.78.1.5 80": silent,
        "10.78.1.6 80": (f"b/{box}",),
        f"{node} 30080": (f"a/{box}",),
        f"{far} 30080": (f"a/{far}",),  # there and back again
        f"{node} 8088": (f"a/{box}",),
        f"{far} 8088": (f"c/{box}",),
        "10.80.0.1 80": (f"c/{box}",),
        "127.78.0.3 80": (f"c/{box}",),
        "127.78.0.4 80": (f"a/{box}",),
        "127.78.0.5 80": silent,
    }
    lines = [f"{protocol} {place}" for place in cases for protocol in ("TCP", "UDP")]
    for place in ("127.78.0.4 80", f"{far} 30080"):
        await world.until(f"TCP {place}", lambda said: said.startswith("a/"))
    times = [f"{line} {25 if '10.78.1.1 80' in line else 1}" for line in lines]
    said = await world.ask(*times, wait=1.5)
    found = {line: tuple(sorted(set(answers))) for line, answers in zip(lines, said, strict=True)}
    assert found == {line: cases[line.split(" ", 1)[1]] for line in lines}
    with_network = make_pod("host", node="n1", container={"command": ["sleep", "1000"]}, hostNetwork=True)
    world.api.put("pods", with_network)
    await world.api.until(lambda: pod_is_ready(world.api.pod("host")))
    assert await world.ask("TCP 127.78.0.3 80", "UDP 127.78.0.3 80", pod="host") == [[f"c/{node}"], [f"c/{node}"]]


async def test_a_port_that_a_pod_takes_of_its_node_is_its_own_until_it_has_ended(world: World) -> None:
    line, outside = f"TCP {world.node_ip()} 8088", (f"127.{world.node_ip().removeprefix('10.')}", 8088)
    await world.until(line, lambda said: said.startswith("a/"))
    with socket.create_connection(outside, timeout=5) as one:  # as people at the machine do
        one.setblocking(False)
        assert (await asyncio.get_running_loop().sock_recv(one, 99)).startswith(b"a ")
    # Nor is the kubelet's port anywhere else than where the node's status says.
    (node,) = (one for one in world.api.objects["nodes"].values() if one["metadata"]["name"] == "n1")
    port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    out, err, _ = await run_in(world.here, "box", "python3", "-c", KUBELET, f"https://{world.node_ip()}:{port}/metrics")
    assert out == b"401 Unauthorized\n", err
    world.api.remove("pods", "default/a")
    await world.until(line, lambda said: said == "ConnectionRefusedError")


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
async def test_a_client_keeps_its_endpoint_while_that_is_there(world: World, protocol: str) -> None:
    ports = [{"port": 80, "protocol": protocol}]
    kept = service("kept", clusterIP="10.78.2.1", ports=ports, sessionAffinity="ClientIP")
    line = f"{protocol} 10.78.2.1 80"
    put(world.api, kept, *world.ends.values())
    await world.until(line, lambda said: "/" in said)
    ((first, *others),) = await world.ask(f"{line} 20")
    assert {first} == {*others}
    name = first.split("/")[0]
    put(world.api, kept, *(end for pod, end in world.ends.items() if pod != name))
    await world.until(line, lambda said: "/" in said and said.split("/")[0] != name)
    ((second, *others),) = await world.ask(f"{line} 20")
    assert {second} == {*others}


async def test_a_flow_of_datagrams_leaves_an_endpoint_that_is_gone(world: World) -> None:
    steady = service("steady", clusterIP="10.78.3.1", ports=[{"port": 80, "protocol": "UDP"}])
    put(world.api, steady, world.ends["a"])
    await world.until("UDP 10.78.3.1 80", lambda said: said.startswith("a/"))
    talk = (
        "import socket, time\n"
        "c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.settimeout(0.2); c.connect(('10.78.3.1', 80))\n"
        "said = b''\n"
        "while not said.startswith(b'b'):\n"
        "    try: c.send(b'?'); said = c.recv(99); print(said.decode(), flush=True)\n"
        "    except OSError: pass\n"
        "    if said.startswith(b'a'): open('/tmp/talks', 'w').close()\n"
        "    time.sleep(0.01)\n"
    )
    talking = asyncio.create_task(run_in(world.here, "box", "python3", "-c", talk))
    await run_in(world.here, "box", "sh", "-c", "until [ -e /tmp/talks ]; do sleep 0.05; done")
    put(world.api, steady, world.ends["b"])
    async with asyncio.timeout(60):
        assert (await talking)[2] == 0


async def test_an_association_reaches_a_pod_through_a_service(world: World) -> None:
    ports = [{"port": 80, "protocol": "SCTP"}]
    put(world.api, service("sctp", clusterIP="10.78.6.1", ports=ports), world.ends["a"])
    beginning = asyncio.create_task(run_in(world.here, "box", "python3", "-c", BEGIN, "10.78.6.1", "80"))
    try:
        async with asyncio.timeout(60):
            out, err, _ = await run_in(world.here, "a", "python3", "-c", HEAR)
        assert out.decode() == f"{world.ip('box')} 8080\n", err
    finally:
        await cancel_and_wait(beginning)


async def test_people_at_the_machine_and_services_outside_are_served_by_sockets(world: World) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"from outside")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as outside:
        number = outside.sockets[0].getsockname()[1]
        beyond = {"addresses": ["127.0.0.1"], "conditions": {"ready": True}}
        put(world.api, service("beyond", clusterIP="10.78.4.1", ports=[{"port": 80}]), beyond, port=number)
        put(
            world.api,
            service("own", clusterIP="10.78.4.2", ports=[one | {"port": 8080} for one in BOTH]),
            world.ends["c"],
        )
        await world.until("TCP 10.78.4.1 80", lambda said: said == "from/outside")
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.78.4.2", 8080)
                break
            except OSError:
                await asyncio.sleep(0.01)
        assert (await reader.read()).startswith(b"c 10.77.")
        writer.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            one.connect(("127.78.4.2", 8080))
            one.send(b"?")
            assert (await loop.sock_recv(one, 99)).startswith(b"c 10.77.")


async def test_balancers_are_told_where_endpoints_are(world: World) -> None:
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31999}
    put(world.api, service("web", clusterIP="10.78.5.1", ports=BOTH, **spec), world.ends["a"], world.ends["b"])
    get = (
        "import sys, urllib.request as u, urllib.error as e\n"
        "try: print(u.urlopen(sys.argv[1]).read().decode())\n"
        "except e.HTTPError as found: print(found.code, found.read().decode())\n"
    )

    async def told(ip: str) -> str:
        async with asyncio.timeout(60):
            while True:
                out, _, code = await run_in(world.here, "box", "python3", "-c", get, f"http://{ip}:31999/healthz")
                if code == 0:
                    return out.decode()
                await asyncio.sleep(0.01)

    here = json.loads(await told(world.node_ip()))
    assert here == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    there = await told(world.node_ip(there=True))
    assert there.startswith("503 ") and json.loads(there[4:])["localEndpoints"] == 0


async def test_what_does_not_fit_into_one_message_comes_in_several(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "TRANSACTION_BYTES", 1500)
    own = kernel_of(world.here)
    name = own._name
    for number in range(1, 60):
        put(world.api, service(f"web-{number}", clusterIP=f"10.78.6.{number}", ports=BOTH), world.ends["a"])
    await world.until("TCP 10.78.6.59 80", lambda said: said.startswith("a/"))
    assert own._name == name
    own._stale = True
    for number in range(1, 60):
        world.api.remove("services", f"default/web-{number}")
    put(world.api, service("last", clusterIP="10.78.6.99", ports=BOTH), world.ends["b"])
    await world.until("TCP 10.78.6.99 80", lambda said: said.startswith("b/"))
    assert own._name != name
    assert (await world.ask("TCP 10.78.6.59 80")) == [["ConnectionRefusedError"]]


async def test_rules_that_somebody_took_away_are_made_anew(world: World) -> None:
    own = kernel_of(world.here)
    put(world.api, service("web", clusterIP="10.78.7.1", ports=BOTH), world.ends["a"])
    await world.until("TCP 10.78.7.1 80", lambda said: said.startswith("a/"))
    assert own._socket is not None
    kernel._exchange(own._socket, [delete_table(own._name)])
    put(world.api, service("web", clusterIP="10.78.7.1", ports=BOTH), world.ends["b"])
    await world.until("TCP 10.78.7.1 80", lambda said: said.startswith("b/"))


async def test_no_pod_has_all_connections_for_itself(
    api: FakeClient, make_isolating: Isolating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packet_rules, "CONNECTIONS_OF_POD_MAX", 20)
    host = await make_isolating(NODE)
    ready = {"readinessProbe": {"tcpSocket": {"port": 8080}}}
    for name in ("a", "box", "other"):
        api.put("pods", make_pod(name, container={"command": ["python3", "-c", SERVE], **ready}))
    await api.until(lambda: all(pod_is_ready(api.pod(name)) for name in ("a", "box", "other")))
    world = World(api, host, host)
    line = f"TCP {world.ip('a')} 8080"
    flood = (
        "import socket, sys, time\n"
        "for n in range(1, 40):\n"
        "    try: socket.socket(2, 2).sendto(b'x', (sys.argv[1], n))\n"
        "    except OSError: pass\n"
    )
    await world.until(line, lambda said: said.startswith("a/"))
    await run_in(host, "box", "python3", "-c", flood, world.ip("a"))
    assert await world.ask(line, pod="box", wait=0.5) == [["silence"]]
    assert (await world.ask(line, pod="other"))[0][0].startswith("a/")


async def test_where_the_kernel_takes_no_rules_sockets_serve_pods(
    api: FakeClient, make_isolating: Isolating, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(self: IsolatedRuntime) -> int:
        raise OSError(errno.EPROTONOSUPPORT, "no such protocol")

    monkeypatch.setattr(IsolatedRuntime, "open_netfilter", none)
    host = await make_isolating(NODE)
    ready = {"readinessProbe": {"tcpSocket": {"port": 8080}}}
    for name in ("a", "box"):
        api.put("pods", make_pod(name, container={"command": ["python3", "-c", SERVE], **ready}))
    await api.until(lambda: all(pod_is_ready(api.pod(name)) for name in ("a", "box")))
    ref = {"kind": "Pod", "namespace": "default", "name": "a"}
    end = {"addresses": [api.pod("a")["status"]["podIP"]], "nodeName": "n1", "targetRef": ref}
    put(api, service("web", clusterIP="10.78.8.1", ports=BOTH), end)
    world = World(api, host, host)
    for protocol in ("TCP", "UDP"):
        await world.until(f"{protocol} 10.78.8.1 80", lambda said: said.startswith("a/"))
