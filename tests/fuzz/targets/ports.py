"""Whole connections at listening ports: gRPC and HTTP/1.1 on one port, with TLS and without, the API server, the load
balancer, the pipes of a node's services. What clients say, in any order and pieces, and how they leave."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from rayplane.control_plane.loadbalancer import LoadBalancer, LoadBalancerConfig
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.http2 import frames as f
from rayplane.control_plane.rpc.tls import Authority
from rayplane.node.proxy.pipes import TcpPipe, splice
from rayplane.node.runtime.pod_network import DIRECT
from tests.apiserver.conftest import Stack
from tests.fuzz import mutate
from tests.fuzz.targets import http2
from tests.fuzz.targets._http import ask, code_of, request
from tests.loadbalancer.test_balancer import Backend
from tests.rpc.grpc_peers import Handler, services
from tests.rpc.http2_peer import request as call
from tests.rpc.http2_peer import settings
from tests.rpc.test_one_port import Web

CASES = 60
CASES_PER_WORLD = 200
#: A client that has said all it wants to waits so long for more, then leaves.
PATIENCE_S = 0.05
_PORTS = ("one port", "one port with TLS", "API server", "API server with TLS", "balancer", "pipe")
_HELLO = bytes.fromhex(
    "16030100cd010000c90303" + "11" * 32 + "20" + "22" * 32 + "0004130113020100007c"
    "002b0003020304000d000400020403000a00040002001d00330026002400" + "1d0020" + "33" * 32 + "0010000500030268320000"
)
_LINES = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n{}",
    b"POST /bug2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /apis HTTP/1.0\r\n\r\n",
    b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET /readyz HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    f.PREFACE + settings() + call(1, end=True),
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://[::1/ HTTP/1.1\r\nHost: [\r\nContent-Length: +1\r\n\r\n",
    b"GET //%00%ff/../.. HTTP/1.1\r\nHost:\r\n a\r\nCookie: a=\x80\r\n\r\n",
    _HELLO,
    b"\0" * 40,
    b"SSH-2.0-x\r\n",
    b"\x80\x2e\x01\x03\x01" + b"\0" * 40,
)

Case = tuple[str, list[bytes], str]
"""The port, the pieces, and how the client leaves: `end` (half-close and read), `close`, `reset`, `wait`."""


def make(rng: random.Random) -> Case:
    data = rng.choice(_LINES) * rng.choice((1, 1, 2, 5))
    if rng.random() < 0.2:
        data = b"".join(http2.make(rng)[1:])[:20_000]
    if rng.random() < 0.7:
        data = mutate.of_bytes(rng, data, _LINES)
    step = rng.choice((len(data) or 1, len(data) // 2 + 1, 40, 200))
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    return rng.choice(_PORTS), pieces[:50], rng.choice(("end", "end", "close", "reset", "wait"))


class Ports:
    def __init__(self, addresses: dict[str, str], stack: Stack, balancer: LoadBalancer) -> None:
        self.addresses, self._stack, self._balancer = addresses, stack, balancer

    async def run(self, case: Case) -> None:
        port, pieces, leaving = case
        host, _, number = self.addresses[port].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(number))
        try:
            with contextlib.suppress(OSError, RuntimeError):  # uvloop's of a transport that is closed
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                if leaving == "end":
                    writer.write_eof()
                if leaving != "close":
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PATIENCE_S):
                            await reader.read()
                if leaving == "reset":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        finally:
            writer.transport.abort()

    async def good(self) -> None:
        answer = await ask(self.addresses["API server"], request("GET", "/readyz"))
        assert code_of(answer) == 200, answer[:500]
        answer = await ask(self.addresses["one port"], request("POST", "/", (), b"hello"))
        assert answer.endswith(b"hello"), answer[:500]

    def sizes(self) -> dict[str, int]:
        rest = self._stack.http_server()
        return {"guards": len(rest._guards), "balanced": len(self._balancer._connections)}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Ports]:
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="fuzz-ports-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        credentials = Authority.create("fuzz").issue("a", ["system:masters"], hosts=["127.0.0.1"])
        credentials.write(directory)
        found: dict[str, str] = {}
        for name, network in (("one port", GrpcNetwork()), ("one port with TLS", GrpcNetwork(credentials))):
            handler = Handler()
            handler.let_go.set()
            server = await network.serve("127.0.0.1:0", services(handler), web=Web())
            stack.push_async_callback(network.close)
            stack.push_async_callback(server.stop)
            found[name] = server.address
        servers = Stack()
        stack.push_async_callback(servers.stop)
        await servers.add_server(https_address="127.0.0.1:0")
        await servers.add_server(https_address="127.0.0.1:0", tls_dir=str(directory))
        found["API server"], found["API server with TLS"] = (s.https_address for s in servers.servers)
        backend = Backend("a")
        await backend.start()
        stack.push_async_callback(backend.stop)
        balancer = LoadBalancer(LoadBalancerConfig(backends=(backend.address, found["API server"])))
        await balancer.start()
        stack.push_async_callback(balancer.stop)
        found["balancer"] = balancer.address
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(_piped(reader, writer, found["API server"]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        pipe = await asyncio.start_server(accept, "127.0.0.1", 0)
        stack.callback(pipe.close)
        found["pipe"] = "{}:{}".format(*pipe.sockets[0].getsockname()[:2])
        yield Ports(found, servers, balancer)


async def _piped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str) -> None:
    host, _, port = target.rpartition(":")
    await splice(TcpPipe(reader, writer), await TcpPipe.connect(DIRECT, host, int(port), timeout=20))
