"""Reading the metrics of a cluster's components, at a modest pace, for who looks on.

API servers, schedulers and controller managers are asked as any scraper asks them, with the administrator's
certificate. Who does not answer has no load: nobody waits for it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.load import Reading, is_of_another_run, load, reading
from rayplane.control_plane.cluster.topology import Instance, Role
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME
from rayplane.control_plane.tasks import cancel_and_wait

PAUSE_S, LIMIT_S = 5.0, 4.0
READINGS_MAX = 13
"""Latencies are of a minute."""
PAGE_MAX = 16 * 1024 * 1024
_PORTS = {Role.APISERVER: "https", Role.SCHEDULER: "metrics", Role.CONTROLLERS: "metrics"}


@contextlib.asynccontextmanager
async def loads(admin: Access) -> AsyncIterator[Mapping[str, dict[str, Any]]]:
    """The loads of components by their names, which are kept up to date meanwhile."""
    known: dict[str, dict[str, Any]] = {}
    task = asyncio.ensure_future(_keep(admin, known))
    try:
        yield known
    finally:
        await cancel_and_wait(task)


async def _keep(admin: Access, known: dict[str, dict[str, Any]]) -> None:
    read: dict[str, deque[Reading]] = {}
    *_, context = admin.shown().contexts()
    context.set_alpn_protocols(["http/1.1"])
    asking = aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=asking) as session:
        while True:
            topology = await current_topology(admin)
            asked = {i.name: i for i in topology.instances if _PORTS.get(i.role, "") in i.ports}
            read = {name: read.get(name) or deque(maxlen=READINGS_MAX) for name in asked}
            heard = await asyncio.gather(*(_look(session, asked[name], read[name]) for name in asked))
            known.clear()
            known.update({name: load(read[name]) for name, spoke in zip(asked, heard, strict=True) if spoke})
            await asyncio.sleep(PAUSE_S)


async def _look(session: aiohttp.ClientSession, instance: Instance, readings: deque[Reading]) -> bool:
    """Whether it told how it is."""
    url = f"https://{instance.endpoint(_PORTS[instance.role])}/metrics"
    try:
        async with session.get(url, server_hostname=INTERNAL_SERVER_NAME, raise_for_status=True) as answer:
            now = reading(await _text(answer), asyncio.get_running_loop().time())
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
        return False
    if readings and is_of_another_run(readings[-1], now):
        readings.clear()
    readings.append(now)
    return True


async def _text(answer: aiohttp.ClientResponse) -> str:
    """Raises ValueError for a page that is too long."""
    page = bytearray()
    async for part in answer.content.iter_any():
        page += part
        if len(page) > PAGE_MAX:
            raise ValueError(f"a page of more than {PAGE_MAX} bytes")
    return page.decode()
