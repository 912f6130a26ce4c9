"""API servers over real etcd members, one of which dies."""

import asyncio
import contextlib
from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.client.informer import Informer
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.memory import MemoryNetwork
from tests.apiserver.conftest import make_env
from tests.etcd.harness import etcd_cluster


async def test_a_server_asks_the_leader_first() -> None:
    async with etcd_cluster(3) as etcd:
        leader = await etcd.wait_leader()
        last = etcd.members.index(leader)
        endpoints = (*etcd.endpoints[last + 1 :], *etcd.endpoints[: last + 1])
        config = ApiServerConfig(etcd_endpoints=endpoints, grpc_address="api:6443", https_address=None)
        server = ApiServer(config, make_env(0), MemoryNetwork(etcd.fabric, "api"))
        await server.start()
        asked = server.etcd.endpoints
        assert (await server.etcd.status(asked.pick(sticky=True))).header.member_id == leader.member_id
        async with asyncio.timeout(50):
            await etcd.kill(etcd.name_of(leader))
            await etcd.wait_leader()
            while True:
                with contextlib.suppress(RpcError):
                    status = await server.etcd.status(asked.pick(sticky=True))
                    if status.leader == status.header.member_id:
                        break
                await asyncio.sleep(0.05)
        await server.stop()


async def test_a_server_watches_the_leader_also_when_it_is_another_by_now() -> None:
    async with etcd_cluster(3) as etcd:
        leader = await etcd.wait_leader()
        config = ApiServerConfig(etcd_endpoints=tuple(etcd.endpoints), grpc_address="api:6443", https_address=None)
        server = ApiServer(config, make_env(0), MemoryNetwork(etcd.fabric, "api"))
        await server.start()
        async with asyncio.timeout(50):
            while not leader.watches.counts().watchers:
                await asyncio.sleep(0.01)
            heir = next(m for m in etcd.members if m is not leader)
            leader.driver.transfer_leader(heir.member_id)
            while leader.watches.counts().watchers or not heir.watches.counts().watchers:
                await asyncio.sleep(0.01)
        client = ApiClient(MemoryNetwork(etcd.fabric, "client"), [server.grpc_address])
        await client.create("namespaces", {"metadata": {"name": "after"}})
        await server.registry.hub.fresh()
        await server.stop()


async def test_nothing_acknowledged_is_lost_when_the_leader_dies() -> None:
    async with etcd_cluster(3) as etcd:
        servers = []
        for number in range(2):
            config = ApiServerConfig(
                name=f"apiserver-{number}",
                etcd_endpoints=tuple(etcd.endpoints),
                grpc_address=f"api-{number}:6443",
                https_address=None,
            )
            server = ApiServer(config, make_env(number), MemoryNetwork(etcd.fabric, f"api-{number}"))
            await server.start()
            servers.append(server)
        network = MemoryNetwork(etcd.fabric, "client")
        client = ApiClient(network, [s.grpc_address for s in servers])
        informer = Informer(client, "configmaps", namespace="default")
        informer.start()
        acknowledged: list[str] = []

        async def write(worker: int) -> None:
            for i in range(15):
                name = f"c-{worker}-{i}"
                with contextlib.suppress(errors.ServiceUnavailable, errors.Timeout, errors.InternalError):
                    await client.create("configmaps", {"metadata": {"name": name, "namespace": "default"}})
                    acknowledged.append(name)

        async with asyncio.timeout(50):
            writers = [asyncio.create_task(write(n)) for n in range(4)]
            while len(acknowledged) < 10:
                await asyncio.sleep(0.01)
            leader = await etcd.wait_leader()
            await etcd.kill(etcd.name_of(leader))
            await asyncio.gather(*writers)
            assert len(acknowledged) > 20
            for server in servers:
                own = ApiClient(network, [server.grpc_address])
                listed = {o["metadata"]["name"] for o in (await own.list("configmaps", "default")).items}
                assert listed.issuperset(acknowledged)
            while not {o["metadata"]["name"] for o in informer.list()}.issuperset(acknowledged):
                await asyncio.sleep(0.02)
        await informer.stop()
        for server in servers:
            await server.stop()


async def test_an_object_that_etcd_finds_too_large_is_told_so_and_nothing_is_left() -> None:
    async with etcd_cluster(1) as etcd:
        config = ApiServerConfig(etcd_endpoints=tuple(etcd.endpoints), grpc_address="api-0:6443", https_address=None)
        server = ApiServer(config, make_env(0), MemoryNetwork(etcd.fabric, "api-0"))
        await server.start()
        client = ApiClient(MemoryNetwork(etcd.fabric, "client"), [server.grpc_address])

        def deployment(size: int) -> dict[str, Any]:
            pod = {"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "x" * size}]}]}
            labels = {"app": "a"}
            spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
            return {"metadata": {"name": "a", "namespace": "default"}, "spec": spec}

        async with asyncio.timeout(50):
            with pytest.raises(errors.RequestEntityTooLarge, match="etcdserver: request is too large") as told:
                await client.create("deployments.apps", deployment(1_600_000))
            assert told.value.code == 413
            with pytest.raises(errors.NotFound):
                await client.get("deployments.apps", "a", "default")
            made = await client.create("deployments.apps", deployment(1_400_000))
            with pytest.raises(errors.RequestEntityTooLarge, match="etcdserver: request is too large"):
                await client.patch(
                    "deployments.apps", "a", "default", {"metadata": {"annotations": {"a": "y" * 250_000}}}
                )
            assert await client.get("deployments.apps", "a", "default") == made
        await server.stop()
