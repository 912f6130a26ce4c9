"""Network policies as pods meet them: what must not pass is tried, on one machine, across two, and behind services."""

import asyncio
import errno
import os
import signal
from collections.abc import Iterable
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.config import ON, NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.policy.enforcer import Enforcer
from rayplane.node.runtime.isolation.runtime import IsolatedRuntime
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.isolated import SLEEP, Isolating, isolating, make_isolating
from tests.node.processes import NODE, MakeHost, logs, run_in, shell, state
from tests.node.test_services_in_pods import ASK, BOTH, SERVE, put, service

__all__ = ["make_isolating"]
pytestmark = [pytest.mark.processes, isolating]
POLICIES = "networkpolicies.networking.k8s.io"
OPEN, SHUT = "open", "shut"
#: Serves on 8080, and on these too.
MORE = SERVE.replace(
    "s = socket.create_server",
    "def more(port):\n"
    "    t = socket.create_server(('', port))\n"
    "    while True: c, _ = t.accept(); c.sendall(b'more'); c.close()\n"
    "for port in (8081, 8090): threading.Thread(target=more, args=(port,)).start()\n"
    "s = socket.create_server",
    1,
)


def enforcer_of(host: NodeHost) -> Enforcer:
    assert host.rules is not None and host.rules.enforcer is not None
    return host.rules.enforcer


def policy(name: str, subjects: dict[str, str] | None, *, namespace: str = "default", **spec: Any) -> Object:
    selector = {"matchLabels": subjects} if subjects else {}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"podSelector": selector, **spec}}


def of(**labels: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": labels}}


class World:
    """Pods: `web`, `mate` and `other` on one machine, `far` on another; `far` and `other` are of namespace `east`."""

    def __init__(self, api: FakeClient, here: NodeHost, there: NodeHost) -> None:
        self.api, self.here, self.there = api, here, there

    def ip(self, name: str) -> str:
        (pod,) = (p for p in self.api.objects["pods"].values() if p["metadata"]["name"] == name)
        ip: str = pod["status"]["podIP"]
        return ip

    async def ask(self, pod: str, *lines: str) -> list[str]:
        """Whether each place answers."""
        lines = tuple(f"{line} 1" for line in lines)
        host, place = {
            "far": (self.there, ("n2", "east")),
            "other": (self.here, ("n1", "east")),
        }.get(pod, (self.here, ("n1", "default")))
        out, err, code = await run_in(host, pod, "python3", "-c", ASK, "0.7", *lines, place=place)
        assert code == 0, err
        return [SHUT if said in ("silence", "ConnectionRefusedError") else OPEN for said in out.decode().splitlines()]

    async def until(self, wanted: str, pod: str, line: str) -> None:
        async with asyncio.timeout(60):
            while await self.ask(pod, line) != [wanted]:
                await asyncio.sleep(0.01)

    def put(self, *policies: Object) -> None:
        for one in policies:
            self.api.put(POLICIES, one)

    def clear(self) -> None:
        for key in [*self.api.objects.get(POLICIES, {})]:
            self.api.remove(POLICIES, key)


def pod(name: str, node: str, namespace: str, script: str = SERVE, **labels: str) -> Object:
    ready = {"readinessProbe": {"tcpSocket": {"port": 8080}}}
    ports = [{"name": "web", "containerPort": 8080}, {"name": "dgram", "containerPort": 8080, "protocol": "UDP"}]
    made = make_pod(name, node=node, container={"command": ["python3", "-c", script], "ports": ports, **ready})
    made["metadata"] |= {"namespace": namespace, "labels": labels}
    return made


@pytest.fixture
async def world(api: FakeClient, make_isolating: Isolating) -> World:
    for name in ("default", "east", "kube-system"):
        api.put(
            "namespaces", {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, "side": name}}}
        )
    here = await make_isolating(NODE)
    there = await make_isolating(NodeConfig("n2", runtime="process"), machine="other")
    for one in (
        pod("web", "n1", "default", MORE, app="web"),
        pod("mate", "n1", "default", app="mate"),
        pod("other", "n1", "east", app="other"),
        pod("far", "n2", "east", app="far"),
    ):
        api.put("pods", one)
    await api.until(lambda: all(pod_is_ready(p) for p in api.objects["pods"].values()))
    return World(api, here, there)


