"""A flood of requests to API servers, as of an agent on every node that was just rolled out everywhere.

It asks as an ordinary user, whom priority and fairness have wait in turn; administrators are exempt from that.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence

from rayplane.control_plane.client import ops
from rayplane.control_plane.identities import FLOODER
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

WAITING_MAX = 50
"""Who asks waits, once so many wait for answers: it is the supervisor, which has more to do."""
PAGE = 500
BEHIND_MAX_S = 1.0
"""Requests that could not be made in time are made up for, of the last so long."""
_AS_USER = {"impersonate-user": FLOODER}
_SERVICE = pb.DESCRIPTOR.services_by_name["Objects"]


async def flood(network: Network, servers: Callable[[], Sequence[str]], rate: int) -> None:
    """Requests for a page of pods, so many a second whether they are answered or not, until cancelled.

    `servers`: host:port of each API server now; they are asked in turn.
    """
    loop, turns = asyncio.get_running_loop(), itertools.count()
    waiting: dict[asyncio.Task[None], None] = {}
    next_s = loop.time()
    try:
        while True:
            if len(waiting) < WAITING_MAX:
                there = servers()
                task = loop.create_task(_ask(network, there[next(turns) % len(there)]))
                waiting[task] = None
                task.add_done_callback(waiting.pop)
            next_s = max(next_s + 1 / rate, loop.time() - BEHIND_MAX_S)
            await asyncio.sleep(max(0.0, next_s - loop.time()))
    finally:
        await cancel_and_wait(*waiting)


async def _ask(network: Network, server: str) -> None:
    """What is answered is not even read."""
    with contextlib.suppress(RpcError):
        request = pb.ListRequest(ref=ops.ref("pods"), limit=PAGE)
        await Stub(network.channel(server), _SERVICE).List(request, metadata=_AS_USER)
