"""Gets that are answered without a request: the answers are those of the common way, and so are all refusals."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from rayplane.control_plane.apiserver.rest.resources import ResourceHandler
from tests.apiserver.secure import Cluster, cluster  # noqa: F401

_LENGTH = re.compile(rb"Content-Length: (\d+)")
POD = "/api/v1/namespaces/default/pods/p"
PLAIN = "Host: a\r\nAccept: application/json\r\nUser-Agent: kubelet/v1\r\nAccept-Encoding: gzip\r\n"


class Client:
    """One connection with a client certificate."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def ask(self, path: str, headers: str = PLAIN, method: str = "GET") -> tuple[bytes, bytes]:
        """The head, without its date, and the body."""
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode())
        async with asyncio.timeout(10):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert length is not None
            body = await self._reader.readexactly(int(length[1])) if method != "HEAD" else b""
        return re.sub(rb"Date: [^\r]*\r\n", b"", head), body


Connect = Callable[..., Awaitable[Client]]


@pytest_asyncio.fixture
async def connect(cluster: Cluster) -> AsyncIterator[Connect]:  # noqa: F811
    """Connections to one of the servers, in somebody's name."""
    made: list[Client] = []

    async def connect(user: str, *groups: str, server: int = 0) -> Client:
        directory = cluster.directory / user
        cluster.authority.issue(user, groups).write(directory)
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        host, _, port = cluster.servers[server].https_address.rpartition(":")
        made.append(Client(*await asyncio.open_connection(host, int(port), ssl=context)))
        # The first request of a connection may come before its parser is there.
        await made[-1].ask("/version")
        return made[-1]

    yield connect
    for client in made:
        client.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await client.writer.wait_closed()


@pytest_asyncio.fixture
async def common(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """The paths of requests that went the common way."""
    found: list[str] = []
    handle = ResourceHandler.handle

    async def seen(self: ResourceHandler, request: web.BaseRequest, *rest: Any) -> web.StreamResponse:
        found.append(request.path)
        return await handle(self, request, *rest)

    monkeypatch.setattr(ResourceHandler, "handle", seen)
    yield found


@pytest.mark.parametrize(
    "path",
    [
        POD,
        "/api/v1/namespaces/default",
        "/api/v1/nodes/n1",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
    ],
)
async def test_an_answer_is_that_of_the_common_way(connect: Connect, common: list[str], path: str) -> None:
    client = await connect("admin", "system:masters")
    quick = await client.ask(path)
    assert not common and quick[0].startswith(b"HTTP/1.1 200 OK")
    assert await client.ask(path, PLAIN + "X-Other: 1\r\n") == quick
    assert common == [path]


@pytest.mark.parametrize(
    ("path", "headers", "method"),
    [
        (POD + "?pretty=1", PLAIN, "GET"),
        (POD, PLAIN, "HEAD"),
        (POD + "/status", PLAIN, "GET"),
        (POD, PLAIN + "Accept: application/yaml\r\n", "GET"),
        (POD, "Host: a\r\nAccept: application/json;as=Table;v=v1;g=meta.k8s.io\r\n", "GET"),
        (POD, "Host: a\r\nAccept: image/png\r\n", "GET"),
        (POD, "Host: a\r\nUser-Agent: curl/8\r\n", "GET"),
        (POD, PLAIN + "Impersonate-User: jane\r\n", "GET"),
        (POD, PLAIN + "Connection: close\r\n", "GET"),
        (POD, PLAIN + "Content-Length: 0\r\n", "GET"),
        (POD, PLAIN + "Kubectl-Command: get\r\n" * 200, "GET"),
        ("/api/v1/watch/namespaces/default/configmaps/x", PLAIN, "HEAD"),
        ("/api/v1/namespaces/default/pods/none", PLAIN, "GET"),
        ("/api/v1/namespaces/default/nodes/n1", PLAIN, "GET"),
        ("/api/v1/pods/p", PLAIN, "GET"),
        ("/api/v1/namespaces/default/../default/pods/p", PLAIN, "GET"),
        ("/api/v1/componentstatuses/scheduler", PLAIN, "GET"),
        ("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/x", PLAIN, "GET"),
    ],
)
async def test_what_is_not_plain_goes_the_common_way(
    connect: Connect, common: list[str], path: str, headers: str, method: str
) -> None:
    client = await connect("admin", "system:masters")
    await client.ask(path, headers, method)
    assert common


async def test_rights_are_looked_at_each_time(
    cluster: Cluster,  # noqa: F811
    connect: Connect,
    common: list[str],
) -> None:
    client, admin = await connect("jane"), cluster.client()
    head, body = await client.ask(POD)
    assert head.startswith(b"HTTP/1.1 403") and b'User \\"jane\\" cannot get resource \\"pods\\"' in body
    role: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "r", "namespace": "default"},
    }
    await admin.create(
        "roles.rbac.authorization.k8s.io",
        role | {"kind": "Role", "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
    )
    api = {"apiGroup": "rbac.authorization.k8s.io"}
    subject = {"roleRef": api | {"kind": "Role", "name": "r"}, "subjects": [api | {"kind": "User", "name": "jane"}]}
    await admin.create("rolebindings.rbac.authorization.k8s.io", role | {"kind": "RoleBinding"} | subject)
    assert (await client.ask(POD))[0].startswith(b"HTTP/1.1 200")
    common.clear()
    assert (await client.ask(POD))[0].startswith(b"HTTP/1.1 200") and not common
    await admin.delete("rolebindings.rbac.authorization.k8s.io", "r", "default")
    await cluster.servers[0].registry.hub.fresh()
    assert (await client.ask(POD))[0].startswith(b"HTTP/1.1 403")


async def test_a_write_through_another_server_is_seen(
    cluster: Cluster,  # noqa: F811
    connect: Connect,
    common: list[str],
) -> None:
    client = await connect("admin", "system:masters", server=1)
    for number in range(20):
        labels = {"metadata": {"labels": {"n": f"v{number}"}}}
        await cluster.client().patch("pods", "p", "default", labels)
        assert f'"n":"v{number}"'.encode() in (await client.ask(POD))[1]
    assert not common


@pytest.mark.slow
async def test_while_the_stream_hangs_etcd_itself_is_asked(
    cluster: Cluster,  # noqa: F811
    connect: Connect,
    common: list[str],
) -> None:
    client = await connect("admin", "system:masters")
    cluster.etcd.frozen = True
    key = b"/registry/pods/default/p"
    await cluster.etcd.put(key, cluster.etcd.live[key].value.replace(b'"n1"', b'"n2"'))
    assert b'"n2"' in (await client.ask(POD))[1]
    assert common == [POD]
    cluster.etcd.frozen = False
