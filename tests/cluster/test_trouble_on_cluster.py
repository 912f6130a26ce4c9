"""Machines in one process have trouble of their own: with their clocks, their disks and their network."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ServiceUnavailable
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults.vocabulary import ClockJump, Cut, FullDisk, StalledDisk, Target
from rayplane.control_plane.rpc import RpcError
from tests.cluster.harness import Cluster, cluster

pytestmark = pytest.mark.timeout(120)
MEMBER, SERVER = Target("leader"), Target(name="apiserver-0")


async def made(c: Cluster, name: str) -> datetime:
    """When an object that is made now says it was made."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}
    found = await c.api.create("configmaps", body)
    return datetime.fromisoformat(meta.metadata(found)["creationTimestamp"])


async def test_a_cluster_lives_with_the_trouble_of_its_machines() -> None:
    async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=0) as c:
        injector, etcd = LiveInjector(c.access, random.Random(1)), c.access.etcd
        jump = ClockJump(SERVER, 1200.0)
        hit = await injector.begin(jump)
        assert await made(c, "ahead") > datetime.now(UTC) + timedelta(minutes=10)
        await injector.end(jump, hit)
        assert await made(c, "in-time") < datetime.now(UTC) + timedelta(minutes=10)

        stalled = StalledDisk(MEMBER, 60.0)
        hit = await injector.begin(stalled)
        writing = asyncio.create_task(etcd.put(b"/rayplane/test/a", b"1"))
        # What is read is read, so often that the write would be there long since, and it is not acknowledged.
        for _ in range(200):
            assert not (await etcd.range(b"/rayplane/test/a", serializable=True)).kvs and not writing.done()
        await injector.end(stalled, hit)
        await writing

        full = FullDisk(MEMBER)
        hit = await injector.begin(full)
        with pytest.raises(RpcError):
            await etcd.put(b"/rayplane/test/b", b"1")
        await injector.end(full, hit)
        async with asyncio.timeout(60):
            while True:
                try:
                    await etcd.put(b"/rayplane/test/c", b"1")
                    break
                except RpcError:
                    await asyncio.sleep(0.05)
        assert (await etcd.range(b"/rayplane/test/a")).kvs[0].value == b"1"
        await _deafened(c, injector)


async def _deafened(c: Cluster, injector: LiveInjector) -> None:
    """An API server that the member does not answer says so, and is of use again when it does."""
    member = (await c.current()).of(Role.MEMBER)[0].name
    cut = Cut((member,), ("apiserver-0",))
    hit = await injector.begin(cut)
    with pytest.raises(ServiceUnavailable, match="no majority of its members has answered"):
        await c.api.get("namespaces", "default")
    await injector.end(cut, hit)
    await c.until(lambda: c.api.get("namespaces", "default"), "the server hears again")