def lines(ip: str, port: int = 8080, protocols: Iterable[str] = ("TCP", "UDP")) -> list[str]:
    return [f"{protocol} {ip} {port}" for protocol in protocols]


async def test_nobody_reaches_a_pod_that_nobody_may_reach_but_its_node(world: World) -> None:
    web = world.ip("web")
    at = lines(web)
    for one in ("mate", "other", "far"):
        assert await world.ask(one, *at) == [OPEN, OPEN]
    world.put(policy("deny", {"app": "web"}, policyTypes=["Ingress"]))
    for one in ("mate", "other", "far"):
        await world.until(SHUT, one, at[0])
        assert await world.ask(one, *at) == [SHUT, SHUT]
    # It speaks with others, itself, and its node finds it ready.
    assert await world.ask("web", *lines(world.ip("mate")), *lines(world.ip("far")), *at) == [OPEN] * 6
    assert pod_is_ready(world.api.pod("web"))
    world.clear()
    await world.until(OPEN, "far", at[0])


async def test_a_pod_that_may_speak_with_nobody_is_still_spoken_with(world: World) -> None:
    world.put(policy("deny", {"app": "web"}, policyTypes=["Egress"]))
    mate, far = world.ip("mate"), world.ip("far")
    await world.until(SHUT, "web", lines(mate)[0])
    assert await world.ask("web", *lines(mate), *lines(far)) == [SHUT] * 4
    assert await world.ask("mate", *lines(world.ip("web"))) == [OPEN, OPEN]
    look_up = "import socket; print(socket.gethostbyname('web.default.svc.cluster.local'))"

    async def found() -> str:
        return (await run_in(world.here, "web", "timeout", "1", "python3", "-c", look_up))[0].decode().strip()

    put(world.api, service("web", clusterIP="10.78.1.4", ports=BOTH))
    assert await found() == ""
    to_dns = [{"namespaceSelector": {"matchLabels": {"side": "kube-system"}}, **of(**{"k8s-app": "kube-dns"})}]
    ports = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    world.put(policy("dns", {"app": "web"}, policyTypes=["Egress"], egress=[{"to": to_dns, "ports": ports}]))
    async with asyncio.timeout(60):
        while await found() != "10.78.1.4":
            await asyncio.sleep(0.01)
    assert await world.ask("web", *lines(mate), *lines(far)) == [SHUT] * 4


EAST = {"namespaceSelector": {"matchLabels": {"side": "east"}}}


async def test_what_policies_allow_adds_up(world: World) -> None:
    web = world.ip("web")
    more = [f"TCP {web} 8081", f"TCP {web} 8090"]
    at = [*lines(web), *more]
    block = {"ipBlock": {"cidr": "10.77.0.0/16", "except": [f"{world.ip('far')}/32"]}}
    cases: list[tuple[list[dict[str, Any]], dict[str, list[str]]]] = [
        ([{"from": [EAST]}], {"other": [OPEN] * 4, "far": [OPEN] * 4, "mate": [SHUT] * 4}),
        (
            [{"from": [of(app="mate")], "ports": [{"port": "web"}]}],
            {"mate": [OPEN, SHUT, SHUT, SHUT], "far": [SHUT] * 4},
        ),
        (
            [{"ports": [{"port": "dgram", "protocol": "UDP"}]}],
            {"mate": [SHUT, OPEN, SHUT, SHUT], "far": [SHUT, OPEN, SHUT, SHUT]},
        ),
        ([{"ports": [{"port": 8081, "endPort": 8085}]}], {"other": [SHUT, SHUT, OPEN, SHUT]}),
        ([{"from": [block], "ports": [{"port": 8090}]}], {"other": [SHUT, SHUT, SHUT, OPEN], "far": [SHUT] * 4}),
        ([{"from": [EAST | of(app="far")]}], {"other": [SHUT] * 4, "far": [OPEN] * 4}),
    ]
    for number, (ingress, wanted) in enumerate(cases):
        world.clear()
        world.put(policy("deny", None, policyTypes=["Ingress"]))
        await world.until(SHUT, "other", at[0])
        world.put(policy(f"allow-{number}", {"app": "web"}, policyTypes=["Ingress"], ingress=ingress))
        for one, answers in wanted.items():
            if OPEN in answers:
                await world.until(OPEN, one, at[answers.index(OPEN)])
            assert await world.ask(one, *at) == answers, (number, one)


