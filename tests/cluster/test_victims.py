"""Whom a fault hits while the cluster changes: members are replaced as hours go by, and etcd is slow to tell."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from rayplane.control_plane.client.endpoints import Endpoints
from rayplane.control_plane.cluster import victims
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.config import RAY
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.faults.form import parse_fault
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb


def members(*numbers: int) -> Topology:
    return Topology(tuple(Instance(f"member-{n}", Role.MEMBER, Machine(), {"client": 9000 + n}) for n in numbers))


class Cluster:
    """A cluster whose members are replaced; `silent`: etcd is busy with electing a leader."""

    def __init__(self) -> None:
        self.topology = members(0, 1, 2)
        self.silent = False
        self.killed: list[str] = []
        self.endpoints = Endpoints(self.topology.endpoints(Role.MEMBER, "client"))
        state: Any = SimpleNamespace(topology=self.topology, config=SimpleNamespace(host=RAY), host={})
        parts: Any = dict.fromkeys(("directory", "network", "api", "faults", "shown"))
        self.admin = Access(**parts | {"state": state, "etcd": self, "supervisor": self})

    async def range(self, key: str, timeout: float) -> Any:
        if self.silent:
            await asyncio.Event().wait()
        return SimpleNamespace(kvs=[SimpleNamespace(value=orjson.dumps(self.topology.to_json()))])

    async def Kill(self, request: pb.KillRequest, timeout: float) -> pb.KillResponse:
        self.silent = False
        try:
            self.killed.append(self.topology.get(request.name).name)
        except UsageError as e:
            raise RpcError(Code[UsageError.code], str(e)) from e
        return pb.KillResponse(name=request.name)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(victims, "LOOK_UP_S", 0.01)
    return Cluster()


async def test_who_looks_on_for_hours_asks_the_members_that_there_are(cluster: Cluster) -> None:
    cluster.topology = members(3, 4, 5)
    assert await current_topology(cluster.admin) == cluster.topology
    assert sorted(cluster.endpoints.addresses) == ["127.0.0.1:9003", "127.0.0.1:9004", "127.0.0.1:9005"]


async def test_while_etcd_is_busy_victims_are_those_that_were_known_last(cluster: Cluster) -> None:
    cluster.topology = members(3)
    await current_topology(cluster.admin)
    cluster.silent = True
    live = LiveInjector(cluster.admin, random.Random(1))
    assert await live.begin(parse_fault("kill: member random")) == ("member-3",)


async def test_who_was_chosen_and_has_gone_meanwhile_is_nobody_now_and_another_is_hit(cluster: Cluster) -> None:
    """A trial tries again after this error, and would end with one that says that it is of no use."""
    cluster.topology, cluster.silent = members(3), True
    live = LiveInjector(cluster.admin, random.Random(1))
    with pytest.raises(ClusterError, match="gone meanwhile") as told:
        await live.begin(parse_fault("kill: member random"))
    assert not isinstance(told.value, UsageError)
    assert await live.begin(parse_fault("kill: member random")) == ("member-3",)
    assert cluster.killed == ["member-3"]


async def test_who_never_was_is_of_no_use(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="no actor is called 'member-9'"):
        await LiveInjector(cluster.admin, random.Random(1)).begin(parse_fault("kill: member-9"))
