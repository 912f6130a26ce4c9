"""Servers as a group: who is there, what a new cluster has, and what stopping one does."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.storage.compaction import Compactor
from rayplane.control_plane.client import ops
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.rayplane.v1 import objects_pb2 as pb
from rayplane.storage.env import Env
from tests.apiserver.conftest import Stack, make_env
from tests.apiserver.fake_etcd import FakeEtcd


async def test_new_cluster_has_what_every_cluster_has(stack: Stack) -> None:
    await stack.add_server()
    client = stack.client(1)
    spaces = [o["metadata"]["name"] for o in (await client.list("namespaces")).items]
    assert spaces == ["default", "kube-node-lease", "kube-public", "kube-system"]
    service = await client.get("services", "kubernetes", "default")
    assert service["spec"]["clusterIP"] == "127.96.0.1"
    classes = [o["metadata"]["name"] for o in (await client.list("storageclasses.storage.k8s.io")).items]
    assert classes == ["replicated", "standard"]
    roles = [o["metadata"]["name"] for o in (await client.list("clusterroles.rbac.authorization.k8s.io")).items]
    assert {"cluster-admin", "admin", "edit", "view", "system:node"} <= set(roles)


async def test_where_nodes_serve_names_there_is_a_service_for_them(stack: Stack) -> None:
    with pytest.raises(errors.NotFound):
        await stack.client().get("services", "kube-dns", "kube-system")
    await stack.add_server(dns_address="127.96.0.10")
    service = await stack.client().get("services", "kube-dns", "kube-system")
    assert service["spec"]["clusterIP"] == "127.96.0.10"
    assert [(p["port"], p["protocol"]) for p in service["spec"]["ports"]] == [(53, "UDP"), (53, "TCP")]
    assert service["metadata"]["labels"]["k8s-app"] == "kube-dns"


async def test_a_server_that_has_started_has_its_caches(stack: Stack) -> None:
    registry = stack.servers[0].registry
    stored = registry.kinds.registry.stored()
    assert {info.name for info in stored if registry.hub.peek(info) is None} == {"events"}


class _Failing(FakeEtcd):
    """Counts transactions under way; `fails_after` so many, it is away."""

    def __init__(self, fails_after: int = 1 << 30) -> None:
        super().__init__()
        self.under_way = self.most_under_way = self.answered = 0
        self.fails_after = fails_after

    async def txn(self, *args: Any, **options: Any) -> Any:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.answered >= self.fails_after:
                self.down = RpcError(grpc.StatusCode.UNAVAILABLE, "gone")
            return await super().txn(*args, **options)
        finally:
            self.under_way -= 1
            self.answered += 1


def _once(etcd: FakeEtcd, key: bytes) -> bool:
    """Whether what is there was written once."""
    return etcd.live[key].create_revision == etcd.live[key].mod_revision


async def test_what_every_cluster_has_is_made_side_by_side_and_once() -> None:
    stack = Stack(new=True)
    stack.etcd = etcd = _Failing()
    await stack.add_server()
    assert etcd.most_under_way > 10
    made = await stack.client().list("clusterroles.rbac.authorization.k8s.io")
    written = {key: kv.mod_revision for key, kv in etcd.live.items() if key.startswith(b"/registry/clusterroles/")}
    assert len(written) == len(made.items) > 50
    await stack.add_server()
    assert written == {key: etcd.live[key].mod_revision for key in written}
    await stack.stop()


async def test_an_etcd_that_goes_away_while_a_new_cluster_is_filled_is_waited_for() -> None:
    whole, stack = Stack(new=True), Stack(new=True)
    await whole.add_server()
    stack.etcd = etcd = _Failing(fails_after=60)
    starting = asyncio.create_task(stack.add_server())
    async with asyncio.timeout(30):
        while not etcd.refused:
            await asyncio.sleep(0)
        assert not starting.done()
        etcd.fails_after, etcd.down = 1 << 30, None
        await starting
    there = [key for key in whole.etcd.live if b"/registry/" in key]
    assert [key for key in etcd.live if b"/registry/" in key] == there
    assert [key for key in there if not _once(etcd, key)] == []
    await stack.stop()
    await whole.stop()


async def test_servers_that_fill_a_new_cluster_together_make_all_of_it() -> None:
    stack, alone = Stack(new=True), Stack(new=True)
    await alone.add_server()
    async with asyncio.TaskGroup() as starting:
        for number in range(3):
            starting.create_task(stack.add_server(name=f"apiserver-{number}", grpc_address=f"host-0:{20_000 + number}"))
    there = [key for key in alone.etcd.live if b"/registry/" in key and b"masterleases" not in key]
    assert [key for key in there if key not in stack.etcd.live] == []
    assert [key for key in there if not _once(stack.etcd, key)] == []
    await stack.stop()
    await alone.stop()


async def test_servers_are_listed_while_they_live() -> None:
    stack = Stack()
    for port in (7001, 7002):
        await stack.add_server(grpc_address=f"127.0.0.1:{port}")
    discovery = Stub(stack.network.channel("127.0.0.1:7001"), pb.DESCRIPTOR.services_by_name["Discovery"])

    async def listed(*addresses: str) -> None:
        async with asyncio.timeout(5):
            while list((await discovery.Endpoints(pb.EndpointsRequest())).grpc) != [*addresses]:
                await asyncio.sleep(0.05)

    await listed("127.0.0.1:7001", "127.0.0.1:7002")
    endpoints = await stack.client().get("endpoints", "kubernetes", "default")
    ports = [subset["ports"][0]["port"] for subset in endpoints["subsets"]]
    assert ports == [7001, 7002]
    await stack.servers.pop().stop()
    await listed("127.0.0.1:7001")
    await stack.stop()


async def test_watch_ends_without_an_error_when_its_server_stops(stack: Stack) -> None:
    """So that the client goes on at another server from where it was."""
    client = stack.client()
    start = (await client.list("configmaps")).resource_version
    await client.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}})
    async with asyncio.timeout(5), aclosing(client.watch("configmaps", resource_version=start)) as watch:
        assert (await anext(watch))[0].type == "ADDED"
        stopping = asyncio.create_task(stack.servers.pop().stop())
        with pytest.raises((StopAsyncIteration, errors.ServiceUnavailable)):
            await anext(watch)
        await stopping


async def test_a_server_that_is_cut_off_while_it_stops_listens_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it may not end in time; its process may go on and start another one at the same address."""
    stack, waits = Stack(), asyncio.Event()
    server = await stack.add_server(https_address="127.0.0.1:0")

    async def stop() -> None:
        waits.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(server.registry.storage, "stop", stop)
    stopping = asyncio.create_task(server.stop())
    await waits.wait()
    stopping.cancel()
    await asyncio.wait([stopping])
    host, _, port = server.https_address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
    assert not stack.fabric.servers
    monkeypatch.undo()
    await stack.stop()


