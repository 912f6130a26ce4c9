"""Requests through the API server to pods, services and nodes."""

import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.apiserver.secure import Cluster, cluster

__all__ = ["cluster"]
REFUSED = "cannot connect to 127.0.0.1:9: Connection refused"
SPACE = "/api/v1/namespaces/default"


@pytest_asyncio.fixture
async def http(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    tls = ssl.create_default_context(cadata=cluster.authority.cert.decode())
    connector = aiohttp.TCPConnector(ssl=tls)
    url, headers = f"https://{cluster.balancer.address}", {"Authorization": "Bearer sesame", "X-Own": "kept"}
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as session:
        yield session


async def text(http: aiohttp.ClientSession, path: str, method: str = "GET", **options: object) -> str:
    async with http.request(method, path, **options) as answer:  # type: ignore[arg-type]
        assert answer.status == 200, await answer.text()
        return await answer.text()


async def test_a_pod_is_asked_what_the_client_asks(http: aiohttp.ClientSession) -> None:
    asked = (await text(http, f"{SPACE}/pods/p:8080/proxy/a%20b/c?d=e")).split("\r\n")
    assert asked[0] == "GET /a%20b/c?d=e HTTP/1.1"
    assert "X-Own: kept" in asked
    assert f"X-Forwarded-Uri: {SPACE}/pods/p:8080/proxy/a%20b/c" in asked
    # Who the client is, is for the API server alone.
    assert not any(line.lower().startswith("authorization") for line in asked)
    assert (await text(http, f"{SPACE}/pods/http:p:/proxy/")).startswith("GET / HTTP/1.1")
    posted = await text(http, f"{SPACE}/pods/p/proxy/x", "POST", data=b"body")
    assert posted.startswith("POST /x HTTP/1.1")


async def test_redirections_stay_below_the_pod(http: aiohttp.ClientSession) -> None:
    async with http.get(f"{SPACE}/pods/p/proxy", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (301, f"{SPACE}/pods/p/proxy/")
    async with http.get(f"{SPACE}/pods/p/proxy/moved", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, f"{SPACE}/pods/p/proxy/there")


async def test_links_of_a_page_stay_below_the_pod(http: aiohttp.ClientSession) -> None:
    page = await text(http, f"{SPACE}/pods/p/proxy/page", headers={"Accept": "text/html"})
    assert page == f'<a href="{SPACE}/pods/p/proxy/there">there</a>'
    asked = await text(http, f"{SPACE}/pods/p/proxy/x", headers={"Accept": "text/html,*/*", "Accept-Encoding": "br"})
    assert "Accept-Encoding: identity" in asked.split("\r\n")
    async with http.head(f"{SPACE}/pods/p/proxy/page") as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, "26")


@pytest.mark.parametrize("of", [f"{SPACE}/pods/p", "/api/v1/nodes/n1"])
async def test_what_pods_show_is_of_no_origin_where_the_dashboards_page_is(cluster: Cluster, of: str) -> None:
    said = []
    for server in cluster.servers:
        tls = ssl.create_default_context(cadata=cluster.authority.cert.decode())
        url, headers = f"https://{server.https_address}", {"Authorization": "Bearer sesame"}
        connector = aiohttp.TCPConnector(ssl=tls)
        async with (
            aiohttp.ClientSession(url, headers=headers, connector=connector) as session,
            session.get(f"{of}/proxy/healthz") as answer,
        ):
            assert answer.status == 200
            said.append([words for words in answer.headers.getall("Content-Security-Policy", []) if "sandbox" in words])
    [[with_page], without] = said
    assert "allow-same-origin" not in with_page and without == []


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        (
            f"{SPACE}/pods/p:9/proxy/",
            503,
            f"error trying to reach service: {REFUSED}",
        ),
        (f"{SPACE}/pods/ftp:p:80/proxy/", 400, 'invalid pod request "ftp:p:80"'),
        (f"{SPACE}/pods/p:http/proxy/", 400, 'a port of a pod is a number from 1 to 65535, not "http"'),
        (f"{SPACE}/pods/none/proxy/", 404, 'pods "none" not found'),
        (f"{SPACE}/services/none/proxy/", 404, 'services "none" not found'),
        (f"{SPACE}/services/web:81/proxy/", 503, 'no service port 81 found for service "web"'),
        (f"{SPACE}/services/web:other/proxy/", 503, 'no endpoints available for service "web"'),
        ("/api/v1/nodes/none/proxy/healthz", 404, 'nodes "none" not found'),
    ],
)
async def test_what_cannot_be_reached_is_told(
    cluster: Cluster, http: aiohttp.ClientSession, path: str, code: int, message: str
) -> None:
    spec = {"selector": {"a": "b"}, "ports": [{"port": 80, "name": "http"}]}
    await cluster.client().create("services", {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    async with http.get(path) as answer:
        assert (answer.status, (await answer.json())["message"]) == (code, message)


async def test_a_service_leads_to_a_ready_pod_by_the_ports_name_or_number(
    cluster: Cluster, http: aiohttp.ClientSession
) -> None:
    client = cluster.client()
    spec = {"selector": {"a": "b"}, "ports": [{"port": 80, "name": "http", "targetPort": 8000}]}
    await client.create("services", {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    metadata = {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}}
    target = {"kind": "Pod", "name": "p", "namespace": "default"}
    ends = [
        {"addresses": ["127.0.0.3"], "conditions": {"ready": True}, "targetRef": target},
        {"addresses": ["127.0.0.4"], "conditions": {"ready": False}, "targetRef": {**target, "name": "not-ready"}},
    ]
    ports = [{"name": "http", "port": 8000, "protocol": "TCP"}]
    piece = {"metadata": metadata, "addressType": "IPv4", "endpoints": ends, "ports": ports}
    await client.create("endpointslices.discovery.k8s.io", piece)
    for name in ("web:http", "web:80", "http:web:http"):
        assert (await text(http, f"{SPACE}/services/{name}/proxy/x")).endswith("\r\n8000")


async def test_a_node_tells_of_itself(http: aiohttp.ClientSession) -> None:
    node = "/api/v1/nodes/n1/proxy"
    for path in ("healthz", "pods", "stats/summary", "runningpods"):
        assert await text(http, f"{node}/{path}") == f"{path} of n1\n"
    asked = "verbose&exclude=a%20b"
    assert await text(http, f"{node}/healthz?{asked}") == f"healthz of n1 {asked}\n"
    async with http.get(f"{node}/run/") as answer:
        assert (answer.status, await answer.text()) == (404, "run of n1\n")


async def test_a_node_tells_its_metrics_in_the_format_that_is_asked_for(http: aiohttp.ClientSession) -> None:
    path = "/api/v1/nodes/n1/proxy/metrics"
    async with http.get(path, headers={"Accept": "text/plain, \u00e4"}) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert await answer.text() == "metrics of n1\n"
    async with http.get(path, headers={"Accept": "application/openmetrics-text"}) as answer:
        assert (answer.status, (await answer.json())["message"]) == (503, "the host ends")


async def test_it_takes_the_right_to_the_subresource(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    headers = {"Impersonate-User": "jane"}
    for method, path, what in (
        ("GET", f"{SPACE}/pods/p/proxy/", 'cannot get resource "pods/proxy"'),
        ("POST", "/api/v1/nodes/n1/proxy/healthz", 'cannot create resource "nodes/proxy"'),
    ):
        async with http.request(method, path, headers=headers) as answer:
            assert answer.status == 403
            assert what in (await answer.json())["message"]
