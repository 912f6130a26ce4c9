"""Questions to components over HTTP, as the administrator: their logs, what they are busy with."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.topology import Instance, Role
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Credentials

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S = 10.0
#: Ports on which components answer over HTTP.
_PORTS = {Role.MEMBER: "client", Role.APISERVER: "https", Role.NODE_HOST: "grpc", Role.SUPERVISOR: "grpc"}


class NoAnswer(ClusterError):
    """A component says nothing, or not what it was asked for."""


@contextlib.asynccontextmanager
async def asked(
    admin: Access, instance: Instance, method: str, path: str, **options: Any
) -> "AsyncIterator[aiohttp.ClientResponse]":
    """The good answer of a component. Raises ClusterError; NoAnswer when nothing came of it yet."""
    import aiohttp

    label = _PORTS.get(instance.role, "metrics")
    if label not in instance.ports:
        raise NoAnswer(f"{instance.name} has no port to be asked on; it was set up by an earlier version")
    *_, context = Credentials.read(admin.directory.admin).contexts()
    context.set_alpn_protocols(["http/1.1"])
    url = f"https://{instance.endpoint(label)}{path}"
    answered = False
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, ssl=context, server_hostname=INTERNAL_SERVER_NAME, **options) as response,
        ):
            if response.status != 200:
                raise NoAnswer(f"{instance.name}: {(await response.text()).strip()}")
            answered = True
            yield response
    except (aiohttp.ClientError, TimeoutError) as e:
        if answered:
            raise ClusterError(f"{instance.name} was cut off: {e or type(e).__name__}") from e
        raise NoAnswer(f"{instance.name} does not answer: {e or type(e).__name__}") from e
