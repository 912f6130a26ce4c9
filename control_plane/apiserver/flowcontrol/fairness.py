"""API priority and fairness: a request that is not exempt takes seats of its level, or waits for them in a queue.

All requests share one event loop, and each step of one waits for a step of every other: in a burst of hundreds a
renewal of a Lease would take seconds, and a leader or a node be taken for dead. So a server has few seats, which levels
share out by FlowSchema and PriorityLevelConfiguration objects as kube-apiserver does. A seat is held while a request is
worked on, not while its body comes or its answer goes. What is exempt waits for nobody else; but when many exempt
requests come at once they, too, are worked on a few at a time, in the order they came, and only the cluster's own
heartbeats and elections, and paths that are no resources, pass them.

What is exempt has no seat, either, while somebody outside is asked who may ask this server before it answers, by a
request that is exempt too: as many as there are seats would wait for each other.

Objects are followed through the watch caches. The mandatory ones hold even where they are missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from rayplane.control_plane.api.bootstrap_flow import mandatory_levels, mandatory_schemas
from rayplane.control_plane.api.errors import TooManyRequests
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.flowcontrol import counts, levels, matching
from rayplane.control_plane.apiserver.flowcontrol.counts import Counts
from rayplane.control_plane.apiserver.flowcontrol.levels import Level, Spec
from rayplane.control_plane.apiserver.flowcontrol.matching import Asked, Schema
from rayplane.control_plane.apiserver.flowcontrol.queues import Ticket
from rayplane.control_plane.apiserver.tracing.layers import within
from rayplane.control_plane.apiserver.tracing.spans import span, traced
from rayplane.control_plane.component_base.metrics import Family

log = logging.getLogger(__name__)

SCHEMAS = "flowschemas.flowcontrol.apiserver.k8s.io"
LEVELS = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io"
EXEMPT_AT_ONCE = 32
EXEMPT_WAITING_MAX = 2000
_READING = frozenset({"get", "list", "watch", "head", "options"})
_HEARTBEATS = frozenset({"leases", "nodes", "nodes/status"})
_FLOWS_MAX = 4096
# Of what clients say: a longer question is looked at anew each time.
_CHARS_MAX = 2048
_TIMED_OUT, _CANCELLED = "time-out", "cancelled"

_T = TypeVar("_T", Schema, Spec)
_AT_HAND: ContextVar[tuple[Fairness, Ticket] | None] = ContextVar("exempt request", default=None)


class Source(Protocol):
    """A cache of one resource."""

    listeners: list[Callable[[Any], None]]
    """Called with each change."""
    installed: list[Callable[[], None]]
    """Called when it has begun anew."""

    def readable(self) -> Iterator[Any]:
        """Entries, each with its `object`."""


class Flow:
    """The way of requests that look alike."""

    __slots__ = ("asked", "counts", "distinguisher", "hand", "head", "headers", "level", "passes", "schema", "served")

    def __init__(self, asked: Asked, schema: Schema, level: Level, counted: Counts) -> None:
        self.asked = asked
        self.schema = schema
        self.level = level
        self.counts = counted
        self.served = counted.watched if asked.verb == "watch" else counted.served
        self.distinguisher = schema.flow(asked)
        spec = level.spec
        self.hand = matching.deal(schema.name, self.distinguisher, spec.queues, spec.hand) if spec.queues else (0,)
        self.passes = spec.exempt and (bool(asked.path) or asked.resource in _HEARTBEATS)
        """It waits for nobody at all."""
        self.headers = {
            "X-Kubernetes-PF-FlowSchema-UID": schema.uid,
            "X-Kubernetes-PF-PriorityLevel-UID": spec.uid,
        }
        """Of every answer."""
        self.head = "".join(f"{header}: {value}\r\n" for header, value in self.headers.items()).encode()
        """The same as they are written."""

    @property
    def told(self) -> dict[str, object]:
        """For who wants to know where a request went."""
        return {"flow schema": self.schema.name, "priority level": self.level.spec.name, "flow": self.distinguisher}


class Fairness:
    """The seats of a server."""

    def __init__(self, seats: int, *, wait_max_s: float) -> None:
        """`seats`: what there is for all levels together."""
        self._total = seats
        self._wait_max_s = wait_max_s
        self.levels: dict[str, Level] = {}
        self.leaving: list[Level] = []
        """Levels that are configured no more, until they are idle."""
        self._schemas: list[Schema] = []
        self._flows: dict[Asked, Flow] = {}
        self._counts: dict[tuple[str, str], Counts] = {}
        self._sources: tuple[Source, ...] = ()
        self._stale = True
        self._adjust_at = -math.inf
        self._fair = 0.0

    def follow(self, schemas: Source, stored_levels: Source) -> None:
        """Keep to what is stored from now on."""
        self._sources = schemas, stored_levels
        for cache in self._sources:
            cache.listeners.append(lambda _: self._change())
            cache.installed.append(self._change)
        self._change()

    def _change(self) -> None:
        self._stale = True

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- which --------------------------------------------------------------------------------

    def flow(self, asked: Asked) -> Flow:
        """Where a request goes. Remembered until objects change."""
        if self._stale:
            self._digest()
        found = self._flows.get(asked)
        if found is None:
            schema = next((s for s in self._schemas if s.matches(asked)), self._schemas[-1])
            counted = self._counts.setdefault((schema.level, schema.name), Counts())
            found = Flow(asked, schema, self.levels[schema.level], counted)
            if sum(map(len, (asked.user, *asked.groups, asked.resource, asked.namespace, asked.path))) <= _CHARS_MAX:
                if len(self._flows) >= _FLOWS_MAX:
                    self._flows.clear()
                self._flows[asked] = found
        return found

    def _digest(self) -> None:
        """Begin to keep to the objects that there are now."""
        self._stale = False
        stored: list[list[Object]] = [[e.object for e in c.readable()] for c in self._sources] or [[], []]
        # What is mandatory and missing is thought to be there.
        specs = {s.name: s for s in _read(Spec.of, [*mandatory_levels(), *stored[1]])}
        named = {s.name: s for s in _read(Schema.of, [*mandatory_schemas(), *stored[0]])}
        schemas = matching.in_order(s for s in named.values() if s.level in specs)
        if schemas == self._schemas and specs == {level.spec.name: level.spec for level in self.levels.values()}:
            return
        now = self.now()
        self._flows.clear()
        self._schemas = schemas
        known = {(s.level, s.name) for s in self._schemas}
        self._counts = {key: counted for key, counted in self._counts.items() if key in known}
        for name in self.levels.keys() - specs.keys():
            gone = self.levels.pop(name)
            gone.quiescing = True
            self.leaving.append(gone)
        for spec in specs.values():
            self._configure(self.levels.setdefault(spec.name, Level(spec, now)), spec)
        levels.share_out(list(self.levels.values()), self._total)
        for level in self.levels.values():
            self._limit(level, level.nominal, now)
        self._adjust_at = now + levels.ADJUST_S

    @staticmethod
    def _configure(level: Level, spec: Spec) -> None:
        level.spec = spec
        queues = level.queues
        queues.queues, queues.length_max = (1, EXEMPT_WAITING_MAX) if spec.exempt else (spec.queues, spec.length_max)

    def _limit(self, level: Level, seats: int, now: float) -> None:
        _wake(level.queues.set_limit(EXEMPT_AT_ONCE if level.spec.exempt else seats, now))

    def _adjust(self, now: float) -> None:
        """Lend seats anew: as often as is due while somebody asks; else nobody needs them."""
        self._adjust_at = now + levels.ADJUST_S
        self.leaving = [level for level in self.leaving if not level.queues.idle]
        known = list(self.levels.values())
        for level in known:
            level.observe(now)
        limits, self._fair = levels.lend(known)
        for level, limit in zip(known, limits, strict=True):
            self._limit(level, limit, now)

    # --- seats --------------------------------------------------------------------------------

    def at_once(self, flow: Flow, ticket: Ticket) -> bool:
        """Whether it has its seats, without waiting. `leave` must follow."""
        now = self.now()
        if now >= self._adjust_at:
            self._adjust(now)
        queues = flow.level.queues
        if not queues.begin_at_once(ticket, now):
            if not flow.passes:
                return False
            queues.enter(ticket, now)
        ticket.flow = flow
        flow.counts.dispatched += 1
        return True

    async def seat(self, flow: Flow, ticket: Ticket) -> Ticket:
        """The ticket, with its seats; `leave` must follow. TooManyRequests."""
        if traced():
            with span("flow control") as step:
                step.note(flow.told)
                await self._queue(flow, ticket)
                if ticket.queue is not None:
                    step.note({"queue": ticket.queue.index, "seats": ticket.seats})
        elif not self.at_once(flow, ticket):
            await self._queue(flow, ticket)
        return ticket

    async def _queue(self, flow: Flow, ticket: Ticket) -> None:
        if self.at_once(flow, ticket):
            return
        ticket.flow = flow
        counted = flow.counts
        refusal = flow.level.queues.arrive(ticket, flow.hand, self.now())
        if refusal:
            counted.refused[refusal] += 1
            raise TooManyRequests(retry_after=1)
        if ticket.queue is not None:
            counted.lengths.observe(len(ticket.queue.waiting))
        if not ticket.has_begun:
            with within("apf-queue-wait"):
                await self._wait(ticket)
        counted.dispatched += 1
        counted.waited.observe(ticket.began_at - ticket.arrived_at)

    def at_hand(self, ticket: Ticket) -> None:
        """What this task asks others is asked for this request, which has its seats."""
        flow: Flow = ticket.flow
        if flow.level.spec.exempt:
            _AT_HAND.set((self, ticket))

    @contextlib.contextmanager
    def _lent(self, ticket: Ticket) -> Iterator[None]:
        queues = ticket.flow.level.queues
        # It may have left, or leave before others have answered, of whom several may be asked at the same time.
        if ticket.has_begun and not ticket.away:
            _wake(queues.lend(ticket, self.now()))
        ticket.away += 1
        try:
            yield
        finally:
            ticket.away -= 1
            if ticket.has_begun and not ticket.away:
                queues.take_back(ticket, self.now())

    def leave(self, ticket: Ticket) -> None:
        """Give the seats back. Once more does nothing."""
        if ticket.began_at < 0.0:
            return
        now = self.now()
        flow: Flow = ticket.flow
        flow.served.observe(now - ticket.began_at)
        begun = flow.level.queues.finish(ticket, now)
        ticket.began_at = -1.0
        if ticket.linger_s > 0.0:
            asyncio.get_running_loop().call_later(ticket.linger_s, self._release, ticket)
        if begun:
            _wake(begun)
        if now >= self._adjust_at:
            self._adjust(now)

    def _release(self, ticket: Ticket) -> None:
        _wake(ticket.flow.level.queues.release(ticket, self.now()))

    async def _wait(self, ticket: Ticket) -> None:
        flow: Flow = ticket.flow
        counted, queues = flow.counts, flow.level.queues
        ticket.wake = asyncio.get_running_loop().create_future()
        reason = _CANCELLED
        try:
            async with asyncio.timeout(None if flow.level.spec.exempt else self._wait_max_s):
                await ticket.wake
            reason = ""
        except TimeoutError:
            reason = _TIMED_OUT
            raise TooManyRequests(retry_after=1) from None
        finally:
            if reason:
                now = self.now()
                counted.refused[reason] += 1
                counted.waited_in_vain.observe(now - ticket.arrived_at)
                ticket.linger_s = 0.0
                # It may have got its seats in the very moment in which it gave up.
                _wake((queues.finish if ticket.has_begun else queues.abandon)(ticket, now))

    # --- for who looks on ---------------------------------------------------------------------

    def totals(self, level: str) -> Counter[str]:
        """See `dumps.Shown`."""
        found: Counter[str] = Counter()
        for (name, _), counted in self._counts.items():
            if name == level:
                found["dispatched"] += counted.dispatched
                found.update(counted.refused)
        return found

    @property
    def in_flight(self) -> dict[str, int]:
        """Requests that have seats, by what they do."""
        found = {"readOnly": 0, "mutating": 0}
        for level in self._everyone():
            for ticket in level.queues.executing:
                found["readOnly" if ticket.flow.asked.verb in _READING else "mutating"] += 1
        return found

    def _everyone(self) -> list[Level]:
        return [*self.leaving, *self.levels.values()]

    def collect(self) -> Iterable[Family]:
        return counts.collect(self._everyone(), self._counts, self._fair)


def elsewhere() -> contextlib.AbstractContextManager[None]:
    """The time in which a request waits for somebody outside. What is not exempt keeps its seats, as in Kubernetes."""
    found = _AT_HAND.get()
    return found[0]._lent(found[1]) if found is not None else contextlib.nullcontext()


def _wake(begun: Iterable[Ticket]) -> None:
    for ticket in begun:
        if not ticket.wake.done():
            ticket.wake.set_result(None)


def _read(read: Callable[[Object], _T], objects: Iterable[Object]) -> Iterable[_T]:
    for o in objects:
        try:
            yield read(o)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            # No server has let it in: somebody wrote it into etcd.
            log.error("%s cannot be read and is not in force: %s: %s", o.get("metadata"), type(e).__name__, e)
