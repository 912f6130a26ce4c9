"""Ingress: the routing table, and real HTTP to real processes."""

import asyncio
import errno
import socket
import sys
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.ingress.hygiene import fault
from rayplane.node.ingress.routes import BackendRef, RoutingTable
from rayplane.node.runtime import pod_network
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.isolated import Isolating, isolating, make_isolating
from tests.node.test_proxy import endpoint, service, slices
from tests.ports import free_port

__all__ = ["make_isolating"]
MakeHost = Callable[..., Awaitable[NodeHost]]

WEB = """
import os
from aiohttp import WSMsgType, web

async def handle(request):
    body = await request.text()
    if request.path == "/api/die":
        os._exit(1)
    if request.path == "/api/ws":
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(os.environ["HOSTNAME"] + ":" + message.data)
        return ws
    h = request.headers
    text = f"{os.environ['HOSTNAME']} {request.method} {request.path_qs} {h['Host']} {h['X-Forwarded-For']} {body}"
    return web.Response(text=text, status=202, headers={"X-Own": "yes"})

app = web.Application()
app.router.add_route("*", "/{tail:.*}", handle)
web.run_app(app, host=os.environ["POD_IP"], port=18082, print=None)
"""


def ingress(name: str, *rules: tuple[str, str, str, str], age: int = 0, **spec: object) -> Object:
    """Rules as (host, path, path type, service)."""
    parts = [
        {
            "host": host,
            "http": {
                "paths": [
                    {"path": path, "pathType": kind, "backend": {"service": {"name": to, "port": {"number": 80}}}}
                ]
            },
        }
        for host, path, kind, to in rules
    ]
    metadata = {"name": name, "namespace": "default", "creationTimestamp": f"2026-01-01T00:00:{age:02d}Z"}
    return {"metadata": metadata, "spec": {"rules": parts, **spec}}


def found(table: RoutingTable, host: str, path: str) -> str | None:
    backend = table.find(host, path)
    return backend.backend.service if backend is not None and backend.backend is not None else None


def test_paths() -> None:
    table = RoutingTable(
        [ingress("i", ("", "/", "Prefix", "root"), ("", "/foo", "Prefix", "foo"), ("", "/foo/bar", "Exact", "bar"))]
    )
    cases = {"/": "root", "/x": "root", "/foo": "foo", "/foo/": "foo", "/foobar": "root", "/foo/bar": "bar"}
    assert {path: found(table, "any", path) for path in cases} == cases
    assert found(table, "any", "/foo/bar/x") == "foo"


def test_hosts() -> None:
    rules = [("a.example.com", "/", "Prefix", "exact"), ("*.example.com", "/", "Prefix", "wild")]
    table = RoutingTable([ingress("i", *rules)])
    assert found(table, "A.example.com:8080", "/") == "exact"
    assert found(table, "b.example.com", "/") == "wild"
    assert found(table, "c.b.example.com", "/") is None
    assert found(table, "example.com", "/") is None


def test_the_older_ingress_wins_and_foreign_classes_are_ignored() -> None:
    young = ingress("young", ("h", "/", "Prefix", "young"), age=9)
    old = ingress("old", ("h", "/", "Prefix", "old"), age=1)
    foreign = ingress("foreign", ("h", "/", "Exact", "foreign"), ingressClassName="other")
    assert found(RoutingTable([young, foreign, old]), "h", "/") == "old"


def test_default_backend() -> None:
    backend = {"service": {"name": "fallback", "port": {"name": "http"}}}
    table = RoutingTable([ingress("i", ("h", "/a", "Exact", "a"), defaultBackend=backend)])
    found = table.find("other", "/")
    assert found is not None and found.backend == BackendRef("default", "fallback", "http")


@given(st.lists(st.sampled_from(["/", "/a", "/a/", "/a/b", "/ab"]), unique=True), st.sampled_from(["a", "ab", "b"]))
def test_prefixes_match_whole_elements(prefixes: list[str], last: str) -> None:
    """Against the plain definition: the longest prefix whose elements begin the path's elements."""
    path = f"/a/{last}"
    table = RoutingTable([ingress("i", *(("", p, "Prefix", p) for p in prefixes))])

    def elements(text: str) -> list[str]:
        return [e for e in text.split("/") if e]

    matching = [p for p in prefixes if elements(path)[: len(elements(p))] == elements(p)]
    longest = max((len(elements(p)) for p in matching), default=None)
    result = found(table, "any", path)
    assert (longest is None) == (result is None)
    if result is not None:
        assert len(elements(result)) == longest


@pytest.mark.parametrize(
    ("lengths", "codings", "refused"),
    [
        ([], [], False),
        (["4"], [], False),
        ([], ["chunked"], False),
        (["4"], ["chunked"], True),
        ([], ["gzip, chunked"], True),
        ([], ["chunked", "chunked"], True),
        (["4", "4"], [], True),
        (["+4"], [], True),
        (["\u0664"], [], True),
    ],
)
def test_a_body_is_framed_in_one_way(lengths: list[str], codings: list[str], refused: bool) -> None:
    assert bool(fault("/", "/", ["h"], lengths, codings)) is refused


HOSTS = ["a.x", "b.x", "*.x", "*.a.x", ""]
PATHS = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c"]
KINDS = ["Exact", "Prefix", "ImplementationSpecific"]
RULES = st.tuples(st.sampled_from(HOSTS), st.sampled_from(PATHS), st.sampled_from(KINDS))


