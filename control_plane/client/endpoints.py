"""Several replicas behind one call: which to ask, and when to ask another."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc

from rayplane.control_plane.etcd_errors import LearnerRefuses, recognised
from rayplane.control_plane.rpc import RpcError

T = TypeVar("T")

RETRY_PAUSE_S = 0.1
# Where supervisors write in etcd where they are (`supervisors`, host:port) and which `machines` carry an actor
# (addresses), a JSON object of arrays; API servers tell whoever calls them.
PLACES_KEY = b"/rayplane/places"
# No answer of the replica itself: another may do better.
_SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# After an endpoint failed, others are preferred for this long.
PENALTY_S = 2.0
# A call that its caller gives up after this long had no answer.
SILENT_S = 0.5


class Endpoints:
    """Addresses of replicas of one service, the ones that failed lately last."""

    def __init__(self, addresses: Sequence[str]) -> None:
        if not addresses:
            raise ValueError("no endpoints given: name at least one host:port")
        self._addresses = list(addresses)
        self._failed: dict[str, float] = {}
        self._next = 0
        self._preferred = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._addresses)

    def replace(self, addresses: Sequence[str]) -> None:
        """Take over a new list; an empty one is ignored, as it would leave no way to ask again."""
        if addresses and list(addresses) != self._addresses:
            self._addresses = list(addresses)
            self._failed = {a: t for a, t in self._failed.items() if a in self._addresses}
            if self._preferred not in self._addresses:
                self._preferred = ""

    def prefer(self, address: str) -> None:
        """Sticky picks keep to this one until it fails, unless it has failed lately; "" takes that back."""
        known = address in self._addresses and self._works(address, asyncio.get_running_loop().time())
        self._preferred = address if known else ""

    @property
    def preferred(self) -> str:
        """The one that sticky picks keep to; "" where there is none."""
        return self._preferred

    def pick(self, *, sticky: bool = False) -> str:
        """The next address in turn that has not failed lately; `sticky` keeps to the last one while it works."""
        if sticky and self._preferred:
            return self._preferred
        now = asyncio.get_running_loop().time()
        count = len(self._addresses)
        for offset in range(count):
            address = self._addresses[(self._next + offset) % count]
            if self._works(address, now):
                self._next = (self._next + offset + (0 if sticky else 1)) % count
                return address
        # All failed lately: the one whose failure is oldest.
        return min(self._addresses, key=lambda a: self._failed[a])

    def _works(self, address: str, now: float) -> bool:
        return self._failed.get(address, -PENALTY_S) + PENALTY_S <= now

    def failed(self, address: str) -> None:
        if address == self._preferred:
            self._preferred = ""
        if address in self._addresses:
            self._failed[address] = asyncio.get_running_loop().time()
            self._next = (self._addresses.index(address) + 1) % len(self._addresses)


def never_sent(error: RpcError) -> bool:
    """Whether a failed call surely had no effect, so that even a write may be tried again on another replica."""
    # An etcd member that has not caught up yet refuses everything but the plainest reads.
    return error.unsent or isinstance(recognised(error), LearnerRefuses)


async def call_any(
    endpoints: Endpoints,
    call: Callable[[str, float], Awaitable[T]],
    *,
    timeout: float,
    idempotent: bool,
    sticky: bool = False,
) -> T:
    """Call one replica after the other until one answers or `timeout` seconds are over.

    Only what got no answer is tried again; a call that is not idempotent only when it was surely never sent. `call`
    gets the address and the seconds it may take: half of the time where another replica can be asked in the rest, as
    one that has stopped or was cut off says nothing at all. When the time is over, what a replica said last is raised,
    and the silence of one only where none said anything.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    tries = 0
    said: RpcError | None = None
    while True:
        address = endpoints.pick(sticky=sticky)
        left = deadline - loop.time()
        if idempotent and len(endpoints.addresses) > 1:
            left = min(left, timeout / 2)
        began = loop.time()
        try:
            return await call(address, max(left, 0.001))
        except asyncio.CancelledError:
            # Whoever gave up would not want to ask the same one next.
            if loop.time() - began >= SILENT_S:
                endpoints.failed(address)
            raise
        except RpcError as e:
            silent = e.code in _SILENT
            if silent or never_sent(e):
                endpoints.failed(address)
            if not (never_sent(e) or (idempotent and silent)):
                raise
            tries += 1
            said = said if e.code == grpc.StatusCode.DEADLINE_EXCEEDED else e
            pause = RETRY_PAUSE_S if tries >= len(endpoints.addresses) else 0.0
            if loop.time() + pause >= deadline:
                raise said or e from None
            await asyncio.sleep(pause)