async def test_policies_are_judged_behind_services(world: World) -> None:
    ends = [
        {
            "addresses": [world.ip(name)],
            "nodeName": node,
            "targetRef": {"kind": "Pod", "namespace": space, "name": name},
        }
        for name, node, space in (("web", "n1", "default"), ("far", "n2", "east"))
    ]
    for name, ip, end in (("web", "10.78.1.1", ends[0]), ("far", "10.78.1.2", ends[1])):
        put(world.api, service(name, clusterIP=ip, ports=BOTH), end)
    web, far = lines("10.78.1.1", 80), lines("10.78.1.2", 80)
    await world.until(OPEN, "mate", web[0])
    await world.until(OPEN, "mate", far[0])
    world.put(
        policy(
            "web",
            {"app": "web"},
            policyTypes=["Ingress"],
            ingress=[{"from": [of(app="mate")], "ports": [{"port": 8080}]}],
        ),
        policy("mate", {"app": "mate"}, policyTypes=["Egress"], egress=[{"to": [of(app="web")]}]),
    )
    await world.until(SHUT, "other", web[0])
    await world.until(SHUT, "mate", far[0])
    assert await world.ask("mate", *web, *far) == [OPEN, SHUT, SHUT, SHUT]
    # The port is the pod's, not the service's.
    world.put(policy("web", {"app": "web"}, policyTypes=["Ingress"], ingress=[{"ports": [{"port": 80}]}]))
    await world.until(SHUT, "mate", web[0])


async def test_what_leads_out_by_a_service_is_judged_by_where_it_leads(world: World) -> None:
    number = int(world.here.advertised.rpartition(":")[2])
    end = {"addresses": ["127.0.0.1"], "conditions": {"ready": True}}
    put(world.api, service("api", clusterIP="10.78.1.3", ports=[{"port": 443}]), end, port=number)

    def egress(**rule: Any) -> Object:
        return policy("mate", {"app": "mate"}, policyTypes=["Egress"], egress=[rule] if rule else [])

    connect = (
        "import socket, time; c = socket.create_connection(('10.78.1.3', 443), 2); c.settimeout(1)\n"
        "try: print('ended' if c.recv(1) == b'' else 'up')\n"
        "except TimeoutError: print('up')\n"
        "except OSError: print('ended')"
    )

    async def until(wanted: str) -> None:
        async with asyncio.timeout(60):
            while (await run_in(world.here, "mate", "python3", "-c", connect))[0].decode().strip() != wanted:
                await asyncio.sleep(0.01)

    await until("up")
    world.put(egress())
    await until("ended")
    world.put(egress(to=[{"ipBlock": {"cidr": "127.0.0.1/32"}}], ports=[{"port": number}]))
    await until("up")
    world.put(egress(to=[{"ipBlock": {"cidr": "127.0.0.1/32"}}], ports=[{"port": 443}]))
    await until("ended")


