"""Aggregated APIs: a server of an extension behind an API server, which it knows by its certificate."""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.config import Timing
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.cluster.pki import issue_front_proxy
from rayplane.control_plane.controllers.actions import PurgeNamespace
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.manager.namespace_purger import NamespacePurger
from rayplane.control_plane.identities import FRONT_PROXY
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.http1 import identity_of
from rayplane.control_plane.rpc.tls import Authority, front_proxy_dir
from tests.apiserver.conftest import Stack

AUTHORITY = Authority.create("extensions")
BUNDLE = base64.b64encode(AUTHORITY.cert).decode()
APISERVICES = "apiservices.apiregistration.k8s.io"
GROUP = "example.com"
ROOT = f"/apis/{GROUP}/v1"
_KIND = {"namespaced": True, "kind": "Flunder"}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "watch"]
FLUNDERS = {"name": "flunders", "singularName": "flunder", **_KIND, "verbs": _VERBS, "shortNames": ["fl"]}
STATUS = {"name": "flunders/status", "singularName": "", **_KIND, "verbs": ["get"]}
_HEAD = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/v1"}
DISCOVERY = {**_HEAD, "resources": [FLUNDERS, STATUS]}
V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Extension:
    """A server of an API: `answers[path]`, of all others it says what it was asked; `seen` are requests of clients."""

    def __init__(self, client_ca: bytes) -> None:
        self.answers: dict[str, Answer] = {}
        self.discovery: Any = DISCOVERY
        self.seen: list[web.BaseRequest] = []
        self.port = 0
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=client_ca.decode())
        self._tls.verify_mode = ssl.CERT_REQUIRED
        AUTHORITY.issue("extension", hosts=["ext.default.svc"]).load(self._tls)

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self.handle))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("X-Remote-User") != "system:kube-aggregator":
            self.seen.append(request)
        answer = self.answers.get(request.path)
        if answer is not None:
            return await answer(request)
        if request.path == ROOT:
            return web.json_response(self.discovery)
        if request.path.startswith("/openapi"):
            return web.Response(status=404)
        size = sum([len(piece) async for piece in request.content.iter_any()])
        said = {"asked": f"{request.method} {request.raw_path}", "size": size}
        return web.json_response({**said, "headers": [*map(list, request.headers.items())]})


