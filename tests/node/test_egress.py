"""The way out of the cluster: which addresses it leads to, and what pods get from there by TCP and UDP."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.node.config import RELAY, NodeConfig
from rayplane.node.egress.networks import REFUSED, Outside
from rayplane.node.egress.relay import EgressRelay
from rayplane.node.host import NodeHost
from rayplane.node.runtime.pod_network import DIRECT
from tests.fakes import FakeClient
from tests.node.isolated import SLEEP, Isolating, isolating, make_isolating
from tests.node.processes import NODE, run_in, shell, state
from tests.node.test_policies_in_pods import POLICIES, policy
from tests.node.test_services_in_pods import ASK

__all__ = ["make_isolating"]
THERE = "198.51.100.7"
NETWORKS = st.builds(
    lambda number, length: str(IPv4Network((number >> (32 - length) << (32 - length), length))),
    st.integers(0, (1 << 32) - 1),
    st.integers(1, 32),
)


@given(st.lists(NETWORKS, max_size=4), st.lists(NETWORKS, max_size=3), st.integers(0, (1 << 32) - 1))
def test_what_is_outside_is_nobodys_here_and_refused_by_none(own: list[str], allowed: list[str], extra: int) -> None:
    outside = Outside(own, allowed)
    networks = [IPv4Network(one) for one in (*own, *allowed, *REFUSED)]
    edges = {extra, *(int(n.network_address) for n in networks), *(int(n.broadcast_address) for n in networks)}
    for number in {number + step for number in edges for step in (-1, 0, 1)}:
        if not 0 <= number < 1 << 32:
            continue
        address = IPv4Address(number)
        mine = any(address in IPv4Network(one) for one in own)
        refused = any(address in IPv4Network(one) for one in REFUSED)
        asked = any(address in IPv4Network(one) for one in allowed)
        assert outside.has(str(address)) == (not mine and (not refused or asked)), address


class Elsewhere:
    """The outside, as these tests have it: whatever is dialled is a server of this process. `asked`: what was."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[tuple[str, int]] = []

    async def connect(self, ip: str, port: int) -> socket.socket:
        self.asked.append((ip, port))
        return await DIRECT.connect("127.0.0.1", self.port)

    async def connect_udp(self, ip: str, port: int) -> socket.socket:
        self.asked.append((ip, port))
        return await DIRECT.connect_udp("127.0.0.1", self.port)


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(b"out there", addr)


def relay_of(host: NodeHost) -> EgressRelay:
    assert host.rules is not None and host.rules.relay is not None
    return host.rules.relay


@asynccontextmanager
async def elsewhere(host: NodeHost) -> AsyncIterator[Elsewhere]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"out there")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    number = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", number))
    found = Elsewhere(number)
    relay = relay_of(host)
    relay._config = replace(relay._config, own=found)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


@pytest.fixture
def make_leaving(make_isolating: Isolating) -> Callable[..., Awaitable[NodeHost]]:
    def make(*nodes: NodeConfig) -> Awaitable[NodeHost]:
        return make_isolating(*nodes, egress=RELAY)

    return make


async def ask(host: NodeHost, *lines: str, wait: str = "1") -> list[str]:
    out, err, code = await run_in(host, "box", "python3", "-c", ASK, wait, *(f"{line} 1" for line in lines))
    assert code == 0, err
    return out.decode().splitlines()


async def until(host: NodeHost, line: str, wanted: str) -> None:
    async with asyncio.timeout(60):
        while await ask(host, line) != [wanted]:
            await asyncio.sleep(0.01)


