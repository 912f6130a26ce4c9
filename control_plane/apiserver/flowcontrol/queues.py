"""Fair queues: who of those that wait for a seat is next.

A level has so many seats. Each flow is dealt a hand of queues, and each request goes to the least busy of its flow's
hand: a greedy flow fills its own hand, and hardly any other flow has all its queues among them (shuffle sharding). Of
the queues in which somebody waits, that one is served whose next request would be done first if all queues had been
served at once, each with an equal part of the seats (fair queuing, in a virtual time that goes as fast as one queue
is served). Pure: what time it is, in seconds from anywhere, is passed in.

Source: Kubernetes KEP-1040, "Fair Queuing for Server Requests"; apiserver's fairqueuing/queueset.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

#: How long a request is thought to take, before it is known (`estimatedServiceDuration`).
GUESS_S = 0.003
QUEUE_FULL, CONCURRENCY_LIMIT = "queue-full", "concurrency-limit"


class Ticket:
    """One request at a level: it waits for its seats, has them, and gives them back."""

    # Most requests find a seat: what is said here costs them nothing.
    initial = seats = 1
    linger_s = 0.0
    lent = away = 0
    """Seats that it has given back for a while, and for how many reasons."""
    queue: Queue | None = None
    arrived_at = arrived_r = 0.0
    began_at = -1.0
    flow: Any = None
    wake: Any = None
    """Of who uses the queues, and nothing to them: what it is about, and whom to tell."""

    def __init__(self, name: str = "") -> None:
        """`name`: of the object that is asked for."""
        self.name = name

    @staticmethod
    def wide(name: str, seats: int, *, final: int = 0, linger_s: float = 0.0) -> Ticket:
        """One that takes `seats`; where `final` is more, these instead, and for `linger_s` after its answer."""
        ticket = Ticket(name)
        ticket.initial, ticket.seats, ticket.linger_s = seats, max(seats, final), linger_s
        return ticket

    @property
    def has_begun(self) -> bool:
        return self.began_at >= 0.0

    @property
    def work(self) -> float:
        """In seconds of one seat."""
        return self.initial * GUESS_S + self.seats * self.linger_s


class Queue:
    """One queue, while somebody is in it or was served from it."""

    __slots__ = ("executing", "index", "next_r", "seats", "waiting", "work")

    def __init__(self, index: int, r: float) -> None:
        self.index = index
        self.waiting: deque[Ticket] = deque()
        self.work = 0.0
        """Of those that wait."""
        self.executing = self.seats = 0
        self.next_r = r
        """When, in virtual time, its next request begins."""


class QueueSet:
    """The queues of one level.

    What lets others begin returns them, each once. Queues exist while they are in use, however many are configured.
    """

    def __init__(self, *, limit: int, now: float) -> None:
        self.limit = limit
        """Seats there are."""
        self.queues = self.length_max = 0
        """How many queues there are (with none it refuses whom it has no seat for), and who may wait in each."""
        self.seats = self.seats_waiting = self.waiting = 0
        self.executing: dict[Ticket, None] = {}
        self.live: dict[int, Queue] = {}
        self.r = 0.0
        """Virtual time."""
        self.most = 0
        """Most seats that were wanted since the last look (`take_demand`)."""
        self.blocked = 0
        """How often the next one had to wait although there were seats: not as many as it takes."""
        self._at = self._looked_at = now
        self._integral = self._squares = 0.0
        self._arrivals = 0
        self._pending: dict[Queue, None] = {}  # where somebody waits; who was served just now is last

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.executing

    def begin_at_once(self, ticket: Ticket, now: float) -> bool:
        """Take seats where nobody waits and there are enough. No queue is charged for what nobody waited for."""
        seats = self.seats + ticket.seats
        if self.waiting or seats > self.limit:
            return False
        self._advance(now)
        ticket.arrived_at = ticket.began_at = now
        self.executing[ticket] = None
        self.seats = seats
        self.most = max(self.most, seats)
        return True

    def arrive(self, ticket: Ticket, hand: Sequence[int], now: float) -> str:
        """Take seats or a place in a queue; why neither is to be had, or nothing."""
        if self.begin_at_once(ticket, now):
            return ""
        self._advance(now)
        ticket.arrived_at, ticket.arrived_r = now, self.r
        if not self.queues:
            if not self._fits(ticket.seats):
                return CONCURRENCY_LIMIT
            self._begin(ticket, now)
            return ""
        queue = self._queue(hand)
        if self.seats >= self.limit and len(queue.waiting) >= self.length_max:
            self._forget(queue)
            return QUEUE_FULL
        ticket.queue = queue
        self._enqueue(ticket, queue)
        self._dispatch(now)  # nobody but itself
        return ""

    def enter(self, ticket: Ticket, now: float) -> None:
        """Begin without waiting and without seats of the level."""
        ticket.seats = ticket.initial = 0
        ticket.arrived_at = ticket.began_at = now
        self.executing[ticket] = None

    def finish(self, ticket: Ticket, now: float) -> Sequence[Ticket]:
        """It is answered. Where it lingers, `release` follows; else its seats are free now."""
        self._advance(now)
        del self.executing[ticket]
        queue = ticket.queue
        if queue is not None:
            queue.executing -= 1
            # It took longer or shorter than was thought.
            queue.next_r -= ticket.initial * (GUESS_S - (now - ticket.began_at))
            self._bound(queue)
        if ticket.linger_s <= 0.0:
            return self._release(ticket, now)
        # It may be another queue's turn.
        return self._dispatch(now)

    def release(self, ticket: Ticket, now: float) -> Sequence[Ticket]:
        self._advance(now)
        return self._release(ticket, now)

    def lend(self, ticket: Ticket, now: float) -> Sequence[Ticket]:
        """Others may have its seats until `take_back`, which must follow."""
        self._advance(now)
        ticket.lent, ticket.seats = ticket.seats, 0
        self._take(ticket, -ticket.lent)
        return self._dispatch(now)

    def take_back(self, ticket: Ticket, now: float) -> None:
        """It has its seats again, even if that makes more than there are."""
        self._advance(now)
        ticket.lent, ticket.seats = 0, ticket.lent
        self._take(ticket, ticket.seats)
        self._want()

    def _take(self, ticket: Ticket, seats: int) -> None:
        self.seats += seats
        if ticket.queue is not None:
            ticket.queue.seats += seats

    def abandon(self, ticket: Ticket, now: float) -> Sequence[Ticket]:
        """It waits no longer."""
        self._advance(now)
        queue = ticket.queue
        assert queue is not None
        queue.waiting.remove(ticket)
        self._unwait(ticket, queue)
        self._bound(queue)
        self._forget(queue)
        return self._dispatch(now)

    def set_limit(self, limit: int, now: float) -> Sequence[Ticket]:
        self._advance(now)
        self.limit = limit
        return self._dispatch(now)

    def take_demand(self, now: float) -> tuple[float, float, int]:
        """Mean, standard deviation and maximum of the seats that were wanted since the last time."""
        self._advance(now)
        span, wanted = now - self._looked_at, self.seats + self.seats_waiting
        mean = self._integral / span if span > 0 else float(wanted)
        variance = self._squares / span - mean * mean if span > 0 else 0.0
        found = mean, math.sqrt(max(variance, 0.0)), self.most
        self.most, self._looked_at = wanted, now
        self._integral = self._squares = 0.0
        return found

    # --- one step -----------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        passed = now - self._at
        if passed <= 0.0:
            return
        self._at = now
        wanted = self.seats + self.seats_waiting
        self._integral += wanted * passed
        self._squares += wanted * wanted * passed
        if self.live:
            self.r += passed * min(wanted, self.limit) / len(self.live)

    def _queue(self, hand: Sequence[int]) -> Queue:
        """The least busy of a hand, beginning each time with another."""
        self._arrivals += 1
        size, live = len(hand), self.live
        best: Queue | None = None
        index = hand[self._arrivals % size]
        if self.waiting:
            for at in range(size):
                one = hand[(self._arrivals + at) % size]
                found = live.get(one)
                if found is None or not found.waiting:
                    index, best = one, found
                    break
                if best is None or found.work < best.work:
                    index, best = one, found
        queue = best or live.get(index)
        if queue is None:
            queue = live[index] = Queue(index, self.r)
        return queue

    def _fits(self, seats: int) -> bool:
        if seats > self.limit:
            # Wider than the level: alone, when all others are done.
            return self.limit > 0 and not self.seats
        return self.seats + seats <= self.limit

    def _begin(self, ticket: Ticket, now: float) -> None:
        ticket.began_at = now
        self.executing[ticket] = None
        self._take(ticket, ticket.seats)
        queue = ticket.queue
        if queue is not None:
            queue.executing += 1
            queue.next_r += ticket.work
        self._want()

    def _enqueue(self, ticket: Ticket, queue: Queue) -> None:
        queue.waiting.append(ticket)
        queue.work += ticket.work
        self.waiting += 1
        self.seats_waiting += ticket.seats
        self._pending[queue] = None
        self._bound(queue)
        self._want()

    def _unwait(self, ticket: Ticket, queue: Queue) -> None:
        queue.work -= ticket.work
        self.waiting -= 1
        self.seats_waiting -= ticket.seats
        if not queue.waiting:
            del self._pending[queue]
            queue.work = 0.0

    def _release(self, ticket: Ticket, now: float) -> Sequence[Ticket]:
        self._take(ticket, -ticket.seats)
        if ticket.queue is not None:
            self._forget(ticket.queue)
        return self._dispatch(now) if self.waiting else ()

    def _dispatch(self, now: float) -> Sequence[Ticket]:
        begun = []
        while self.waiting and self.seats < self.limit:
            queue = min(self._pending, key=_finish_r)
            ticket = queue.waiting[0]
            if not self._fits(ticket.seats):
                self.blocked += 1
                break
            queue.waiting.popleft()
            self._unwait(ticket, queue)
            if queue.waiting:
                # Others win where it is all the same.
                self._pending[queue] = self._pending.pop(queue)
            self._begin(ticket, now)
            self._bound(queue)
            begun.append(ticket)
        return begun

    @staticmethod
    def _bound(queue: Queue) -> None:
        """Nothing begins before it arrived: a queue that did not use its part saves up nothing."""
        if queue.waiting and queue.next_r < queue.waiting[0].arrived_r:
            queue.next_r = queue.waiting[0].arrived_r

    def _forget(self, queue: Queue) -> None:
        if not queue.waiting and not queue.executing and not queue.seats:
            del self.live[queue.index]

    def _want(self) -> None:
        self.most = max(self.most, self.seats + self.seats_waiting)


def _finish_r(queue: Queue) -> float:
    return queue.next_r + queue.waiting[0].work