class Setting:
    """An API server with TLS, an extension behind it, and a client of both faces."""

    def __init__(self, stack: Stack, extension: Extension, session: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.extension = extension
        self.http = session

    @property
    def client(self) -> ApiClient:
        return self.stack.client_as("kubernetes-admin", "system:masters")

    async def lead(self, *, where: Object | None = None, **spec: Any) -> None:
        """An APIService that leads to the extension, by a Service without pods."""
        if where is None:
            ports = {"ports": [{"port": 443, "name": "https", "targetPort": self.extension.port}]}
            await self.client.create("services", {"metadata": {"name": "ext", "namespace": "default"}, "spec": ports})
            await self.client.create("endpointslices.discovery.k8s.io", endpoints(self.extension.port))
        await self.client.create(APISERVICES, api_service(where, **spec))

    async def condition(self, name: str = f"v1.{GROUP}") -> tuple[str, str, str]:
        found = meta.get_condition(await self.client.get(APISERVICES, name), "Available") or {}
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    async def becomes(self, reason: str, name: str = f"v1.{GROUP}") -> str:
        """The message with which the API is found so."""
        async with asyncio.timeout(20):
            while (found := await self.condition(name))[1] != reason:
                await asyncio.sleep(0.02)
        return found[2]

    async def json(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.http.request(method, path, **options) as answer:
            return answer.status, await answer.json(content_type=None)

    async def text(self, path: str, method: str = "GET", **options: Any) -> tuple[int, str]:
        async with self.http.request(method, path, **options) as answer:
            return answer.status, await answer.text()


def endpoints(port: int) -> Object:
    labels = {"kubernetes.io/service-name": "ext"}
    return {
        "metadata": {"name": "ext-1", "namespace": "default", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"]}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }


def api_service(where: Object | None = None, **spec: Any) -> Object:
    leads = {"service": where or {"namespace": "default", "name": "ext"}, "caBundle": BUNDLE}
    priorities = {"groupPriorityMinimum": 2000, "versionPriority": 10}
    whole = {"group": GROUP, "version": "v1", **leads, **priorities, **spec}
    return {"metadata": {"name": f"{whole['version']}.{whole['group']}"}, "spec": whole}


@contextlib.asynccontextmanager
async def extended(directory: Path, timing: Timing) -> AsyncIterator[Setting]:
    """An API server whose certificates are in the directory, and an extension that it does not know of yet."""
    cluster = Authority.create("cluster")
    cluster.issue("system:apiserver", ["system:apiservers"], hosts=["127.0.0.1"]).write(directory)
    issue_front_proxy(cluster).write(front_proxy_dir(directory))
    stack = Stack()
    tokens = {"sesame": ("kubernetes-admin", ("system:masters",)), "jane": ("jane", ("dev",))}
    tls: dict[str, Any] = {"https_address": "127.0.0.1:0", "tls_dir": str(directory)}
    server = await stack.add_server(**tls, static_tokens=tokens, timing=timing)
    admin = stack.client_as("kubernetes-admin", "system:masters")
    known = await admin.get("configmaps", "extension-apiserver-authentication", "kube-system")
    extension = Extension(known["data"]["requestheader-client-ca-file"].encode())
    await extension.start()
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=cluster.cert.decode()))
    url, headers = f"https://{server.https_address}", {"Authorization": "Bearer sesame"}
    async with aiohttp.ClientSession(url, connector=connector, headers=headers) as session:
        yield Setting(stack, extension, session)
    await stack.stop()
    await extension.stop()


@pytest_asyncio.fixture
async def setting(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Setting]:
    """A parameter is the time that a request has."""
    async with extended(tmp_path, Timing(request_timeout_s=getattr(request, "param", 60.0))) as made:
        yield made


async def test_requests_reach_it_as_they_are_with_who_asks(setting: Setting) -> None:
    await setting.lead()
    assert await setting.becomes("Passed") == "all checks passed"
    path = f"{ROOT}/namespaces/default/flunders/a%20b?x=%26y"
    forged = {
        "X-Remote-User": "root",
        "X-Remote-Group": "system:masters",
        "X_Remote_User": "root",
        "X-Remote-Extra-Scopes": "all",
    }
    code, said = await setting.json("GET", path, headers=forged | {"X-Own": "kept"})
    assert (code, said["asked"]) == (200, f"GET {path}")
    headers = [(name.lower().replace("_", "-"), value) for name, value in said["headers"]]
    assert [v for n, v in headers if n == "x-remote-user"] == ["kubernetes-admin"]
    assert [v for n, v in headers if n == "x-remote-group"] == ["system:masters", "system:authenticated"]
    assert ("x-own", "kept") in headers
    assert not any(n == "authorization" or n.startswith("x-remote-extra") for n, _ in headers)
    shown = identity_of(setting.extension.seen[-1])
    known = await setting.client.get("configmaps", "extension-apiserver-authentication", "kube-system")
    assert shown == Identity(FRONT_PROXY) and json.loads(known["data"]["requestheader-allowed-names"]) == [FRONT_PROXY]
    impersonated = {"Impersonate-User": "jane", "Impersonate-Group": "dev", "Impersonate-Extra-a%2fb": "c d"}
    await grant(setting.client)
    _, said = await setting.json("GET", f"{ROOT}/namespaces/default/flunders", headers=impersonated)
    told = {n.lower(): v for n, v in said["headers"] if n.lower().startswith(("x-remote", "impersonate"))}
    assert told["x-remote-user"] == "jane" and told["x-remote-extra-a%2Fb".lower()] == "c d"
    assert not any(name.startswith("impersonate") for name in told)


async def grant(client: ApiClient) -> None:
    """Jane may list flunders in the default namespace."""
    rule = {"apiGroups": [GROUP], "resources": ["flunders"], "verbs": ["list"]}
    where = {"name": "flunders", "namespace": "default"}
    await client.create("roles.rbac.authorization.k8s.io", {"metadata": where, "rules": [rule]})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "flunders"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}
    binding = {"metadata": where, "roleRef": role, "subjects": [subject]}
    await client.create("rolebindings.rbac.authorization.k8s.io", binding)


async def test_rights_are_looked_at_before_it_is_asked(setting: Setting) -> None:
    await setting.lead()
    await setting.becomes("Passed")
    await grant(setting.client)
    jane = {"Authorization": "Bearer jane"}
    for method, path, code in (
        ("GET", f"{ROOT}/namespaces/default/flunders", 200),
        ("GET", f"{ROOT}/namespaces/default/flunders?watch=1", 403),
        ("GET", f"{ROOT}/namespaces/other/flunders", 403),
        ("GET", f"{ROOT}/namespaces/default/flunders/a", 403),
        ("DELETE", f"{ROOT}/namespaces/default/flunders", 403),
        ("PUT", f"{ROOT}/namespaces/default/flunders", 403),
        ("GET", f"{ROOT}/namespaces/default/flunders/../../other/flunders", 403),
        ("GET", f"{ROOT}//namespaces/default/flunders", 403),
        ("GET", ROOT, 200),
        ("POST", ROOT, 403),
    ):
        seen = len(setting.extension.seen)
        found, _ = await setting.text(path, method, headers=jane)
        assert (method, path, found) == (method, path, code)
        assert len(setting.extension.seen) == seen + (code == 200)
    odd = URL(f"https://{setting.stack.servers[0].https_address}{ROOT}/flunders/%2e%2e/x", encoded=True)
    async with setting.http.get(odd) as refused:
        assert refused.status == 400 and "must not contain" in await refused.text()


async def test_its_condition_says_why_it_cannot_be_asked(setting: Setting) -> None:
    client, extension = setting.client, setting.extension
    where = {"name": "ext", "namespace": "default"}
    await client.create(APISERVICES, api_service())
    assert await setting.becomes("ServiceNotFound") == 'service/ext in "default" is not present'
    assert await setting.text(f"{ROOT}/flunders") == (503, "service unavailable\n")
    service = {"metadata": where, "spec": {"ports": [{"port": 444, "name": "https"}]}}
    await client.create("services", service)
    assert await setting.becomes("ServicePortError") == 'service/ext in "default" is not listening on port 443'
    await client.patch("services", "ext", "default", {"spec": {"ports": [{"port": 443, "name": "https"}]}})
    said = await setting.becomes("EndpointsNotFound")
    assert said == 'cannot find endpointslices for service/ext in "default"'
    piece = endpoints(extension.port)
    await client.create("endpointslices.discovery.k8s.io", {**piece, "endpoints": []})
    said = await setting.becomes("MissingEndpoints")
    assert said == 'endpointslices for service/ext in "default" have no addresses with port name "https"'
    found = await client.get("endpointslices.discovery.k8s.io", "ext-1", "default")
    await client.update("endpointslices.discovery.k8s.io", {**found, "endpoints": piece["endpoints"]})
    await setting.becomes("Passed")
    await extension.stop()
    await client.patch("services", "ext", "default", {"metadata": {"labels": {"a": "b"}}})
    url = f"https://ext.default.svc:443{ROOT}"
    said = await setting.becomes("FailedDiscoveryCheck")
    assert said.startswith(f"failing or missing response from {url}: dial tcp ") and said.endswith("connection refused")
    await extension.start()
    await setting.becomes("Passed")
    extension.answers[ROOT] = lambda _: answer(web.Response(status=404))
    await client.patch("services", "ext", "default", {"metadata": {"labels": {"a": "c"}}})
    said = await setting.becomes("FailedDiscoveryCheck")
    assert said == f"failing or missing response from {url}: bad status from {url}: 404"
    # A certificate of somebody else; and one that nobody looks at.
    del extension.answers[ROOT]
    other = base64.b64encode(Authority.create("other").cert).decode()
    await client.patch(APISERVICES, f"v1.{GROUP}", "", {"spec": {"caBundle": other}})
    await until_condition(setting, "failed to verify certificate")
    unchecked = {"caBundle": None, "insecureSkipTLSVerify": True}
    await client.patch(APISERVICES, f"v1.{GROUP}", "", {"spec": unchecked})
    await setting.becomes("Passed")


async def until_condition(setting: Setting, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in (await setting.condition())[2]:
            await asyncio.sleep(0.02)


async def answer(response: web.StreamResponse) -> web.StreamResponse:
    return response


async def test_an_external_name_leads_to_a_program_outside(setting: Setting) -> None:
    spec = {"type": "ExternalName", "externalName": "localhost"}
    await setting.client.create("services", {"metadata": {"name": "ext", "namespace": "default"}, "spec": spec})
    where = {"namespace": "default", "name": "ext", "port": setting.extension.port}
    await setting.lead(where=where)
    await setting.becomes("Passed")
    assert (await setting.json("GET", f"{ROOT}/flunders"))[0] == 200


async def test_streams_and_large_bodies_pass_as_they_come(setting: Setting) -> None:
    await setting.lead()
    await setting.becomes("Passed")
    go_on = asyncio.Event()

    async def watch(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"type":"ADDED"}\n')
        await go_on.wait()
        await response.write(b'{"type":"DELETED"}\n')
        return response

    setting.extension.answers[f"{ROOT}/flunders"] = watch
    async with setting.http.get(f"{ROOT}/flunders?watch=true") as events:
        assert await events.content.readline() == b'{"type":"ADDED"}\n'
        go_on.set()
        assert await events.content.readline() == b'{"type":"DELETED"}\n'
    body = bytes(8 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 1 << 20):
            yield body[at : at + (1 << 20)]

    code, said = await setting.json("POST", f"{ROOT}/namespaces/default/flunders", data=pieces())
    assert (code, said["size"]) == (200, len(body))

    async def large(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body)

    setting.extension.answers[f"{ROOT}/flunders"] = large
    async with setting.http.get(f"{ROOT}/flunders") as found:
        assert await found.read() == body


async def test_connections_leave_http_in_whatever_protocol_they_like(setting: Setting) -> None:
    await setting.lead()
    await setting.becomes("Passed")

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=(request.headers["Sec-WebSocket-Protocol"],))  # without the token
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data + request.headers["X-Remote-User"].encode())
        return socket

    path = f"{ROOT}/namespaces/default/flunders/a/console"
    setting.extension.answers[path] = echo
    token = "base64url.bearer.authorization.k8s.io.c2VzYW1l"
    async with setting.http.ws_connect(path, protocols=(token, "v9.example")) as socket:
        assert socket.protocol == "v9.example"
        await socket.send_bytes(b"i am ")
        assert await socket.receive_bytes(timeout=20) == b"i am kubernetes-admin"

    async def own(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=101, headers={"Connection": "Upgrade", "Upgrade": "own/1", "X-A": "b"})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.write(b"hello")
        request.transport.close()
        return response

    setting.extension.answers[path] = own
    upgrade = {"Connection": "Upgrade", "Upgrade": "own/1"}
    async with setting.http.post(path, headers=upgrade) as switched:
        assert (switched.status, switched.headers["X-A"]) == (101, "b")
    # One that refuses, and one that switches unasked.
    setting.extension.answers[path] = lambda _: answer(web.Response(status=400, text="no"))
    assert await setting.text(path, "POST", headers=upgrade) == (400, "no")
    setting.extension.answers[path] = own
    assert (await setting.text(path))[0] == 503


