"""A connection's way through the weather: what it sends and what comes waits as a link says, each way in order.

As with a cable that was pulled, a connection notices by the silence that nothing passes any more, and is given up. What
waits is bounded by the windows of HTTP/2.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rayplane.control_plane.rpc.passages import RETRANSMIT_S, Link

Deliver = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Line:
    """The link between two hosts, as the one sees it that connects."""

    link: Link
    here: str
    there: str

    def out(self, deliver: Deliver) -> "Way":
        return Way(self.link, self.here, self.there, deliver)

    def back(self, deliver: Deliver) -> "Way":
        return Way(self.link, self.there, self.here, deliver)


class Way:
    """One direction of a connection. `deliver`: takes what has arrived."""

    def __init__(self, link: Link, source: str, target: str, deliver: Deliver) -> None:
        self._link = link
        self._source, self._target = source, target
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, float | None]] = deque()
        """Each with when it arrives; None: it could not be sent yet."""
        self._timer: asyncio.TimerHandle | None = None

    def carry(self, data: bytes) -> None:
        delay_s = self._link.delay(self._source, self._target)
        if delay_s == 0 and not self._waiting:
            self._deliver(data)
            return
        self._waiting.append((data, None if delay_s is None else self._loop.time() + delay_s))
        if self._timer is None:
            self._step()

    def _step(self) -> None:
        self._timer = None
        while self._waiting:
            data, at = self._waiting[0]
            if at is None:
                delay_s = self._link.delay(self._source, self._target)
                if delay_s is None:
                    self._timer = self._loop.call_later(RETRANSMIT_S, self._step)
                    return
                at = self._loop.time() + delay_s
                self._waiting[0] = data, at
            if at > self._loop.time():
                self._timer = self._loop.call_at(at, self._step)
                return
            self._waiting.popleft()
            self._deliver(data)

    def close(self) -> None:
        """What has not arrived never does."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
