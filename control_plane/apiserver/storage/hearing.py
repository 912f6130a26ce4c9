"""Hearing of etcd: the calls to it that wait, and when to wait no longer.

A server that no majority of the members answers is of no use to anybody, while its clients may have others. It has no
question of its own for that: every call counts that a majority must answer. When calls wait and none was answered for
as long as the members themselves would wait for a leader, the server is deaf until one is. Reads end then, and what was
not sent yet is not sent; of writes under way nobody knows what becomes of them, so they are waited for.

Time is counted in slices: one that ends late, because this process stood still, counts no more than any other.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc

from rayplane.control_plane.rpc import RpcError

#: No answer of a member, or the word of one that it has no leader.
SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_SLICES = 10


class Hearing:
    """The calls of one server that wait for a majority of the members."""

    def __init__(self, patience_s: float) -> None:
        self.deaf = False
        self.told: list[Callable[[], None]] = []
        """Called when the server has become deaf."""
        self._patience_s = patience_s
        self._waiting = 0
        self._slices = 0  # since an answer came, or since there was nothing to wait for
        self._timer: asyncio.TimerHandle | None = None
        self._limits: dict[asyncio.Timeout, None] = {}

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A call within is waited for, however deaf the server is."""
        if not self._waiting:
            self._slices = 0
        self._waiting += 1
        if self._timer is None:
            self._arm()
        try:
            yield
        except RpcError as e:
            if e.code not in SILENT:
                self._hear()
            raise
        else:
            self._hear()
        finally:
            self._waiting -= 1

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """A call within ends with RpcError when the server becomes deaf. Nothing is done where it is."""
        self.check()
        try:
            with self.waiting():
                async with asyncio.timeout(None) as limit:
                    self._limits[limit] = None
                    try:
                        yield
                    finally:
                        del self._limits[limit]
        except TimeoutError as e:
            raise self.error() from e

    def check(self) -> None:
        """Raises RpcError where the server is deaf."""
        if self.deaf:
            raise self.error(unsent=True)

    def error(self, *, unsent: bool = False) -> RpcError:
        text = f"no majority of its members has answered for {self._patience_s:g} s; see `rayplane status`"
        return RpcError(grpc.StatusCode.UNAVAILABLE, text, unsent=unsent)

    def _hear(self) -> None:
        self.deaf = False
        self._slices = 0

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._patience_s / _SLICES, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        self._arm()
        self._slices += 1
        # The first may have begun long before the call did.
        if self._slices <= _SLICES or self.deaf:
            return
        self.deaf = True
        for limit in self._limits:
            limit.reschedule(0.0)
        for tell in self.told:
            tell()
