"""The gRPC face as the gRPC project's own library meets it: over sockets, with and without a certificate."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rayplane.control_plane.api.errors import TooManyRequests
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.grpc import objects
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.service import methods_of
from rayplane.control_plane.rpc.tls import Authority, Credentials
from rayplane.proto.google.rpc import error_details_pb2 as details
from rayplane.proto.google.rpc import status_pb2
from rayplane.proto.rayplane.v1 import objects_pb2 as pb
from tests.apiserver.conftest import make_env
from tests.apiserver.fake_etcd import FakeEtcd

SERVICES = pb.DESCRIPTOR.services_by_name
MANAGER = {"authorization": "Bearer sesame"}
REF = pb.ResourceRef(resource="configmaps", namespace="default")


class Theirs:
    """Stubs of the gRPC project's library."""

    def __init__(self, channel: grpc.aio.Channel, service: str = "Objects") -> None:
        for m in methods_of(SERVICES[service]):
            make = channel.unary_stream if m.server_streaming else channel.unary_unary
            setattr(self, m.name, make(m.path, m.request_type.SerializeToString, m.response_type.FromString))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Secure:
    """An API server with TLS on a socket."""

    def __init__(self, server: ApiServer, authority: Authority) -> None:
        self.server = server
        self.authority = authority
        self._channels: list[grpc.aio.Channel] = []

    def channel(self, shown: Credentials | None = None) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self.authority.cert) if shown is None else shown.grpc_channel()
        # A pool of its own: connections end with the channel.
        options = [("grpc.ssl_target_name_override", "rayplane.internal"), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.secure_channel(self.server.grpc_address, credentials, options)
        self._channels.append(channel)
        return channel

    def stub(self, shown: Credentials | None = None, service: str = "Objects") -> Any:
        return Theirs(self.channel(shown), service)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@pytest_asyncio.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    authority = Authority.create("test-ca")
    shown = authority.issue("system:apiserver", ["system:masters"], hosts=["127.0.0.1"])
    shown.write(tmp_path)
    config = ApiServerConfig(
        https_address=None,
        tls_dir=str(tmp_path),
        static_tokens={"sesame": ("admin", ("system:masters",)), "other": ("jane", ())},
    )
    network = GrpcNetwork(shown)
    server = ApiServer(config, make_env(), network, etcd=FakeEtcd())  # type: ignore[arg-type]
    await server.start()
    made = Secure(server, authority)
    yield made
    await made.close()
    await server.stop()
    await network.close()


def config_map(name: str, **data: Any) -> bytes:
    return json.dumps({"metadata": {"name": name}, "data": data}).encode()


def named(name: str) -> pb.ResourceRef:
    return pb.ResourceRef(resource="configmaps", namespace="default", name=name)


def with_metadata(**metadata: str) -> list[tuple[str, str]]:
    return [(k.replace("_", "-"), v) for k, v in metadata.items()]


async def failure(call: Any) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """The code of a call that fails, and its details by their type."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    # In older releases it is no mapping.
    found = dict([*(caught.value.trailing_metadata() or ())])
    status = status_pb2.Status.FromString(found["grpc-status-details-bin"])
    assert status.code == caught.value.code().value[0]
    assert (caught.value.details() or "").startswith(status.message[:512])
    parts: dict[str, Any] = {}
    for packed in status.details:
        name = packed.type_url.rpartition(".")[2]
        kind = getattr(details, name, None) or getattr(pb, name)
        parts[name] = kind.FromString(packed.value)
    return caught.value.code(), parts


async def test_a_token_does_where_there_is_no_certificate(secure: Secure) -> None:
    stub = secure.stub()
    create = pb.CreateRequest(ref=REF, json=config_map("a", x="1"))
    made = await stub.Create(create, metadata=with_metadata(**MANAGER))
    managers = [one["manager"] for one in orjson.loads(made.json)["metadata"]["managedFields"]]
    assert [m.startswith("grpc-python") for m in managers] == [True]
    assert made.created
    code, found = await failure(stub.Get(pb.GetRequest(ref=named("a"))))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert found["ErrorInfo"].reason == "FORBIDDEN"
    wrong = stub.Get(pb.GetRequest(ref=named("a")), metadata=with_metadata(authorization="Bearer x"))
    code, found = await failure(wrong)
    assert (code, found["ErrorInfo"].reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED")


async def test_a_certificate_goes_before_a_token_as_over_rest(secure: Secure) -> None:
    stub = secure.stub(secure.authority.issue("admin", ["system:masters"]))
    listed = stub.List(pb.ListRequest(ref=REF), metadata=with_metadata(authorization="Bearer x"))
    assert (await listed).resource_version


async def test_where_everything_is_is_told_to_who_has_a_name(secure: Secure) -> None:
    code, _ = await failure(secure.stub(service="Discovery").Endpoints(pb.EndpointsRequest()))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    shown = secure.authority.issue("jane")
    told = await secure.stub(shown, "Discovery").Endpoints(pb.EndpointsRequest())
    assert secure.server.grpc_address in told.grpc


async def test_a_certificate_of_another_authority_is_not_taken(secure: Secure) -> None:
    own = secure.authority
    secure.authority = Authority.create("another")
    other = secure.authority.issue("admin", ["system:masters"])
    stub = secure.stub(Credentials(own.cert, other.cert, other.key))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Get(pb.GetRequest(ref=named("a")))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_failed_call_tells_why_as_every_library_reads_it(
    secure: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = secure.stub(secure.authority.issue("admin", ["system:masters"]))
    code, found = await failure(stub.Get(pb.GetRequest(ref=named("none"))))
    assert code is grpc.StatusCode.NOT_FOUND
    assert (found["ErrorInfo"].domain, found["ErrorInfo"].metadata["code"]) == ("kubernetes.io", "404")
    assert found["ResourceInfo"] == details.ResourceInfo(resource_type="configmaps", resource_name="none")
    status = orjson.loads(found["KubernetesStatus"].json)
    assert (status["reason"], status["message"]) == ("NotFound", 'configmaps "none" not found')

    code, found = await failure(stub.Create(pb.CreateRequest(ref=REF, json=config_map("Bad Name", **{"a b": "x"}))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    violations = found["BadRequest"].field_violations
    assert [(v.field, v.reason) for v in violations] == [
        ("metadata.name", "FIELD_VALUE_INVALID"),
        ("data[a b]", "FIELD_VALUE_INVALID"),
    ]
    made = await stub.Create(pb.CreateRequest(ref=REF, json=config_map("a")))
    stale = {**orjson.loads(made.json), "data": {"x": "1"}}
    stale["metadata"]["resourceVersion"] = "1"
    code, found = await failure(stub.Update(pb.UpdateRequest(ref=named("a"), json=json.dumps(stale).encode())))
    assert code is grpc.StatusCode.ABORTED
    assert found["PreconditionFailure"].violations[0].subject == "configmaps/a"
    monkeypatch.setattr(secure.server.registry, "seat", full)
    code, found = await failure(stub.Get(pb.GetRequest(ref=named("a"))))
    assert (code, found["RetryInfo"].retry_delay.seconds) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 3)


async def full(*_: Any) -> None:
    raise TooManyRequests(retry_after=3)


async def test_what_is_wrong_with_much_fits_into_what_a_library_takes(secure: Secure) -> None:
    """grpcio refuses answers with more than 16 KiB of headers, and by chance some with more than 8."""
    stub = secure.stub(secure.authority.issue("admin", ["system:masters"]))
    bad = config_map("a", **{f"{'b ' * 100}{i}": "x" for i in range(500)})
    create = stub.Create(pb.CreateRequest(ref=REF, json=bad))
    code, found = await failure(create)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    told = [*(await create.trailing_metadata()), ("grpc-message", (await create.details()).encode())]
    # In headers bytes are base64, and every field counts 32 more (RFC 9113, section 6.5.2).
    assert sum(len(name) + len(value) * 4 / 3 + 32 for name, value in told) < 8192 - 200
    assert found["ErrorInfo"].reason == "INVALID"
    assert found["BadRequest"].field_violations[0].field.startswith("data[b b")


async def test_who_may_acts_as_somebody_else(secure: Secure) -> None:
    stub = secure.stub()
    review = pb.CreateRequest(
        ref=pb.ResourceRef(group="authentication.k8s.io", version="v1", resource="selfsubjectreviews"),
        json=b'{"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}',
    )
    asked = [("impersonate-user", "joe"), ("impersonate-group", "a"), ("impersonate-group", "b")]
    answer = await stub.Create(review, metadata=[*with_metadata(**MANAGER), *asked])
    told = orjson.loads(answer.json)["status"]["userInfo"]
    assert (told["username"], told["groups"]) == ("joe", ["a", "b", "system:authenticated"])
    code, _ = await failure(stub.Create(review, metadata=[*with_metadata(authorization="Bearer other"), *asked]))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    code, _ = await failure(stub.Create(review, metadata=[*with_metadata(**MANAGER), *asked[1:]]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_list_comes_in_messages_that_are_not_too_large(secure: Secure) -> None:
    """As libraries take them: 4 MiB at most."""
    stub = secure.stub(secure.authority.issue("admin", ["system:masters"]))
    for number in range(6):
        await stub.Create(pb.CreateRequest(ref=REF, json=config_map(f"a{number}", x="x" * 900_000)))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.List(pb.ListRequest(ref=REF))
    seen, versions = [], set()
    async for answer in stub.ListStream(pb.ListRequest(ref=REF, limit=4)):
        versions.add(answer.resource_version)
        seen += [orjson.loads(item)["metadata"]["name"] for item in answer.items]
        assert not getattr(answer, "continue")
    assert [name for name in seen if name.startswith("a")] == [f"a{n}" for n in range(6)]
    assert len(versions) == 1
    names = []
    watch = stub.Watch(pb.WatchRequest(ref=REF, send_initial_events=True, allow_bookmarks=True))
    async for answer in watch:
        names += [orjson.loads(e.json)["metadata"].get("name") for e in answer.events if e.type == "ADDED"]
        if any(e.type == "BOOKMARK" for e in answer.events):
            break
    watch.cancel()
    assert sorted(names) == sorted(seen)
    empty = stub.ListStream(pb.ListRequest(ref=pb.ResourceRef(resource="configmaps", namespace="none")))
    assert [len(answer.items) async for answer in empty] == [0]


async def test_a_request_is_no_larger_than_over_rest(secure: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = secure.stub(secure.authority.issue("admin", ["system:masters"]))
    code, found = await failure(stub.Create(pb.CreateRequest(ref=REF, json=b" " * (3 << 20) + b"{}")))
    assert (code, found["ErrorInfo"].metadata["code"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "413")
    create = pb.Operation(create=pb.CreateRequest(ref=REF, json=config_map("a")))
    get = pb.Operation(get=pb.GetRequest(ref=named("a")))
    code, _ = await failure(stub.Batch(pb.BatchRequest(operations=[get] * 10_001)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    monkeypatch.setattr(objects, "_ANSWERS_BYTES_MAX", 1500)
    await stub.Batch(pb.BatchRequest(operations=[create]))
    results = (await stub.Batch(pb.BatchRequest(operations=[get] * 10))).results
    codes = [orjson.loads(r.status)["code"] if r.status else 200 for r in results]
    assert codes[0] == 200
    assert codes[-1] == 413
    # Nobody knows who sends this.
    with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
        await secure.stub().Create(pb.CreateRequest(ref=REF, json=bytes(5 << 20)))


async def test_a_watch_is_given_back_when_its_caller_leaves(secure: Secure) -> None:
    stub = secure.stub(secure.authority.issue("admin", ["system:masters"]))
    hub = secure.server.registry.hub
    cache = await hub.cache(secure.server.registry.kinds.named("configmaps"))
    before = cache.watcher_count
    call = stub.Watch(pb.WatchRequest(ref=REF), timeout=30)
    await stub.Create(pb.CreateRequest(ref=REF, json=config_map("a")))
    await anext(aiter(call))
    assert cache.watcher_count == before + 1
    call.cancel()
    async with asyncio.timeout(10):
        while cache.watcher_count > before:
            await asyncio.sleep(0.01)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Watch(pb.WatchRequest(ref=REF), timeout=0.2):
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        while cache.watcher_count > before:
            await asyncio.sleep(0.01)
    ended = stub.Watch(pb.WatchRequest(ref=REF, timeout_seconds=1))
    assert [event.type async for answer in ended for event in answer.events] == ["ADDED"]


async def test_who_gives_up_gives_back_everything(secure: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline and a cancelled call end the work on the server, and free its place."""
    registry = secure.server.registry
    stub = secure.stub(secure.authority.issue("admin", ["system:masters"]))
    begun, ended = asyncio.Event(), asyncio.Event()

    async def stuck(*_: Any) -> bytes:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        raise AssertionError

    monkeypatch.setattr(registry.reader, "get", stuck)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Get(pb.GetRequest(ref=named("a")), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        await ended.wait()
    begun.clear()
    ended.clear()
    call = asyncio.ensure_future(stub.Get(pb.GetRequest(ref=named("a"))))
    async with asyncio.timeout(10):
        await begun.wait()
        call.cancel()
        await ended.wait()
        while registry.fairness.in_flight != {"readOnly": 0, "mutating": 0}:
            await asyncio.sleep(0.01)


async def test_health_and_reflection_are_there_for_everybody(secure: Secure) -> None:
    channel = secure.channel()
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="rayplane.v1.Pods"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="rayplane.v1.Pods"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="google.rpc.ErrorInfo"),
    ]
    services, *files = [answer async for answer in reflection.ServerReflectionInfo(iter(asked))]
    names = [service.name for service in services.list_services_response.service]
    assert {"rayplane.v1.Objects", "rayplane.v1.Pods", "rayplane.v1.Discovery"} <= set(names)
    assert all(answer.file_descriptor_response.file_descriptor_proto for answer in files)
