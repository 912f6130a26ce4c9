"""Names as pods meet them: by the resolver of their own system, in a network of their own and without one."""

import asyncio
import os
import signal
import socket
from typing import Any

import pytest
from dnslib import DNSRecord

from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.proxy.rules import SLICES
from tests.fakes import FakeClient
from tests.node.dns.test_dns_answers import a_slice, service
from tests.node.isolated import Isolating, isolating, make_isolating
from tests.node.processes import NODE, logs, phase, shell, state

__all__ = ["make_isolating"]
pytestmark = pytest.mark.processes
#: This process's own, so that tests may run beside each other.
OWN = f"127.86.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
LOOK_UP = """python3 -c '
import socket, sys
for name in sys.argv[1:]:
    try:
        print(*sorted({a[4][0] for a in socket.getaddrinfo(name, 80)}))
    except socket.gaierror as e:
        print(e.errno == socket.EAI_NONAME)
'"""


async def output(api: FakeClient, host: NodeHost, name: str, script: str, **spec: Any) -> list[str]:
    """Lines of a pod that runs to its end."""
    api.put("pods", shell(name, script, restartPolicy="Never", **spec))
    await api.until(lambda: phase(api, name) in ("Succeeded", "Failed"))
    return (await logs(host, name)).decode().splitlines()


def put_service(api: FakeClient, name: str, ip: str, *endpoints: dict[str, Any], port: int = 80) -> None:
    ports = [{"port": port, "protocol": "TCP"}]
    api.put("services", service(name, clusterIP=ip, ports=ports))
    api.put(SLICES, a_slice(name, *endpoints, ports=ports))


@isolating
async def test_a_pod_finds_services_by_their_names(api: FakeClient, make_isolating: Isolating) -> None:
    api.put("namespaces", {"metadata": {"name": "default"}})
    put_service(api, "web", "10.78.0.20")
    put_service(api, "db", "None", {"addresses": ["10.77.1.9"], "hostname": "db-0"}, {"addresses": ["10.77.1.8"]})
    host = await make_isolating(NODE)
    names = "web web.default web.default.svc.cluster.local db db-0.db 10-77-1-7.default.pod none"
    said = await output(api, host, "job", f"{LOOK_UP} {names}")
    assert said == ["10.78.0.20"] * 3 + ["10.77.1.8 10.77.1.9", "10.77.1.9", "10.77.1.7", "True"]


@isolating
async def test_a_database_is_reached_by_its_name_and_again_when_the_network_was_lost(
    api: FakeClient, make_isolating: Isolating
) -> None:
    host = await make_isolating(NODE)
    serve = "mkdir /www; hostname > /www/name; exec python3 -m http.server 8080 --directory /www"
    ready = {"readinessProbe": {"httpGet": {"port": 8080, "path": "/name"}}}

    async def served() -> None:
        await api.until(lambda: "running" in state(api, "mongo") and pod_is_ready(api.pod("mongo")))
        ref = {"kind": "Pod", "name": "mongo", "namespace": "default"}
        end = {"addresses": [api.pod("mongo")["status"]["podIP"]], "nodeName": "n1", "targetRef": ref}
        put_service(api, "mongo-db-service", "10.78.0.30", end, port=8080)
        assert host.proxy is not None
        await api.until(lambda: host.proxy._listeners)  # type: ignore[union-attr]

    get = "import urllib.request as u; print(u.urlopen('http://mongo-db-service:8080/name').read().decode())"
    api.put("pods", shell("mongo", serve, container=ready))
    await served()
    assert (await output(api, host, "first", f'python3 -c "{get}"'))[0] == "mongo"
    restarts = api.pod("mongo")["status"]["containerStatuses"][0]["restartCount"]
    os.kill(host._runtimes["process"].shim.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    await api.until(lambda: api.pod("mongo")["status"]["containerStatuses"][0]["restartCount"] > restarts)
    await served()
    again = f'until python3 -c "{get}" 2>/dev/null; do sleep 0.1; done'
    assert (await output(api, host, "second", again))[0] == "mongo"


async def test_people_at_the_machine_ask_where_pods_share_its_network(api: FakeClient, make_host: Isolating) -> None:
    put_service(api, "web", "10.78.0.20")
    host = await make_host(NODE, dns=OWN)
    assert host.dns is not None
    node = host.kubelet("n1").node_ip
    await api.until(lambda: {a for a, _ in host.dns.server.addresses} == {OWN, node})  # type: ignore[union-attr]
    question = bytes(DNSRecord.question("web.default.svc.cluster.local").pack())
    for address in host.dns.server.addresses:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            one.connect(address)
            one.send(question)
            found = DNSRecord.parse(await _received(one))
        assert [str(r.rdata) for r in found.rr] == ["10.78.0.20"]


async def _received(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 4096)


async def test_simulated_nodes_serve_no_names(api: FakeClient, make_host: Isolating) -> None:
    assert (await make_host(NodeConfig("n1"), dns=OWN)).dns is None
