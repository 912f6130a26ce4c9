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

from rayplane.node.runtime.cri.gateway import ServiceGateway, network_namespace
from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.links import LOOPBACK, new_address
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
        with RouteSocket() as routes:
            routes.tell(new_address(LOOPBACK, ip))
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
    names = [name for _, name in await sandboxes[0].run(socket.if_nameindex)]
    assert names == ["lo"]


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
    assert network_namespace(told()) == "/proc/7/ns/net"
    for nothing in ({}, {"info": "{"}, {"info": "[]"}, {"info": "{}"}):
        with pytest.raises(OSError, match="does not tell"):
            network_namespace(nothing)
