"""The API over REST, for a machine that knows nothing of a cluster but its URL."""

import ssl
from typing import Any
from urllib.parse import urlsplit

import orjson

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.errors import ClusterError, NotTrusted, UsageError
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Credentials

TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024


def checked_url(text: str) -> str:
    """Raises UsageError."""
    url = text if "://" in text else f"https://{text}"
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
        raise UsageError(f"{text!r}: use the URL of the cluster's API, such as https://192.0.2.1:6443")
    return url.rstrip("/")


def nobody_known() -> ssl.SSLContext:
    """For a server that is not trusted: nothing secret may be sent to it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def authority_known(ca: bytes, shown: Credentials | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.decode())
    if shown is not None:
        shown.load(context)
    return context


class RestApi:
    """The calls of who joins. Raises ApiError, NotTrusted, ClusterError where nobody answers.

    Whatever the URL is, a server that is trusted has the name of the cluster's own: nobody else gets it.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, *, token: str = "") -> None:
        self._url, self._tls = url, tls
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    async def get(self, resource: str, name: str, namespace: str = "") -> Object:
        return await self._call("GET", f"{_path(resource, namespace)}/{name}")

    async def create(self, resource: str, obj: Object) -> Object:
        return await self._call("POST", _path(resource, ""), obj)

    async def _call(self, method: str, path: str, body: Object | None = None) -> Object:
        # Imported here: commands that join nothing need none of it.
        import aiohttp

        name = INTERNAL_SERVER_NAME if self._tls.check_hostname else None
        data = orjson.dumps(body) if body is not None else None
        headers = {"content-type": "application/json", "accept": "application/json", **self._headers}
        limit = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, headers=headers) as session,
                session.request(method, self._url + path, data=data, ssl=self._tls, server_hostname=name) as answer,
            ):
                status, told = answer.status, bytearray()
                # Whoever answers may not be who is thought: no more is taken of it.
                while len(told) < ANSWER_BYTES_MAX and (part := await answer.content.readany()):
                    told += part
        except aiohttp.ClientConnectorCertificateError as e:
            raise NotTrusted(f"{self._url} is no server of the cluster that this machine knows: {e}") from e
        except (aiohttp.ClientError, TimeoutError) as e:
            why = getattr(e, "strerror", "") or str(e) or type(e).__name__
            raise ClusterError(f"the API at {self._url} does not answer: {why}") from e
        try:
            found: Any = orjson.loads(told)
        except ValueError as e:
            raise ClusterError(f"what answers at {self._url} is no API of Kubernetes") from e
        if status >= 400:
            raise errors.from_status(found)
        return dict(found)


def _path(resource: str, namespace: str) -> str:
    plural, _, group = resource.partition(".")
    place = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{group}/v1/{place}{plural}" if group else f"/api/v1/{place}{plural}"
