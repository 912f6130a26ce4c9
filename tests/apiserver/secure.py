"""A small cluster of real sockets: two API servers with TLS behind a balancer, a node host, and kubectl."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest_asyncio
import yaml

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.loadbalancer import LoadBalancer, LoadBalancerConfig
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.rpc.tls import Authority
from rayplane.proto.rayplane.v1 import node_pb2
from tests.apiserver.begun import begin
from tests.apiserver.conftest import make_env
from tests.apiserver.fake_etcd import FakeEtcd
from tests.rpc.open_service import open_service

HTTP_METHODS = (b"GET ", b"HEAD ", b"POST ", b"DELETE ")
KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"


class StandInNode:
    """A stand-in that answers as a node host does."""

    async def Logs(self, request: node_pb2.LogsRequest, context: Context) -> AsyncIterator[node_pb2.LogChunk]:
        lines = [f"line {i} of {request.ref.container}\n" for i in range(5)]
        if request.HasField("tail_lines"):
            lines = lines[-request.tail_lines :]
        for line in lines:
            yield node_pb2.LogChunk(data=line.encode())

    async def Exec(
        self, requests: AsyncIterator[node_pb2.ExecRequest], context: Context
    ) -> AsyncIterator[node_pb2.ExecResponse]:
        first = await anext(requests)
        if not first.command or first.command[0] == "cat":
            async for request in requests:
                if request.stdin:
                    yield node_pb2.ExecResponse(stdout=request.stdin)
                if request.stdin_closed:
                    break
            yield node_pb2.ExecResponse(exit_code=0)
            return
        yield node_pb2.ExecResponse(stdout=" ".join(first.command).encode() + b"\n")
        yield node_pb2.ExecResponse(stderr=b"trouble\n")
        yield node_pb2.ExecResponse(exit_code=7)

    async def Stats(self, request: node_pb2.StatsRequest, context: Context) -> node_pb2.StatsResponse:
        one = node_pb2.ContainerStats(
            namespace="default", pod="p", container="c", cpu_nanocores=250_000_000, memory_bytes=64 << 20
        )
        return node_pb2.StatsResponse(cpu_nanocores=500_000_000, memory_bytes=1 << 30, containers=[one])

    async def Page(self, request: node_pb2.PageRequest, context: Context) -> node_pb2.PageResponse:
        if "openmetrics" in request.accept:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "the host ends")
        told = f"{request.path} of {request.node} {request.query}".strip()
        page, kind = f"{told}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"
        return node_pb2.PageResponse(page=page, content_type=kind, status=404 if request.path == "run" else 200)

    async def PortForward(
        self, requests: AsyncIterator[node_pb2.PortForwardRequest], context: Context
    ) -> AsyncIterator[node_pb2.PortForwardResponse]:
        first = await anext(requests)
        if first.port == 9:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "cannot connect to 127.0.0.1:9: Connection refused")
        yield node_pb2.PortForwardResponse()
        async for request in requests:
            if request.data.startswith(HTTP_METHODS):
                # A server that shows what it was asked, and sends who asks for that elsewhere, or a page.
                moved = b"Location: /there\r\n" if b"/moved" in request.data else b""
                head = b"HTTP/1.1 302 Found\r\n" if moved else b"HTTP/1.1 200 OK\r\n"
                body = request.data + str(first.port).encode()
                if b"/page" in request.data:
                    body = b'<a href="/there">there</a>'
                    head += b"Content-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n" % len(body)
                body = b"" if request.data.startswith(b"HEAD ") else body
                yield node_pb2.PortForwardResponse(data=head + moved + b"Connection: close\r\n\r\n" + body)
                break
            if request.data:
                answer = f"port {first.port}: ".encode() + request.data
                yield node_pb2.PortForwardResponse(data=answer)
            if request.closed:
                break
        yield node_pb2.PortForwardResponse(closed=True)


class Cluster:
    """An API server with TLS behind a load balancer, one node host, and an admin's kubeconfig."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.create("test-ca")
        self.etcd = FakeEtcd()
        self.fabric = Fabric()
        self.network = MemoryNetwork(self.fabric, "host-0")
        self.servers: list[ApiServer] = []

    async def start(self, token_key: bytes) -> None:
        await begin(self.etcd)
        tls = self.directory / "tls"
        self.authority.issue("system:apiserver", ["system:masters"], hosts=["127.0.0.1"]).write(tls)
        for number in range(2):
            config = ApiServerConfig(
                name=f"apiserver-{number}",
                grpc_address=f"host-0:{20_000 + number}",
                https_address="127.0.0.1:0",
                tls_dir=str(tls),
                token_key=token_key,
                static_tokens={"sesame": ("kubernetes-admin", ("system:masters",))},
                ui=number == 0,
            )
            server = ApiServer(config, make_env(number), self.network, etcd=self.etcd)  # type: ignore[arg-type]
            await server.start()
            self.servers.append(server)
        self.node = await self.network.serve(
            "host-0:10250", [open_service(node_pb2.DESCRIPTOR.services_by_name["Node"], StandInNode())]
        )
        backends = tuple(s.https_address for s in self.servers)
        self.balancer = LoadBalancer(LoadBalancerConfig(backends=backends, ca=self.authority.cert))
        await self.balancer.start()
        client = self.client()
        objects: tuple[Object, ...] = (
            {"kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}},
            {
                "kind": "Node",
                "metadata": {"name": "n1", "annotations": {"rayplane.io/host-address": "host-0:10250"}},
            },
            {
                "kind": "Pod",
                "metadata": {"name": "p", "namespace": "default"},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
            },
        )
        for o in objects:
            await client.create(o.pop("kind").lower() + "s", o)
        await client.patch("pods", "p", "default", {"status": {"phase": "Running"}}, subresource="status")

    def client(self) -> ApiClient:
        return ApiClient(self.network, [self.servers[0].grpc_address], token="sesame")

    def kubeconfig(self, user: str, groups: list[str]) -> Path:
        credentials = self.directory / user.replace(":", "_")
        self.authority.issue(user, groups).write(credentials)
        path = credentials / "config"
        cluster = {
            "server": f"https://{self.balancer.address}",
            "certificate-authority": str(credentials / "ca.crt"),
        }
        entry = {
            "client-certificate": str(credentials / "tls.crt"),
            "client-key": str(credentials / "tls.key"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": entry}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    async def kubectl(self, *arguments: str, stdin: str = "", **options: Any) -> tuple[int, str, str]:
        """Exit code, output and errors; `options` as `start_kubectl` has them."""
        process = await self.start_kubectl(*arguments, **options)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def start_kubectl(
        self,
        *arguments: str,
        user: str = "admin",
        groups: tuple[str, ...] = ("system:masters",),
        environment: Mapping[str, str] | None = None,
    ) -> asyncio.subprocess.Process:
        environment = {
            **(environment or {}),
            "KUBECONFIG": str(self.kubeconfig(user, list(groups))),
            "HOME": str(self.directory),
            "PATH": "/usr/bin:/bin",
        }
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            KUBECTL, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )

    async def stop(self) -> None:
        await self.balancer.stop()
        for server in self.servers:
            await server.stop()
        await self.node.stop()
        await self.network.close()


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    await made.start(Authority.create("tokens").key)
    yield made
    await made.stop()
