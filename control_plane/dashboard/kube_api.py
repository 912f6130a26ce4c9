"""Requests of the page handed on to the API servers, by the load balancer or, while that is away, to one of them."""

import ssl

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from rayplane.control_plane.api.errors import ServiceUnavailable
from rayplane.control_plane.cluster.readiness import client_ssl
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import reverse_proxy, subprotocols
from rayplane.control_plane.rpc.errors import reason_of
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.streams.wires import wants_websocket

CONNECT_S = 5.0
# What concerns the gateway alone, or would make an API server look for who is behind it.
_OWN = ("Host", "Origin", "Referer", "Cookie", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")
# Begin the headers by which a caller speaks for others: nothing for the scripts of a pod's page.
_WHO = ("impersonate-", "x-remote-")


class KubeApi:
    """The way to the API servers of one cluster, with the administrator's certificate or with a token alone."""

    def __init__(self, directory: StateDir) -> None:
        self._directory = directory
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._retired: list[aiohttp.ClientSession] = []
        self._read_at = 0

    async def close(self) -> None:
        self._retire()
        while self._retired:
            await self._retired.pop().close()

    async def forward(
        self, request: web.BaseRequest, body: reverse_proxy.Body, *, token: str, below: str = ""
    ) -> web.StreamResponse:
        """The answer to the request, asked with `token`, or with the certificate where that is empty.

        `below`: the path where the request's own begins, which is a pod's; cookies are between that and the browser.
        Raises ServiceUnavailable.
        """
        headers = reverse_proxy.request_headers(request)
        cookies = headers.getall("Cookie", []) if below else []
        says_who = [name for name in headers if below and name.lower().startswith(_WHO)]
        for name in (*_OWN, "Authorization", *says_who):
            headers.popall(name, None)
        headers.extend(("Cookie", one) for one in cookies)
        subprotocols.drop_token(headers)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        errors = []
        for server in self._servers():
            url = f"https://{server}{below}{request.raw_path}"
            try:
                return await self._ask(request, url, headers, body, token=token, below=below)
            except aiohttp.WSServerHandshakeError as e:
                return web.Response(status=e.status, text=f"{e.message}\n")
            except (aiohttp.ClientConnectorError, TimeoutError) as e:
                errors.append(f"{server}: {reason_of(e)}")
            except (reverse_proxy.Broken, aiohttp.ClientError) as e:
                # It may have been carried out: only who asked can know whether to ask again.
                raise ServiceUnavailable(f"{server} did not answer: {reason_of(e)}; try again") from e
        raise ServiceUnavailable(f"no API server answers; see `rayplane status` ({'; '.join(errors)})")

    async def _ask(
        self,
        request: web.BaseRequest,
        url: str,
        headers: CIMultiDict[str],
        body: reverse_proxy.Body,
        *,
        token: str,
        below: str,
    ) -> web.StreamResponse:
        session = self._session(bare=bool(token))
        if wants_websocket(request):
            return await reverse_proxy.forward_websocket(request, session, url, headers)

        def located(location: str) -> str:
            """Where a pod's page leads to within itself is at the path that the browser knows."""
            return location.removeprefix(below) if location.startswith(f"{below}/") else location

        def starting(told: CIMultiDict[str]) -> None:
            """Sites that a pod's page leads to are not told its name."""
            if below:
                told["Referrer-Policy"] = "same-origin"

        return await reverse_proxy.forward(
            request, session, url, headers, body or None, located=located, starting=starting
        )

    def _servers(self) -> list[str]:
        topology = self._directory.read_reachable().topology
        return [*topology.endpoints(Role.LOAD_BALANCER, "https"), *topology.endpoints(Role.APISERVER, "https")]

    def _session(self, *, bare: bool) -> aiohttp.ClientSession:
        """Connections that show the certificate, or none where they are `bare`; anew when the certificate is."""
        written_at = (self._directory.admin / "tls.crt").stat().st_mtime_ns
        if written_at != self._read_at:
            self._retire()
            self._read_at = written_at
        if bare not in self._sessions:
            self._sessions[bare] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._context(bare=bare)),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                auto_decompress=False,
                response_class=reverse_proxy.Answer,
            )
        return self._sessions[bare]

    def _retire(self) -> None:
        """Ask nothing more by the sessions there are; what they carry goes on."""
        self._retired += self._sessions.values()
        self._sessions = {}

    def _context(self, *, bare: bool) -> ssl.SSLContext:
        if bare:
            return ssl.create_default_context(cafile=str(self._directory.admin / "ca.crt"))
        return client_ssl(Credentials.read(self._directory.admin))
