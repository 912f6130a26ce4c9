"""Faults of a real cluster: begun over gRPC they outlive the supervisor, and end; experiments on pods are made."""

import asyncio
import json
from gzip import decompress as gunzip
from typing import Any

import pytest

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.cluster.heard import heard
from rayplane.control_plane.cluster.supervisor.notes import FAULTS_KEY
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.recordings import Recording
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb
from tests.cluster.harness import Cluster, cluster, deployment

KILLS = "steps: [{kill: apiserver-0}, {await: {ready: cluster, within: 1m}}]"
PARTED = "partition: {hosts: [[scheduler-0]], for: 1h}"


def parted(c: Cluster) -> bool:
    return c.host._fabric.link is c.host._weather


async def experiment(c: Cluster) -> None:
    """As somebody does who has read of Chaos Mesh: it works at once, and what it did is undone."""
    await c.api.create("deployments.apps", deployment("web", 2))
    await c.pods_ready(2, "app=web")
    spec = {"action": "pod-failure", "mode": "one", "selector": {"labelSelectors": {"app": "web"}}, "duration": "1h"}
    resource = mesh.resource(mesh.POD_CHAOS)
    await c.api.create(resource, {"metadata": {"name": "e", "namespace": "default"}, "spec": spec})

    async def unready() -> int:
        return sum(not pod_is_ready(pod) for pod in await c.pods("app=web"))

    await c.until(unready, "one pod fails", wanted=1)

    async def injected() -> bool:
        return meta.condition_is(await c.api.get(resource, "e", "default"), "AllInjected")

    await c.until(injected, "the experiment says so")
    await c.api.delete(resource, "e", "default")
    await c.gone(resource, "e", "default")
    await c.pods_ready(2, "app=web")


async def trial(c: Cluster, chaos: Any) -> None:
    """In the supervisor, one at a time; whoever has enough of it ends it, and the next one finds all healed."""
    spares = pb.TrialRequest(scenario="steps: [{kill: supervisor}]")
    with pytest.raises(RpcError, match="would end with it") as refused:
        _ = [one async for one in chaos.Run(spares)]
    assert refused.value.code is Code.INVALID_ARGUMENT
    partition = "{partition: {hosts: [[scheduler-0]], for: 1h}}"
    first = chaos.Run(pb.TrialRequest(scenario=f"steps: [{partition}]"))
    while "partition" not in (await anext(first)).event:
        pass
    with pytest.raises(RpcError, match="another trial") as second:
        _ = [one async for one in chaos.Run(pb.TrialRequest(scenario="steps: [{sleep: 1s}]"))]
    assert second.value.code is Code.ABORTED
    await first.aclose()
    while True:
        try:
            # It kills who tells of it.
            request = pb.TrialRequest(scenario=KILLS, seed=7, id="mine", record=True)
            told = [one async for one in heard(c.access, request)]
            break
        except RpcError as e:
            assert "another trial" in e.message, "the first heals what it broke"
            await asyncio.sleep(0.1)
    verdict = json.loads(told[-1].verdict)
    assert (verdict["verdict"], verdict["seed"]) == ("ok", 7), verdict
    assert sum(one.event.startswith("ok: ") for one in told) == 1, "nothing is told twice"
    assert [fault["hit"] for fault in verdict["faults"]] == [["apiserver-0"]]
    assert Recording(gunzip(b"".join(one.recording for one in told)).splitlines()).seed == 7


async def test_faults_outlive_the_supervisor_that_began_them_and_experiments_are_made() -> None:
    async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=1) as c:
        [address] = c.topology.endpoints(Role.APISERVER, "grpc")
        chaos: Any = Stub(c.network.channel(address), pb.DESCRIPTOR.services_by_name["Chaos"])
        told = await chaos.Targets(pb.TargetsRequest())
        assert {t.target: [*t.names] for t in told.targets}["scheduler"] == ["scheduler-0"]
        of_network, of_machines = {"partition", "cut", "reset", "slow_network"}, {"clock_jump", "slow_disk"}
        of_machines |= {"stalled_disk", "full_disk", "expire_certificate"}
        assert {v.verb for v in told.verbs if not v.refused} == {"kill", "flood"} | of_network | of_machines
        with pytest.raises(RpcError) as refused:
            await chaos.Begin(pb.BeginRequest(fault="stop: {target: leader, for: 3s}"))
        assert refused.value.code is Code.INVALID_ARGUMENT and "--host ray" in refused.value.message
        begun = await chaos.Begin(pb.BeginRequest(fault=PARTED))
        assert parted(c) and [*begun.hit] == ["scheduler-0"] and begun.by == "kubernetes-admin"
        [noted] = (await c.access.etcd.range(FAULTS_KEY)).kvs
        assert begun.id.encode() in noted.value, "a supervisor on another machine would find it"

        before = c.host._actors["supervisor"][0]
        await c.host.kill("supervisor", "KILL")

        async def told_again() -> bool:
            # It dies after this call has ended.
            if c.host._actors.get("supervisor", (before,))[0] is before:
                return False
            faults = (await chaos.List(pb.ListFaultsRequest())).faults
            return [one.id for one in faults] == [begun.id]

        await c.until(told_again, "the next supervisor knows what stands")
        assert parted(c)
        await chaos.End(pb.EndRequest(id=begun.id))
        assert not parted(c) and not (await chaos.List(pb.ListFaultsRequest())).faults
        await experiment(c)
        await trial(c, chaos)
        assert not parted(c)
