"""Messages between members that arrive twice, or late: what Raft is made to bear, and TCP hides."""

import asyncio
import contextvars
import random
from collections.abc import Callable, Iterable

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server import Member

LATE_MAX_S = 0.1


class Jumbler:
    """A hand between a member and its links. `end` takes it away."""

    def __init__(self, member: Member, rng: random.Random, *, twice: float, late: float) -> None:
        self._transport = member.transport
        self._honest: Callable[[Iterable[raft.Message]], None] = member.transport.send
        self._rng = rng
        self._twice = twice
        self._late = late
        self._on = True
        member.transport.send = self._send  # type: ignore[method-assign]

    def end(self) -> None:
        if self._on:
            self._on = False
            del self._transport.send  # type: ignore[method-assign]

    def _send(self, messages: Iterable[raft.Message]) -> None:
        now: list[raft.Message] = []
        for message in messages:
            drawn = self._rng.random()
            if drawn < self._twice:
                now += [message, message]
            elif drawn < self._twice + self._late:
                self._send_late(message)
            else:
                now.append(message)
        self._honest(now)

    def _send_late(self, message: raft.Message) -> None:
        # In the member's own life: what it sends when it is dead is sent by nobody.
        asyncio.get_running_loop().call_later(
            self._rng.uniform(0, LATE_MAX_S), self._honest, [message], context=contextvars.copy_context()
        )
