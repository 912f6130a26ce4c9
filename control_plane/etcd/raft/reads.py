"""ReadIndex (thesis §6.4): linearizable reads without writing to the log.

A read is safe at the commit index it arrived at, once a majority has confirmed, after it arrived,
that the leader still is one. Reads are batched into numbered rounds; a round's number travels as
the heartbeat's context, to no more members than it needs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_ROUND_BYTES = 8


@dataclass(frozen=True, slots=True)
class PendingRead:
    """A read of member `origin`, safe at `index` when `round` is confirmed."""

    round: int
    index: int
    origin: int
    context: bytes


class ReadQueue:
    """A leader's reads, in order of arrival; made anew for each term. Bounded by `limit`."""

    __slots__ = ("_early", "_limit", "_turn", "_waiting", "sent_round")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[PendingRead] = deque()
        self._early: deque[tuple[int, bytes]] = deque()  # arrived before the term's first commit
        self.sent_round = 0
        self._turn = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._early)

    def is_full(self) -> bool:
        return len(self) >= self._limit

    def add(self, index: int, origin: int, context: bytes) -> None:
        """Join the round that goes out next."""
        self._waiting.append(PendingRead(self.sent_round + 1, index, origin, context))

    def add_early(self, origin: int, context: bytes) -> None:
        """Wait until the leader knows what is committed (it has committed in its own term)."""
        self._early.append((origin, context))

    def release_early(self, index: int) -> None:
        """The first commit of the term is known: the early reads join the next round."""
        while self._early:
            self.add(index, *self._early.popleft())

    def has_unsent(self) -> bool:
        return bool(self._waiting) and self._waiting[-1].round > self.sent_round

    def open_round(self) -> None:
        """The next heartbeats carry a new number."""
        self.sent_round += 1

    def next_turn(self) -> int:
        """Numbers the members' confirmations in the order in which they come."""
        self._turn += 1
        return self._turn

    def heartbeat_context(self) -> bytes:
        """What a heartbeat carries: the newest round while reads wait, else nothing."""
        return self.sent_round.to_bytes(_ROUND_BYTES, "big") if self._waiting else b""

    def confirmed(self, round_: int) -> list[PendingRead]:
        """Take out the reads of all rounds up to `round_`."""
        done = []
        while self._waiting and self._waiting[0].round <= round_:
            done.append(self._waiting.popleft())
        return done


def round_of(context: bytes) -> int:
    """The inverse of heartbeat_context; 0 when there is none."""
    return int.from_bytes(context, "big")
