"""One HTTP request to a container, as probes and hooks make it (core/v1 HTTPGetAction).

As Kubernetes' kubelet it takes any certificate, and follows redirects on the same host; one elsewhere is the answer.
"""

import asyncio
import ssl
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp.client import URL
from multidict import CIMultiDict

from rayplane.control_plane.rpc.http_failures import reason
from rayplane.node.errors import RuntimeFailed
from rayplane.node.runtime import ContainerRun
from rayplane.node.runtime.ports import port_number

BODY_MAX = 10 * 1024
REQUESTS_MAX = 10
"""The first, and those to which redirects lead."""
_FIELD_MAX = 64 * 1024
_AS_WRITTEN = "!#$%&'()*+,/:;=?@[]"
_REDIRECTS = (301, 302, 303, 307, 308)


def url_of(action: dict[str, Any], container: dict[str, Any], *, ip: str) -> str:
    """Raises NodeError for a port that the container does not name."""
    scheme, host = (action.get("scheme") or "HTTP").lower(), action.get("host") or ip
    port = port_number(action.get("port"), container)
    path = quote((action.get("path") or "").lstrip("/"), safe=_AS_WRITTEN)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{path}"


async def http_get(
    action: dict[str, Any], run: ContainerRun, container: dict[str, Any], *, ip: str, agent: str
) -> tuple[int, str]:
    """The status and the first `BODY_MAX` bytes of the answer. Raises NodeError."""
    url = url_of(action, container, ip=ip)
    async with aiohttp.ClientSession(
        connector=_Connector(run),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        max_line_size=_FIELD_MAX,
        max_field_size=_FIELD_MAX,
    ) as session:
        return await _follow(session, url, _headers(action, agent))


async def _follow(session: aiohttp.ClientSession, url: str, headers: CIMultiDict[str]) -> tuple[int, str]:
    own_host = headers.get("Host")
    try:
        at = URL(url, encoded=True)
        for _ in range(REQUESTS_MAX):
            url = str(at)
            headers["Host"] = own_host or at.raw_authority
            async with session.get(at, headers=headers, allow_redirects=False) as answer:
                location = answer.headers.get("Location", "") if answer.status in _REDIRECTS else ""
                target = URL(quote(location, safe=_AS_WRITTEN), encoded=True)
                if not location or (target.absolute and target.host != at.host):
                    return answer.status, await _start_of(answer)
            # A name that was asked for instead of the address holds as long as nothing else is said.
            own_host = None if target.absolute else own_host
            at = at.join(target)
    except (aiohttp.ClientError, OSError, ValueError) as e:
        raise RuntimeFailed(f'Get "{url}": {reason(e)}') from e
    raise RuntimeFailed(f'Get "{at}": stopped after {REQUESTS_MAX} redirects')


def _headers(action: dict[str, Any], agent: str) -> CIMultiDict[str]:
    headers = CIMultiDict((h["name"], h.get("value") or "") for h in action.get("httpHeaders") or ())
    for name, value in (("User-Agent", agent), ("Accept", "*/*"), ("Connection", "close")):
        # Who names one without a value wants none.
        if not headers.setdefault(name, value):
            headers.popall(name)
    return headers


async def _start_of(answer: aiohttp.ClientResponse) -> str:
    body = bytearray()
    while len(body) < BODY_MAX and (chunk := await answer.content.read(BODY_MAX - len(body))):
        body += chunk
    return body.decode(errors="replace")


class _Connector(aiohttp.BaseConnector):
    """aiohttp's connections, over sockets of a container's network."""

    def __init__(self, run: ContainerRun) -> None:
        super().__init__(force_close=True)
        self._run = run

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        host = req.url.host
        tls: dict[str, Any] = {"ssl": _ANYBODY, "server_hostname": host} if req.is_ssl() else {}
        try:
            sock = await self._run.connect(host, req.url.port)
            _, protocol = await asyncio.get_running_loop().create_connection(self._factory, sock=sock, **tls)
        except ssl.SSLError as e:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, e) from e
        except OSError as e:
            raise aiohttp.ClientConnectorError(req.connection_key, e) from e
        return protocol


def _anybody() -> ssl.SSLContext:
    """A probe is about whether the server answers, not about who it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_ANYBODY = _anybody()