async def test_connections_that_are_not_allowed_any_more_end(world: World) -> None:
    talk = (
        "import socket, sys, time\n"
        "u = socket.socket(2, 2); u.settimeout(0.2); u.connect((sys.argv[1], 8080)); quiet = 0\n"
        "while quiet < 5:\n"
        "    u.send(b'?'); time.sleep(0.01)\n"
        "    try: u.recv(99); quiet = 0; open('/tmp/talks', 'w').close()\n"
        "    except OSError: quiet += 1\n"
    )
    talking = asyncio.create_task(run_in(world.here, "mate", "python3", "-c", talk, world.ip("far")))
    await run_in(world.here, "mate", "sh", "-c", "until [ -e /tmp/talks ]; do sleep 0.05; done")
    world.put(policy("mate", {"app": "mate"}, policyTypes=["Egress"]))
    async with asyncio.timeout(60):
        assert (await talking)[2] == 0


async def test_no_host_of_a_machine_lets_pods_of_another_out(api: FakeClient, make_isolating: Isolating) -> None:
    """They share the addresses of services that lead out, and the kernel gives a connection to any of them."""
    hosts = [await make_isolating(node) for node in (NODE, NodeConfig("n2", runtime="process"))]
    for node, name in (("n1", "mate"), ("n2", "web")):
        api.put("pods", pod(name, node, "default", app=name))
        await api.until(lambda name=name: pod_is_ready(api.pod(name)))
    number = int(hosts[0].advertised.rpartition(":")[2])
    end = {"addresses": ["127.0.0.1"], "conditions": {"ready": True}}
    put(api, service("api", clusterIP="10.78.1.3", ports=[{"port": 443}]), end, port=number)
    connect = (
        "import socket\n"
        "for _ in range(12):\n"
        "    c = socket.create_connection(('10.78.1.3', 443), 2); c.settimeout(0.3)\n"
        "    try: print('ended' if c.recv(1) == b'' else 'up')\n"
        "    except TimeoutError: print('up')\n"
        "    except OSError: print('ended')\n"
    )

    async def found(host: NodeHost, name: str, node: str) -> set[str]:
        out, _, _ = await run_in(host, name, "python3", "-c", connect, place=(node, "default"))
        return set(out.decode().split()) or {"nothing"}

    async with asyncio.timeout(60):
        while await found(hosts[0], "mate", "n1") != {"up"} or await found(hosts[1], "web", "n2") != {"up"}:
            await asyncio.sleep(0.01)
    api.put(POLICIES, policy("deny", None, policyTypes=["Egress"]))
    for host in hosts:
        await api.until(lambda host=host: len(enforcer_of(host)._known._by_ip) > 2)
    async with asyncio.timeout(60):
        while await found(hosts[0], "mate", "n1") != {"ended"}:
            await asyncio.sleep(0.01)
        assert await found(hosts[1], "web", "n2") == {"ended"}


async def test_connections_that_are_allowed_outlive_other_policies(world: World) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(99):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    number = server.sockets[0].getsockname()[1]
    end = {"addresses": ["127.0.0.1"], "conditions": {"ready": True}}
    put(world.api, service("echo", clusterIP="10.78.1.3", ports=[{"port": 443}]), end, port=number)
    out = [{"to": [{"ipBlock": {"cidr": "127.0.0.1/32"}}]}]
    world.put(policy("mate", {"app": "mate"}, policyTypes=["Ingress", "Egress"], egress=out))
    await world.until(SHUT, "other", lines(world.ip("mate"))[0])
    hold = (
        "import socket, time, os\n"
        "while True:\n"
        "    try:\n"
        "        c = socket.create_connection(('10.78.1.3', 443), 2); c.settimeout(5); c.sendall(b'x')\n"
        "        if c.recv(1): break\n"
        "    except OSError: time.sleep(0.05)\n"
        "open('/tmp/holds', 'w').close()\n"
        "while not os.path.exists('/tmp/over'): time.sleep(0.05)\n"
        "c.sendall(b'y'); print('answered' if c.recv(1) else 'ended')\n"
    )
    holding = asyncio.create_task(run_in(world.here, "mate", "python3", "-c", hold))
    await run_in(world.here, "mate", "sh", "-c", "until [ -e /tmp/holds ]; do sleep 0.05; done")
    runtime: Any = world.here._runtimes["process"]
    own = await runtime.connect(world.ip("mate"), 8080)
    enforcer = enforcer_of(world.here)
    looked = enforcer._looked
    world.put(policy("web", {"app": "web"}, policyTypes=["Ingress"]))
    await world.api.until(lambda: enforcer._looked > looked)
    await run_in(world.here, "mate", "touch", "/tmp/over")
    assert (await holding)[0] == b"answered\n"
    with own:
        assert (await asyncio.get_running_loop().sock_recv(own, 99)).startswith(b"mate")
    server.close()
    await server.wait_closed()


