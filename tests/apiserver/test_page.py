"""The dashboard's page below /ui/ of an API server: for everybody to load, where it is asked for, and nothing else."""

import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from tests.apiserver.secure import Cluster, cluster

__all__ = ["cluster"]


@pytest_asyncio.fixture
async def http(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    """Nobody, who asks the first server; only that has the page."""
    tls = ssl.create_default_context(cadata=cluster.authority.cert.decode())
    url = f"https://{cluster.servers[0].https_address}"
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(ssl=tls)) as session:
        yield session


async def test_a_browser_that_shows_nothing_gets_the_page_and_nothing_of_the_cluster(
    http: aiohttp.ClientSession,
) -> None:
    async with http.get("/ui", allow_redirects=False) as moved:
        assert (moved.status, moved.headers["Location"]) == (301, "/ui/")
    for path, kind in (("/ui/", "text/html"), ("/ui/main.js", "text/javascript"), ("/ui/style.css", "text/css")):
        async with http.get(path) as found:
            assert (found.status, found.content_type) == (200, kind)
            assert "connect-src 'self'" in found.headers["Content-Security-Policy"]
    async with http.get("/api/v1/pods") as refused:
        assert refused.status == 403


@pytest.mark.parametrize("path", ["nothing.js", "../dashboard/gateway.py", "%2e%2e/gateway.py", "/main.js"])
async def test_nothing_but_the_page_is_below_it(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(URL(f"/ui/{path}", encoded=True)) as found:
        assert found.status in (403, 404)


async def test_a_server_that_was_not_asked_for_it_has_none(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    async with http.get(f"https://{cluster.servers[1].https_address}/ui/") as found:
        assert found.status == 404