@pytest.mark.parametrize("setting", [3.0], indirect=True)
async def test_what_is_no_stream_has_its_time(setting: Setting) -> None:
    await setting.lead()
    await setting.becomes("Passed")
    never = asyncio.Event()

    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        if request.query:
            await response.prepare(request)
            await response.write(b"some")
        await never.wait()
        return response

    setting.extension.answers[f"{ROOT}/flunders"] = hang
    async with setting.http.get(f"{ROOT}/flunders?watch=true") as watch:
        assert await watch.content.readany() == b"some"
        silent, half = await asyncio.gather(
            setting.text(f"{ROOT}/flunders"), setting.text(f"{ROOT}/flunders?x=y"), return_exceptions=True
        )
        assert silent == (503, "error trying to reach service: context deadline exceeded\n")
        assert isinstance(half, aiohttp.ClientPayloadError)
        assert not watch.content.at_eof()
    never.set()


async def test_one_that_lies_or_dies_costs_its_clients_alone(setting: Setting) -> None:
    await setting.lead()
    await setting.becomes("Passed")

    async def die(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"some")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def garbage(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 O\xffK\r\nX-\xff: \xfe\r\n\r\n")
        request.transport.close()
        return web.Response()

    answers = setting.extension.answers
    answers |= {f"{ROOT}/die": die, f"{ROOT}/garbage": garbage}
    moved = web.Response(status=302, headers={"Location": "https://127.0.0.1/secret"})
    answers[f"{ROOT}/moved"] = lambda _: answer(moved)
    with pytest.raises(aiohttp.ClientPayloadError):
        await setting.text(f"{ROOT}/die")
    assert (await setting.text(f"{ROOT}/garbage"))[0] == 503
    refused = "the backend attempted to redirect this request, which is not permitted"
    assert await setting.text(f"{ROOT}/moved") == (502, refused)
    assert (await setting.json("GET", f"{ROOT}/flunders"))[0] == 200
    assert (await setting.json("GET", "/api/v1/namespaces"))[0] == 200


async def test_discovery_tells_of_it_among_the_others_and_marks_what_is_stale(setting: Setting) -> None:
    await setting.lead()
    await setting.becomes("Passed")
    _, groups = await setting.json("GET", "/apis")
    names = [group["name"] for group in groups["groups"]]
    assert names.index("storagemigration.k8s.io") < names.index(GROUP) < names.index("metrics.k8s.io")
    _, group = await setting.json("GET", f"/apis/{GROUP}")
    assert group["preferredVersion"] == {"groupVersion": f"{GROUP}/v1", "version": "v1"}
    assert await setting.json("GET", ROOT) == (200, DISCOVERY)
    (version,) = await versions(setting)
    assert version["freshness"] == "Current"
    (resource,) = version["resources"]
    assert (resource["resource"], resource["shortNames"], resource["scope"]) == ("flunders", ["fl"], "Namespaced")
    assert resource["subresources"][0]["subresource"] == "status"
    # Another version, which is preferred, and whose server says nothing of use.
    setting.extension.answers[f"/apis/{GROUP}/v2"] = lambda _: answer(web.Response(text="[1]"))
    await setting.client.create(APISERVICES, api_service(version="v2", versionPriority=20))
    await setting.becomes("Passed", f"v2.{GROUP}")
    newer, older = await versions(setting)
    assert (newer["version"], newer["freshness"], newer["resources"]) == ("v2", "Stale", [])
    assert (older["version"], older["freshness"]) == ("v1", "Current")
    await setting.extension.stop()
    await setting.client.patch("services", "ext", "default", {"metadata": {"labels": {"a": "b"}}})
    await setting.becomes("FailedDiscoveryCheck")
    _, older = await versions(setting)
    assert (older["freshness"], [r["resource"] for r in older["resources"]]) == ("Stale", ["flunders"])
    assert await setting.text(ROOT) == (503, "service unavailable\n")
    for version_ in ("v1", "v2"):
        await setting.client.delete(APISERVICES, f"{version_}.{GROUP}")
    async with asyncio.timeout(20):
        while (await setting.text(ROOT))[0] != 404:
            await asyncio.sleep(0.02)
    assert await versions(setting) == []
    await setting.extension.start()


async def versions(setting: Setting) -> list[Object]:
    """The versions of the group in aggregated discovery."""
    _, found = await setting.json("GET", "/apis", headers={"Accept": V2})
    return [v for group in found["items"] if group["metadata"]["name"] == GROUP for v in group["versions"]]


async def test_openapi_describes_it_and_it_cannot_spoil_what_it_is_among(setting: Setting) -> None:
    answers, key = setting.extension.answers, ROOT.removeprefix("/")
    document = openapi()
    root = {"paths": {key: {"serverRelativeURL": f"/openapi/v3/{key}?hash=1"}, "api/v1": {"serverRelativeURL": "/x"}}}
    answers["/openapi/v3"] = lambda _: answer(web.json_response(root))
    answers[f"/openapi/v3/{key}"] = lambda _: answer(web.json_response(document))
    await setting.lead()
    await setting.becomes("Passed")
    _, ours = await setting.json("GET", "/openapi/v3")
    assert ours["paths"][key] == root["paths"][key]
    assert ours["paths"]["api/v1"]["serverRelativeURL"].startswith("/openapi/v3/api/v1?hash=")
    assert await setting.json("GET", f"/openapi/v3/{key}?hash=1") == (200, document)
    _, whole = await setting.json("GET", "/openapi/v2")
    assert whole["definitions"]["com.example.v1.Flunder"]["type"] == "object"
    assert whole["definitions"]["io.k8s.api.core.v1.Pod"]["properties"].keys() > {"spec"}
    assert f"{ROOT}/flunders" in whole["paths"] and "/api/v1/pods" in whole["paths"]
    assert "delete" in whole["paths"]["/api/v1/nodes"]
    await setting.client.delete(APISERVICES, f"v1.{GROUP}")
    document["components"]["schemas"]["com.example.v1.Flunder"] = [1]
    await setting.client.create(APISERVICES, api_service())
    await setting.becomes("Passed")
    protobuf = {"Accept": "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"}
    async with setting.http.get("/openapi/v2", headers=protobuf) as found:
        assert found.status == 200 and b"com.example" not in await found.read()


def openapi() -> Any:
    """A document that describes flunders, and pods and nodes as they are not."""
    done = {"200": {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}}
    paths = {path: {"get": {"operationId": "x", "responses": done}} for path in (f"{ROOT}/flunders", "/api/v1/nodes")}
    schemas = {"com.example.v1.Flunder": {"type": "object"}, "io.k8s.api.core.v1.Pod": {"type": "string"}}
    return {"openapi": "3.0.0", "info": {}, "paths": paths, "components": {"schemas": schemas}}


async def test_metrics_are_ours_until_a_user_brings_a_server_of_them(setting: Setting) -> None:
    name, path = "v1beta1.metrics.k8s.io", "/apis/metrics.k8s.io/v1beta1/nodes"
    assert (await setting.condition(name))[1] == "Local"
    assert (await setting.json("GET", path))[1]["kind"] == "NodeMetricsList"
    rows = {**DISCOVERY, "groupVersion": "metrics.k8s.io/v1beta1"}
    setting.extension.answers["/apis/metrics.k8s.io/v1beta1"] = lambda _: answer(web.json_response(rows))
    await setting.lead()
    target = {"service": {"namespace": "default", "name": "ext"}, "insecureSkipTLSVerify": True}
    await setting.client.patch(APISERVICES, name, "", {"spec": target})
    await setting.becomes("Passed", name)
    assert (await setting.json("GET", path))[1]["asked"] == f"GET {path}"
    gone = {"service": None, "insecureSkipTLSVerify": None}
    await setting.client.patch(APISERVICES, name, "", {"spec": gone})
    await setting.becomes("Local", name)
    assert (await setting.json("GET", path))[1]["kind"] == "NodeMetricsList"


async def test_a_namespace_ends_when_its_objects_there_are_gone_and_tells_why_it_does_not(setting: Setting) -> None:
    await setting.lead()
    await setting.becomes("Passed")
    path, client = f"{ROOT}/namespaces/doomed/flunders", setting.client
    held = {"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/f"]}}
    kept: list[Object] = [{"metadata": {"name": "b"}}]
    deletes: list[str] = []

    async def flunders(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "DELETE":
            deletes.append(request.headers["X-Remote-User"])
            kept[:] = [held]
        return web.json_response({"kind": "FlunderList", "items": kept})

    setting.extension.answers[path] = flunders
    await client.create("namespaces", {"metadata": {"name": "doomed"}})
    await client.delete("namespaces", "doomed")
    purger = NamespacePurger(client, lambda: datetime(2026, 1, 1, tzinfo=UTC))

    async def look() -> dict[str, str]:
        """One look; what the namespace tells of it."""
        namespace = await client.get("namespaces", "doomed")
        with contextlib.suppress(ActionFailed):
            await purger.purge(PurgeNamespace(namespace))
        status = meta.status(await client.get("namespaces", "doomed"))
        return {c["type"]: c["message"] for c in status.get("conditions") or () if c["status"] == "True"}

    assert await look() == {} and deletes == ["kubernetes-admin"]
    assert await look() == {
        "NamespaceContentRemaining": "Some resources are remaining: flunders.example.com has 1 resource instances",
        "NamespaceFinalizersRemaining": "Some content in the namespace has finalizers remaining: "
        "example.com/f in 1 resource instances",
    }
    await setting.extension.stop()
    await client.patch("services", "ext", "default", {"metadata": {"labels": {"a": "b"}}})
    await setting.becomes("FailedDiscoveryCheck")
    stale = f"{GROUP}/v1: stale GroupVersion discovery: {GROUP}/v1"
    failing = (
        f"Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: {stale}"
    )
    assert await look() == {"NamespaceDeletionDiscoveryFailure": failing}
    await setting.extension.start()
    await setting.becomes("Passed")
    kept.clear()
    with pytest.raises(NotFound):
        for _ in range(5):
            await look()
