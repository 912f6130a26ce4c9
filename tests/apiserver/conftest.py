"""An API server over an in-memory etcd and network, with a client of its gRPC face."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.http1 import GuardedServer
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.storage.env import Env, SystemClock
from tests.apiserver.begun import begin
from tests.apiserver.fake_etcd import FakeEtcd


def make_env(seed: int = 1) -> Env:
    return Env(SystemClock(), random.Random(seed), None)  # type: ignore[arg-type]


class Stack:
    """One etcd, any number of API servers over it, and a client of the first.

    `new`: nothing is in etcd that every cluster has before the first server makes it.
    """

    def __init__(self, *, new: bool = False) -> None:
        self.etcd = FakeEtcd()
        self._new = new
        self.fabric = Fabric()
        self.network = MemoryNetwork(self.fabric, "host-0")
        self.servers: list[ApiServer] = []

    async def add_server(self, *, env: Env | None = None, **changes: Any) -> ApiServer:
        """`changes` are fields of ApiServerConfig; HTTPS is off unless one of them says otherwise."""
        number = len(self.servers)
        if self.etcd.revision == 1 and not self._new:
            await begin(self.etcd)
        fields = {
            "name": f"apiserver-{number}",
            "grpc_address": f"host-0:{20_000 + number}",
            "https_address": None,
            **changes,
        }
        config = ApiServerConfig(**fields)
        server = ApiServer(config, env or make_env(number), self.network, etcd=self.etcd)  # type: ignore[arg-type]
        await server.start()
        self.servers.append(server)
        return server

    def client(self, number: int = 0) -> ApiClient:
        return ApiClient(self.network, [self.servers[number].grpc_address])

    def client_as(self, user: str, *groups: str, number: int = 0) -> ApiClient:
        """A client with a certificate that names `user` and `groups`."""
        network = MemoryNetwork(self.fabric, f"host-of-{user}", Identity(user, groups))
        return ApiClient(network, [self.servers[number].grpc_address])

    def http_server(self) -> GuardedServer:
        """What the first server listens with for HTTPS."""
        rest = self.servers[0]._rest
        assert rest is not None and rest._server is not None
        return rest._server

    async def stop(self) -> None:
        for server in self.servers:
            await server.stop()
        await self.network.close()


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[Stack]:
    made = Stack()
    await made.add_server()
    await made.client().create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    yield made
    await made.stop()
