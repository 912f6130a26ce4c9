"""Faults begun over gRPC on a real cluster: they hold, outlive the supervisor that began them, and end."""

from typing import Any

import pytest

from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb
from tests.cluster.harness import Cluster, cluster

PARTED = "partition: {hosts: [[scheduler-0]], for: 1h}"


def parted(c: Cluster) -> bool:
    return c.host._fabric.link is c.host._weather


async def test_a_fault_begun_at_an_api_server_outlives_the_supervisor_and_ends() -> None:
    async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=0) as c:
        [address] = c.topology.endpoints(Role.APISERVER, "grpc")
        chaos: Any = Stub(c.network.channel(address), pb.DESCRIPTOR.services_by_name["Chaos"])
        told = await chaos.Targets(pb.TargetsRequest())
        assert {t.target: [*t.names] for t in told.targets}["scheduler"] == ["scheduler-0"]
        of_network, of_machines = {"partition", "cut", "reset", "slow_network"}, {"clock_jump", "slow_disk"}
        of_machines |= {"stalled_disk", "full_disk"}
        assert {v.verb for v in told.verbs if not v.refused} == {"kill", "flood"} | of_network | of_machines
        with pytest.raises(RpcError) as refused:
            await chaos.Begin(pb.BeginRequest(fault="stop: {target: leader, for: 3s}"))
        assert refused.value.code is Code.INVALID_ARGUMENT and "--host ray" in refused.value.message
        begun = await chaos.Begin(pb.BeginRequest(fault=PARTED))
        assert parted(c) and [*begun.hit] == ["scheduler-0"] and begun.by == "kubernetes-admin"

        await c.host.kill("supervisor", "KILL")

        async def told_again() -> bool:
            faults = (await chaos.List(pb.ListFaultsRequest())).faults
            return [one.id for one in faults] == [begun.id]

        await c.until(told_again, "the next supervisor knows what stands")
        assert parted(c)
        await chaos.End(pb.EndRequest(id=begun.id))
        assert not parted(c) and not (await chaos.List(pb.ListFaultsRequest())).faults