@pytest.mark.processes
@isolating
async def test_pods_reach_the_outside_as_far_as_policies_let_them(
    api: FakeClient, make_leaving: Callable[..., Awaitable[NodeHost]]
) -> None:
    host = await make_leaving(NODE)
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: "running" in state(api, "box"))
    both = [f"TCP {THERE} 443", f"UDP {THERE} 53"]
    async with elsewhere(host) as out:
        await until(host, both[0], "out/there")
        assert await ask(host, *both) == ["out/there"] * 2
        assert {(THERE, 443), (THERE, 53)} == {*out.asked}
        out.asked.clear()
        # The machine and what it alone may ask, the relay itself, and addresses of the cluster that nobody has.
        tcp, udp = relay_of(host)._ports
        node = host.kubelet("n1").node_ip
        refused = ["TCP 169.254.169.254 80", "UDP 100.100.100.200 80", f"TCP {node} {tcp}", "TCP 10.77.1.250 80"]
        assert "out/there" not in await ask(host, *refused, f"UDP {node} {udp}", "UDP 255.255.255.255 67")
        assert out.asked == []
        api.put(POLICIES, policy("deny", None, policyTypes=["Egress"]))
        await until(host, both[0], "silence")
        out.asked.clear()
        assert await ask(host, *both) == ["silence"] * 2 and out.asked == []
        block = [{"to": [{"ipBlock": {"cidr": f"{THERE}/32"}}], "ports": [{"port": 53, "protocol": "UDP"}]}]
        api.put(POLICIES, policy("some", None, policyTypes=["Egress"], egress=block))
        await until(host, both[1], "out/there")
        assert await ask(host, *both) == ["silence", "out/there"]


@pytest.mark.processes
@isolating
async def test_a_pod_with_its_nodes_network_reaches_the_outside_too_and_no_more_of_it(
    api: FakeClient, make_leaving: Callable[..., Awaitable[NodeHost]]
) -> None:
    host = await make_leaving(NODE)
    api.put("pods", shell("box", SLEEP, hostNetwork=True))
    await api.until(lambda: "running" in state(api, "box"))
    both = [f"TCP {THERE} 443", f"UDP {THERE} 53"]
    async with elsewhere(host) as out:
        await until(host, both[0], "out/there")
        assert await ask(host, *both) == ["out/there"] * 2
        out.asked.clear()
        refused = ["TCP 169.254.169.254 80", "UDP 100.100.100.200 80", "TCP 10.77.1.250 80"]
        assert "out/there" not in await ask(host, *refused) and out.asked == []


@pytest.mark.processes
@isolating
async def test_no_pod_takes_more_of_the_way_out_than_its_share(
    api: FakeClient, make_leaving: Callable[..., Awaitable[NodeHost]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayplane.node.egress.relay.CONNECTIONS_OF_ONE_MAX", 3)
    monkeypatch.setattr("rayplane.node.egress.relay.FLOWS_OF_ONE_MAX", 3)
    host = await make_leaving(NODE)
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: "running" in state(api, "box"))
    flood = (
        "import socket\n"
        "held = [socket.create_connection(('198.51.100.7', 9), 2) for _ in range(9)]\n"
        "for n in range(1, 50): socket.socket(2, 2).sendto(b'x', ('198.51.100.7', n))\n"
    )
    async with elsewhere(host) as out:
        await until(host, f"TCP {THERE} 1", "out/there")
        out.asked.clear()
        held: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda reader, writer: held.append(writer), "127.0.0.1", 0)
        out.port = server.sockets[0].getsockname()[1]
        await run_in(host, "box", "python3", "-c", flood)
        assert len([port for _, port in out.asked if port == 9]) <= 6
        relay = relay_of(host)
        assert len(relay._flows) <= 3
        server.close()
        for writer in held:
            writer.close()
            await writer.wait_closed()


@pytest.mark.processes
@isolating
async def test_pods_have_no_way_out_that_nobody_asked_for(api: FakeClient, make_isolating: Isolating) -> None:
    host = await make_isolating(NODE)
    api.put("pods", shell("box", SLEEP))
    await api.until(lambda: "running" in state(api, "box"))
    assert host.rules is not None and host.rules.relay is None
    assert set(await ask(host, f"TCP {THERE} 443", f"UDP {THERE} 53")) <= {
        "OSError",
        "silence",
        "ConnectionRefusedError",
    }
