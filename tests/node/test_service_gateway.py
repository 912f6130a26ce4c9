"""The way of another runtime's pods to services, tried from a network namespace like one that a runtime makes."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rayplane.node.config import NodeConfig, NodeHostConfig
from rayplane.node.runtime.cri import gateway as module
from rayplane.node.runtime.cri.gateway import INTERFACE, ServiceGateway, network_namespace
from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.links import LOOPBACK, Route, new_address
from rayplane.node.runtime.isolation.network import interface_of
from rayplane.node.runtime.isolation.rtnetlink import RouteSocket

POD, OTHER = "10.88.0.5", "10.88.0.6"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a gateway takes root")


class Sandbox:
    """A network namespace with an address, and a thread that lives in it."""

    def __init__(self, ip: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.path = self._thread.submit(self._enter, ip).result()

    def _enter(self, ip: str) -> str:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        have(ip)
        return f"/proc/{os.getpid()}/task/{_thread_id()}/ns/net"

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def close(self) -> None:
        self._thread.shutdown()


def _thread_id() -> int:
    return int(os.readlink("/proc/thread-self").rpartition("/")[2])


def ask(kind: socket.SocketKind, ip: str, port: int) -> str:
    """What is answered there, or what there was instead."""
    try:
        with socket.socket(socket.AF_INET, kind) as one:
            one.settimeout(5)
            one.connect((ip, port))
            one.send(b"?")
            return one.recv(99).decode()
    except OSError as e:
        return type(e).__name__


def tell(ip: str, port: int, *, source: str = "", by: str = "") -> None:
    """Send a datagram there; from an address that is not the pod's own; by a way to a gateway that is made for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        if by:
            with RouteSocket() as routes:
                routes.tell(Route(f"{ip}/32", socket.if_nametoindex(INTERFACE), by).new())
        if source:
            have(source)
            one.bind((source, 0))
        one.sendto(b"!", (ip, port))


def have(ip: str) -> None:
    with RouteSocket() as routes:
        routes.tell(new_address(LOOPBACK, ip))