async def test_events_live_under_a_lease(stack: Stack) -> None:
    event = {
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Tested",
    }
    client = stack.client()
    await client.create("events", event)
    lease = stack.etcd.live[b"/registry/events/default/e"].lease
    assert lease
    await client.patch("events", "e", "default", {"count": 2})
    assert stack.etcd.live[b"/registry/events/default/e"].lease == lease
    await stack.etcd.expire(lease)
    with pytest.raises(errors.NotFound):
        await client.get("events", "e", "default")


async def test_garbage_in_etcd_does_not_stop_the_rest(stack: Stack) -> None:
    client = stack.client()
    await stack.etcd.put(b"/registry/configmaps/default/bad", b"no json")
    await client.create("configmaps", {"metadata": {"name": "good", "namespace": "default"}})
    await stack.etcd.put(b"/registry/configmaps/default/worse", b"[1]")
    await stack.add_server()
    for number in (0, 1):
        listed = await stack.client(number).list("configmaps", "default")
        assert [o["metadata"]["name"] for o in listed.items] == ["good"]


async def test_batch_answers_each_operation(stack: Stack) -> None:
    made = {"metadata": {"name": "a", "namespace": "default"}}
    answers = await stack.client().batch(
        [
            ops.create("configmaps", made),
            ops.get("configmaps", "none", "default"),
            ops.patch("namespaces", "default", "", {"metadata": {"labels": {"x": "y"}}}),
        ]
    )
    assert isinstance(answers[1], errors.NotFound)
    assert answers[0]["metadata"]["name"] == "a"  # type: ignore[index]
    assert answers[2]["metadata"]["labels"]["x"] == "y"  # type: ignore[index]


async def test_a_quiet_batch_answers_what_failed(stack: Stack) -> None:
    made = {"metadata": {"name": "a", "namespace": "default"}}
    operations = [ops.create("configmaps", made), ops.get("configmaps", "none", "default")]
    done, failed = await stack.client().batch(operations, quiet=True)
    assert done == {} and isinstance(failed, errors.NotFound)
    assert (await stack.client().get("configmaps", "a", "default"))["metadata"]["name"] == "a"
    request = pb.BatchRequest(operations=[ops.get("configmaps", "a", "default")], quiet=True)
    told = await stack.client()._call("Objects", "Batch", request)
    assert told.results[0] == pb.Result(), "what nobody reads does not travel"


async def test_history_is_compacted_once_for_all() -> None:
    etcd = FakeEtcd()
    one, two = (Compactor(etcd, make_env(7).clock, 1.0) for _ in range(2))  # type: ignore[arg-type]
    for _ in range(5):
        await etcd.put(b"/registry/x", b"y")
    state_one, state_two = await one.once(0, 0), await two.once(0, 0)
    assert etcd.compacted == 0
    first = state_one[1]
    await etcd.put(b"/registry/x", b"z")
    await one.once(*state_one)
    assert etcd.compacted == first
    await two.once(*state_two)
    assert etcd.compacted == first


async def test_same_seed_gives_the_same_history() -> None:
    class Frozen:
        def now(self) -> datetime:
            return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    async def run() -> list[tuple[int, bytes]]:
        stack = Stack()
        await stack.add_server(env=Env(Frozen(), make_env(7).rng, None))  # type: ignore[arg-type]
        client = stack.client()
        await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
        spec = {"containers": [{"name": "c", "image": "i"}]}
        for i in range(5):
            meta = {"generateName": f"p{i}-", "namespace": "default"}
            await client.create("pods", {"metadata": meta, "spec": spec})
            service = {"metadata": {"name": f"s{i}", "namespace": "default"}, "spec": {"ports": [{"port": 1}]}}
            await client.create("services", service)
        await stack.stop()
        return [(revision, event.SerializeToString(deterministic=True)) for revision, event in stack.etcd.history]

    assert await run() == await run()


def test_configuration_says_what_to_change() -> None:
    with pytest.raises(ValueError, match="etcd_endpoints is empty"):
        ApiServerConfig().validate()
    with pytest.raises(ValueError, match="use /29 or larger"):
        ApiServerConfig(etcd_endpoints=("a:1",), service_cidr="127.0.0.0/30").validate()
    with pytest.raises(ValueError, match=r"dns_address 10\.0\.0\.10 is not in service_cidr"):
        ApiServerConfig(etcd_endpoints=("a:1",), dns_address="10.0.0.10").validate()
    ApiServerConfig(etcd_endpoints=("a:1",)).validate()
    assert make_env().uuid() == make_env().uuid()