async def test_a_new_pod_speaks_with_nobody_before_its_policies_are_kept(world: World) -> None:
    world.put(policy("deny", {"app": "late"}, policyTypes=["Ingress", "Egress"]))
    await world.api.until(lambda: "default/deny" in enforcer_of(world.here)._known._policies)
    first = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], 8080), 1); print('reached')\n"
        "except OSError: print('no')\n"
    )
    for number in range(3):
        one = make_pod(
            f"late-{number}", container={"command": ["python3", "-c", first, world.ip("mate")]}, restartPolicy="Never"
        )
        one["metadata"]["labels"] = {"app": "late"}
        world.api.put("pods", one)
    for number in range(3):
        name = f"late-{number}"
        async with asyncio.timeout(60):
            while "terminated" not in state(world.api, name):
                await asyncio.sleep(0.01)
        assert (await logs(world.here, name)).decode() == "no\n"


HEAR = """
import socket, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.settimeout(0.2)
open('/tmp/hears', 'w').close(); count, end = 0, time.time() + 30
while time.time() < end:
    try: packet, about = s.recvfrom(65536)
    except TimeoutError: continue
    if about[2] != 4 and b'LAST' in packet: break
    count += about[2] != 4 and b'EVIL' in packet
print(count)
"""
HARM = """
import socket, struct, sys
web, mate, node, vip = sys.argv[1:]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
probe = socket.socket(2, 2); probe.connect((web, 9)); own = probe.getsockname()[0]
def ip(source, protocol, body, flags=0, ident=1):
    ends = socket.inet_aton(source) + socket.inet_aton(web)
    head = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(body), ident, flags, 64, protocol, 0)
    raw.sendto(head + ends + body, (web, 0))
udp = struct.pack('!HHHH', 53, 8080, 16, 0) + b'EVILEVIL'
for source in (own, mate, node, vip, web, '127.0.0.1', '0.0.0.0', '8.8.8.8'):
    ip(source, 17, udp)
    ip(source, 6, struct.pack('!HHIIBBHHH', 53, 8080, 1, 1, 0x50, 0x10, 100, 0, 0) + b'EVIL')
    ip(source, 1, b'\\x08\\0' + struct.pack('!H', 0xffff - 0x0800 - 0x4556 - 0x494c & 0xffff) + b'EVIL')
    ip(source, 47, b'\\0\\0\\x08\\0EVIL'); ip(source, 132, struct.pack('!HHII', 53, 8080, 0, 0) + b'EVIL')
for ident in (7, 8):
    ip(own, 17, udp[:8], 0x2000, ident); ip(own, 17, udp[8:], 0x0001, ident)
    ip(own, 17, udp[8:], 0x0001, ident + 8); ip(own, 17, udp[:8], 0x2000, ident + 8)
"""