def heard_at(ip: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.bind((ip, port))
    return one


async def interfaces(where: ServiceGateway | Sandbox) -> list[str]:
    found = await (where.run if isinstance(where, Sandbox) else where._do)(socket.if_nameindex)
    return [name for _, name in found]


@pytest.fixture
def sandboxes() -> Iterator[list[Sandbox]]:
    made = [Sandbox(POD), Sandbox(OTHER)]
    yield made
    for one in made:
        one.close()


@pytest.fixture
async def gateway(sandboxes: list[Sandbox]) -> AsyncIterator[ServiceGateway]:
    made = ServiceGateway(["127.79.0.0/16"])
    await made.open()
    yield made
    made.close()


@as_root
async def test_a_pod_speaks_to_services_with_its_own_address_and_to_nobody_else(
    gateway: ServiceGateway, sandboxes: list[Sandbox]
) -> None:
    for number, (one, ip) in enumerate(zip(sandboxes, (POD, OTHER), strict=True)):
        await gateway.add_sandbox(str(number), ip, one.path)
    tcp, udp = await gateway.listen("127.79.0.1", 80), await gateway.listen_udp("127.79.0.1", 80)
    tcp.listen()
    loop = asyncio.get_running_loop()
    with tcp, udp:
        for one, ip in zip(sandboxes, (POD, OTHER), strict=True):
            asking = asyncio.ensure_future(one.run(ask, socket.SOCK_STREAM, "127.79.0.1", 80))
            connection, (client, _) = await loop.sock_accept(tcp)
            with connection:
                await loop.sock_sendall(connection, client.encode())
            assert (client, await asking) == (ip, ip)
        asking = asyncio.ensure_future(sandboxes[0].run(ask, socket.SOCK_DGRAM, "127.79.0.1", 80))
        _, (client, port) = await loop.sock_recvfrom(udp, 99)
        await loop.sock_sendto(udp, client.encode(), (client, port))
        assert await asking == POD
    assert await sandboxes[0].run(ask, socket.SOCK_STREAM, "127.79.0.1", 80) == "ConnectionRefusedError"
    assert await sandboxes[0].run(ask, socket.SOCK_STREAM, OTHER, 80) == "OSError", "that is its runtime's business"
    await gateway.remove_sandbox("0")
    await gateway.remove_sandbox("0")
    assert await interfaces(sandboxes[0]) == ["lo"]


@as_root
async def test_services_of_isolated_pods_clusters_are_there_too(sandboxes: list[Sandbox]) -> None:
    gateway = ServiceGateway(["10.64.0.0/13", "127.79.0.0/16"])
    await gateway.open()
    try:
        await gateway.add_sandbox("0", POD, sandboxes[0].path)
        tcp = await gateway.listen("10.64.0.1", 80)
        tcp.listen()
        with tcp:
            asking = asyncio.ensure_future(sandboxes[0].run(ask, socket.SOCK_STREAM, "10.64.0.1", 80))
            connection, (client, _) = await asyncio.get_running_loop().sock_accept(tcp)
            with connection:
                await asyncio.get_running_loop().sock_sendall(connection, client.encode())
            assert (client, await asking) == (POD, POD)
        with pytest.raises(OSError, match=r"10\.64\.0\.9 is in 10\.64\.0\.0/13, which is the cluster's"):
            await gateway.add_sandbox("1", "10.64.0.9", sandboxes[1].path)
        assert await interfaces(sandboxes[1]) == ["lo"]
    finally:
        gateway.close()


@as_root
async def test_a_pod_neither_reaches_others_by_the_gateway_nor_speaks_for_them(
    gateway: ServiceGateway, sandboxes: list[Sandbox]
) -> None:
    for number, (one, ip) in enumerate(zip(sandboxes, (POD, OTHER), strict=True)):
        await gateway.add_sandbox(str(number), ip, one.path)
    service, other = await gateway.listen_udp("127.79.0.1", 80), await sandboxes[1].run(heard_at, OTHER, 80)
    loop = asyncio.get_running_loop()

    async def first_heard() -> str:
        await sandboxes[0].run(tell, "127.79.0.1", 80)
        _, (client, _) = await loop.sock_recvfrom(service, 99)
        return str(client)

    with service, other:
        assert await first_heard() == POD, "and it knows the gateway from now on"
        await sandboxes[0].run(lambda: tell(OTHER, 80, by="127.79.0.1"))
        await sandboxes[0].run(lambda: tell("127.79.0.1", 80, source=OTHER))
        assert await first_heard() == POD, "what came before in another's name was not taken"
        with pytest.raises(BlockingIOError):
            other.recv(99)


@as_root
async def test_what_cannot_be_led_here_leaves_nothing(
    gateway: ServiceGateway, sandboxes: list[Sandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="IPv4 alone"):
        await gateway.add_sandbox("x", "fd00::5", sandboxes[0].path)
    sets, refused = module.set_parameter, list[str]()

    def refuse(name: str, value: str) -> None:
        if name.endswith(refused[-1]):
            raise PermissionError(name)
        sets(name, value)

    monkeypatch.setattr(module, "set_parameter", refuse)
    for key in ("x/rp_filter", "route_localnet"):
        refused.append(key.replace("x", interface_of("x")))
        with pytest.raises(PermissionError):
            await gateway.add_sandbox("x", POD, sandboxes[0].path)
    assert await interfaces(gateway) == await interfaces(sandboxes[0]) == ["lo"]
    refused.append("ip_forward")
    with pytest.raises(PermissionError):
        await ServiceGateway(["127.79.0.0/16"]).open()


@as_root
async def test_an_address_goes_to_the_next_sandbox_while_that_of_before_is_still_there(
    gateway: ServiceGateway, sandboxes: list[Sandbox]
) -> None:
    await sandboxes[1].run(have, POD)
    await gateway.add_sandbox("before", POD, sandboxes[1].path)
    await gateway.add_sandbox("now", POD, sandboxes[0].path)
    await gateway.remove_sandbox("before")
    assert await sandboxes[0].run(ask, socket.SOCK_STREAM, "127.79.0.1", 80) == "ConnectionRefusedError"


def test_one_runtimes_pods_of_a_host_are_led_to_services_isolated_ones_before_others() -> None:
    def led(*runtimes: str, **more: Any) -> list[bool]:
        nodes = tuple(NodeConfig(f"n{n}", runtime=runtime) for n, runtime in enumerate(runtimes))
        config = NodeHostConfig(nodes, ("a:1",), loopback_networks=("127.79.0.0/16",), **more)
        return [bool(config.led_out(runtime)) for runtime in runtimes]

    assert led("cri:unix:///a", "process", "cri:unix:///b", "cri:unix:///a") == [True, False, False, True]
    assert led("cri:unix:///a", "process", isolation="namespaces") == [False, False]


@as_root
async def test_the_machines_own_network_is_not_touched(gateway: ServiceGateway) -> None:
    with pytest.raises(OSError, match="no network of its own"):
        await gateway.add_sandbox("x", POD, "/proc/self/ns/net")
    with contextlib.closing(await gateway.listen("127.79.0.1", 80)), pytest.raises(OSError):
        socket.create_connection(("127.79.0.1", 80), 1).close()


def test_where_a_sandbox_is_what_its_runtime_tells_says() -> None:
    def told(**namespace: str) -> dict[str, str]:
        spaces = [{"type": "pid"}, {"type": "network", **namespace}]
        return {"info": json.dumps({"pid": 7, "runtimeSpec": {"linux": {"namespaces": spaces}}})}

    assert network_namespace(told(path="/run/netns/a")) == "/run/netns/a"
    for nothing in (told(), {}, {"info": "{"}, {"info": "[]"}, {"info": "{}"}):
        with pytest.raises(OSError, match="does not tell"):
            network_namespace(nothing)