@given(
    st.lists(RULES, unique=True, max_size=8),
    st.sampled_from(["a.x", "b.x", "c.x", "d.a.x", "x", "y"]),
    st.sampled_from([*PATHS, "/abc", "/b", "/a/b/"]),
)
def test_a_request_goes_where_the_plain_definition_says(
    rules: list[tuple[str, str, str]], host: str, path: str
) -> None:
    """The most specific host, of its paths the longest, of equal ones the exact, then the first."""
    ingresses = [ingress(f"i{n}", (*rule, f"s{n}"), age=n) for n, rule in enumerate(rules)]

    def of_host(rule: str) -> int:
        if rule == host:
            return 3
        first, _, rest = host.partition(".")
        if rule.startswith("*.") and first and rest == rule[2:]:
            return 2
        return 1 if not rule else 0

    def fits(rule: str, kind: str) -> bool:
        if kind == "Exact":
            return path == rule
        wanted, given_ = ([e for e in text.split("/") if e] for text in (rule, path))
        return given_[: len(wanted)] == wanted

    ranked = [
        (of_host(h), len(p.rstrip("/")), kind == "Exact", -n, f"s{n}")
        for n, (h, p, kind) in enumerate(rules)
        if of_host(h) and fits(p, kind)
    ]
    assert found(RoutingTable(ingresses), host, path) == (max(ranked)[-1] if ranked else None)


@pytest.fixture
def address() -> str:
    return f"127.98.0.1:{free_port()}"


@pytest.mark.processes
async def test_requests_reach_pods(api: FakeClient, make_host: MakeHost, address: str) -> None:
    await make_host(NodeConfig("n1", runtime="process"), ingress_address=address)
    probe = {"readinessProbe": {"tcpSocket": {"port": 18082}, "periodSeconds": 1}}
    for name in ("a", "b"):
        api.put("pods", make_pod(name, container={"command": [sys.executable, "-c", WEB], **probe}))
    api.put("services", service())
    api.put("ingresses.networking.k8s.io", ingress("i", ("web.local", "/api", "Prefix", "web")))
    async with aiohttp.ClientSession(f"http://{address}", headers={"Host": "web.local"}) as client:

        async def status(path: str) -> int:
            async with client.get(path) as answer:
                return answer.status

        while await status("/api") != 503:
            await asyncio.sleep(0.01)
        assert await status("/other") == 404
        await api.until(lambda: all(pod_is_ready(api.pod(n)) for n in ("a", "b")))
        pods = [endpoint(api.pod(n)["status"]["podIP"]) for n in ("a", "b")]
        api.put("endpointslices.discovery.k8s.io", slices(*pods, port=18082)[0])
        while await status("/api") != 202:
            await asyncio.sleep(0.01)
        async with client.post("/api/x?q=1&r=%20", data=b"hello") as answer:
            name, *rest = (await answer.text()).split(" ")
            assert name in ("a", "b")
            assert rest == ["POST", "/api/x?q=1&r=%20", "web.local", "127.0.0.1", "hello"]
            assert answer.headers["X-Own"] == "yes"
        async with client.ws_connect("/api/ws") as ws:
            await ws.send_str("ping")
            assert (await ws.receive_str()).endswith(":ping")
        # A request that may be repeated survives the death of one endpoint.
        api.put("endpointslices.discovery.k8s.io", slices(*pods, endpoint("127.77.1.250"), port=18082)[0])
        assert {await status("/api") for _ in range(6)} == {202}
        # One that may not is answered 502 when the endpoint dies of it.
        async with client.post("/api/die") as answer:
            assert answer.status == 502
    await api.until(
        lambda: (
            meta.status(api.objects["ingresses.networking.k8s.io"]["default/i"])
            == {"loadBalancer": {"ingress": [{"ip": "127.98.0.1"}]}}
        )
    )


@isolating
@pytest.mark.processes
@pytest.mark.parametrize("cluster_ip", ["10.78.1.1", "None"], ids=["of an address", "headless"])
async def test_requests_reach_isolated_pods_though_the_machine_keeps_their_services_ports(
    api: FakeClient, make_isolating: Isolating, address: str, cluster_ip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = pod_network.bound

    def bound_by_a_user(sock: socket.socket, ip: str, port: int) -> socket.socket:
        if ip.startswith("127.") and port < 1024:
            sock.close()
            raise PermissionError(errno.EACCES, "Permission denied")
        return bound(sock, ip, port)

    monkeypatch.setattr(pod_network, "bound", bound_by_a_user)
    await make_isolating(NodeConfig("n1", runtime="process"), ingress_address=address)
    probe = {"readinessProbe": {"tcpSocket": {"port": 18082}, "periodSeconds": 1}}
    web = make_pod("a", container={"command": ["python3", "-m", "http.server", "18082", "-d", "/etc"], **probe})
    api.put("pods", web)
    api.put("services", service(clusterIP=cluster_ip))
    api.put("ingresses.networking.k8s.io", ingress("i", ("web.local", "/", "Prefix", "web")))
    await api.until(lambda: pod_is_ready(api.pod("a")))
    api.put("endpointslices.discovery.k8s.io", slices(endpoint(api.pod("a")["status"]["podIP"]), port=18082)[0])
    async with aiohttp.ClientSession(f"http://{address}", headers={"Host": "web.local"}) as client:
        told = 503, ""
        while told[0] == 503:
            async with client.get("/hostname") as answer:
                told = answer.status, await answer.text()
        assert told == (200, "a\n")