async def test_whatever_a_pod_sends_nothing_of_it_reaches_whom_it_may_not(world: World) -> None:
    evil = pod("evil", "n1", "default", app="evil")
    evil["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    world.api.put("pods", evil)
    await world.api.until(lambda: pod_is_ready(world.api.pod("evil")))
    node = world.here.kubelet("n1").node_ip
    last = f"import socket; socket.socket(2, 2).sendto(b'LAST', ('{world.ip('web')}', 9))"

    async def heard() -> int:
        await run_in(world.here, "web", "rm", "-f", "/tmp/hears")
        hearing = asyncio.create_task(run_in(world.here, "web", "python3", "-c", HEAR))
        await run_in(world.here, "web", "sh", "-c", "until [ -e /tmp/hears ]; do sleep 0.05; done")
        _, err, code = await run_in(
            world.here, "evil", "python3", "-c", HARM, world.ip("web"), world.ip("mate"), node, "10.78.1.1"
        )
        assert code == 0, err
        await run_in(world.here, "mate", "python3", "-c", last)
        return int((await hearing)[0])

    assert await heard() > 0
    enforcer = enforcer_of(world.here)
    looked = enforcer._looked
    world.put(policy("web", {"app": "web"}, policyTypes=["Ingress"], ingress=[{"from": [of(app="mate")]}]))
    await world.until(SHUT, "other", lines(world.ip("web"))[0])
    # What was on its way before has ended too: pings have no ports, and connections all the same.
    await world.api.until(lambda: enforcer._looked > looked)
    assert await heard() == 0


async def test_policies_are_kept_when_the_network_was_lost(world: World) -> None:
    world.put(policy("deny", {"app": "web"}, policyTypes=["Ingress"]))
    await world.until(SHUT, "mate", lines(world.ip("web"))[0])
    runtime: Any = world.here._runtimes["process"]
    os.kill(runtime.shim.pid, signal.SIGKILL)
    await world.api.until(lambda: world.api.pod("web")["status"]["containerStatuses"][0]["restartCount"] == 1)
    await world.api.until(lambda: all(pod_is_ready(p) for p in world.api.objects["pods"].values()))
    assert await world.ask("mate", *lines(world.ip("web"))) == [SHUT, SHUT]
    assert await world.ask("web", *lines(world.ip("mate"))) == [OPEN, OPEN]


async def test_a_node_that_cannot_keep_policies_says_so(
    api: FakeClient, make_isolating: Isolating, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(self: IsolatedRuntime) -> int:
        raise OSError(errno.EPROTONOSUPPORT, "no such protocol")

    monkeypatch.setattr(IsolatedRuntime, "open_netfilter", none)
    api.put(POLICIES, policy("deny", None, policyTypes=["Ingress"]))
    await make_isolating(NODE)
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: "running" in state(api, "box"))
    await api.until(lambda: any("node n1 does not keep it: the kernel" in said for said in api.events("NotEnforced")))
    await make_host(NodeConfig("n2", runtime="process"))
    await api.until(lambda: any("n2 does not keep it: its pods share" in said for said in api.events("NotEnforced")))


async def test_where_policies_must_be_kept_no_pod_starts_without(
    api: FakeClient, make_host: MakeHost, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(self: IsolatedRuntime) -> int:
        raise OSError(errno.EPROTONOSUPPORT, "no such protocol")

    monkeypatch.setattr(IsolatedRuntime, "open_netfilter", none)
    where = {"machine_file": str(tmp_path / "m" / "isolation"), "services": "10.78.0.0/16"}
    await make_host(NODE, isolation="namespaces", network_policy=ON, **where)
    ready = {c["type"]: c for c in api.objects["nodes"]["n1"]["status"]["conditions"]}["Ready"]
    assert ready["status"] == "False" and "network policies cannot be kept" in ready["message"]
    api.put("pods", shell("box", SLEEP))
    await api.until(
        lambda: any("network policies cannot be kept" in said for said in api.events("FailedCreatePodSandBox"))
    )
