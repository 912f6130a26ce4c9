"""`rayplane.Client`: what its document shows, and how it ends."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import rayplane
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.flowcontrol.queues import Ticket
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import Target, User
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Authority
from rayplane.proto.rayplane.v1 import node_pb2
from tests.apiserver.conftest import make_env
from tests.apiserver.fake_etcd import FakeEtcd
from tests.apiserver.secure import StandInNode
from tests.house.documents import ROOT, blocks
from tests.rpc.open_service import open_service

DOCUMENT = ROOT / "control_plane" / "client" / "README.md"


@pytest_asyncio.fixture
async def found(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """Where a server with TLS is, with a pod on a node host, as `rayplane endpoints` tells it."""
    authority = Authority.create("test-ca")
    shown = authority.issue("system:apiserver", ["system:masters"], hosts=["127.0.0.1"])
    shown.write(tmp_path / "server")
    authority.issue("admin", ["system:masters"]).write(tmp_path / "admin")
    network = GrpcNetwork(shown)
    node = open_service(node_pb2.DESCRIPTOR.services_by_name["Node"], StandInNode())
    host = await network.serve("127.0.0.1:0", [node])
    config = ApiServerConfig(https_address=None, tls_dir=str(tmp_path / "server"), token_key=authority.key)
    server = ApiServer(config, make_env(), network, etcd=FakeEtcd())  # type: ignore[arg-type]
    await server.start()
    client = ApiClient(network, [server.grpc_address])
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    metadata = {"name": "n", "annotations": {"rayplane.io/host-address": host.address}}
    await client.create("nodes", {"metadata": metadata})
    spec = {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}
    await client.create("pods", {"metadata": {"name": "p", "namespace": "default"}, "spec": spec})
    admin = tmp_path / "admin"
    paths = {"ca": admin / "ca.crt", "cert": admin / "tls.crt", "key": admin / "tls.key"}
    yield {"grpc": [server.grpc_address], **{name: str(path) for name, path in paths.items()}}
    await server.stop()
    await host.stop()
    await network.close()


async def test_every_example_of_the_document_works(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "endpoints.json").write_text(json.dumps(found))
    names: dict[str, Any] = {}
    for block in blocks(DOCUMENT):
        code = compile(block.text, f"{DOCUMENT.name}: {block.file}", "exec")
        await asyncio.to_thread(exec, code, names)
    assert "causes" in names


def open_client(found: dict[str, Any]) -> rayplane.Client:
    return rayplane.Client(found["grpc"], ca=found["ca"], cert=found["cert"], key=found["key"])


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("rayplane client")]


async def test_what_is_under_way_ends_with_the_client(found: dict[str, Any]) -> None:
    """A watch that nobody reads to its end, a command that would go on: nothing is left of them."""
    client = open_client(found)

    def use() -> Iterator[Any]:
        events = client.watch("pods", "default", send_initial_events=True)
        next(events)
        running = client.exec("p", "default", ["cat"], stdin=True)
        running.write(b"x")
        next(iter(running))
        client.close()
        client.close()
        return events

    events = await asyncio.to_thread(use)
    assert threads() == []
    with pytest.raises(RuntimeError, match="closed"):
        await asyncio.to_thread(client.get, "pods", "p", "default")
    with pytest.raises(RuntimeError, match="closed"):
        await asyncio.to_thread(next, events)


async def test_a_server_that_is_busy_is_asked_again_for_reads_alone(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    seat = ObjectRegistry.seat

    async def busy(self: ObjectRegistry, user: User, verb: str, target: Target) -> Ticket:
        asked.append(verb)
        if len(asked) == 1 or verb == "create":
            raise rayplane.errors.TooManyRequests(retry_after=1)
        return await seat(self, user, verb, target)

    client = open_client(found)
    monkeypatch.setattr(ObjectRegistry, "seat", busy)
    assert (await asyncio.to_thread(client.get, "pods", "p", "default"))["kind"] == "Pod"
    config_map = {"metadata": {"name": "a", "namespace": "default"}}
    with pytest.raises(rayplane.errors.TooManyRequests):
        await asyncio.to_thread(client.create, "configmaps", config_map)
    assert asked == ["get", "get", "create"]
    await asyncio.to_thread(client.close)


async def test_where_one_server_is_gone_another_is_asked(found: dict[str, Any]) -> None:
    gone = ["127.0.0.1:1", "127.0.0.1:2"]
    paths = {name: found[name] for name in ("ca", "cert", "key")}
    for use in (
        lambda client: client.get("pods", "p", "default"),
        lambda client: list(client.pages("pods", "default")),
        lambda client: next(client.watch("pods", "default", send_initial_events=True)),
        lambda client: b"".join(client.logs("p", "default")),
        lambda client: client.run("p", "default", ["cat"], stdin=b"x").stdout,
    ):

        def used(use: Callable[[rayplane.Client], Any] = use) -> Any:
            with rayplane.Client([*gone, *found["grpc"]], **paths) as client:
                return use(client)

        assert await asyncio.to_thread(used)


async def test_nobody_answers(found: dict[str, Any]) -> None:
    client = rayplane.Client(["127.0.0.1:1"], ca=found["ca"], timeout=0.3)
    with pytest.raises(rayplane.errors.ServiceUnavailable):
        await asyncio.to_thread(client.get, "pods", "p", "default")
    with pytest.raises(rayplane.errors.ServiceUnavailable):
        await asyncio.to_thread(next, client.watch("pods"))
    await asyncio.to_thread(client.close)
