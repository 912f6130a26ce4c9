"""Events that tell users what components did (core/v1 Event; the aggregation of client-go's `record`).

Repeats of the same event become a count on one object, and so do many that differ in their text alone (`correlation`).
At most `KNOWN_MAX` are remembered, written or waiting; when
the API is away for long the oldest are dropped, as events are a courtesy and never worth blocking for.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ops
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.client.correlation import Correlator
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

KNOWN_MAX = 4096
BATCH_MAX = 200
FLUSH_S = 0.2
COMBINED = "(combined from similar events): "

_Key = tuple[str, str, str, str, str, str]


@dataclass(slots=True)
class _Known:
    """An event as last written or to be written."""

    event: Object
    written: bool = False


class EventRecorder:
    """A recorder that writes events in batches in the background; `event` never waits and never fails."""

    def __init__(self, client: ApiClient, env: Env, *, component: str, host: str = "", correlates: bool = True) -> None:
        """`correlates` False: each text is told by itself, however many there are, as by events.k8s.io's recorder."""
        self._client = client
        self._env = env
        self._component = component
        self._host = host
        self._known: OrderedDict[_Key, _Known] = OrderedDict()
        self._pending: OrderedDict[_Key, None] = OrderedDict()
        self._correlator = Correlator() if correlates else None
        self._stamp = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"events of {self._component}")

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None

    def event(
        self, about: Object, kind: str, reason: str, message: str, *, part: str = "", component: str = ""
    ) -> None:
        """`kind` is Normal or Warning; `reason` a CamelCase word; `message` a sentence for people.

        `part`: the part of the object that it is about, `spec.containers{web}`. `component`: in whose name, if not its
        own.
        """
        reference = meta.object_reference(about)
        if part:
            reference["fieldPath"] = part
        object_key = reference.get("uid", ""), reference.get("name", "")
        correlator, now = self._correlator, asyncio.get_running_loop().time()
        alike = (*object_key, kind, reason)
        key: _Key = (*alike, part, message)
        if correlator is not None and correlator.is_one_of_many(alike, message, now):
            key, message = (*alike, "", COMBINED), COMBINED + message
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(
                self._fresh(reference, kind, reason, message, component or self._component)
            )
            if len(self._known) > KNOWN_MAX:
                old, _ = self._known.popitem(last=False)
                self._pending.pop(old, None)
        else:
            self._known.move_to_end(key)
            known.event["message"] = message
            known.event["count"] += 1
            known.event["lastTimestamp"] = self._env.timestamp()
        # What waits to be written anyway costs nothing more.
        if key in self._pending or correlator is None or correlator.has_room(object_key, now):
            self._pending[key] = None
            self._wake.set()

    def _fresh(self, reference: dict[str, str], kind: str, reason: str, message: str, component: str) -> Object:
        stamp = self._env.timestamp()
        namespace = reference.get("namespace") or "default"
        suffix = f"{self._next_stamp():016x}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{reference.get('name', '')}.{suffix}", "namespace": namespace},
            "involvedObject": reference,
            "reason": reason,
            "message": message,
            "source": {"component": component} | ({"host": self._host} if self._host else {}),
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
            "type": kind,
            "reportingComponent": component,
            "reportingInstance": self._host,
        }

    def _next_stamp(self) -> int:
        """Nanoseconds, of which the clock knows thousands: events of one second are listed as they came."""
        now = round(self._env.clock.now().timestamp() * 1_000_000) * 1000 + self._env.rng.getrandbits(64) % 1000
        self._stamp = max(now, self._stamp + 1)
        return self._stamp

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_S)
            self._wake.clear()
            while self._pending:
                await self._flush()

    async def _flush(self) -> None:
        keys = [self._pending.popitem(last=False)[0] for _ in range(min(BATCH_MAX, len(self._pending)))]
        batch = [(key, self._known[key]) for key in keys if key in self._known]
        operations = [
            ops.patch(
                "events",
                meta.name(k.event),
                meta.namespace(k.event),
                {f: k.event[f] for f in ("count", "lastTimestamp", "message")},
            )
            if k.written
            else ops.create("events", k.event)
            for _, k in batch
        ]
        try:
            answers = await self._client.batch(operations, quiet=True)
        except ApiError as e:
            log.debug("events of %s are late: %s", self._component, e.message)
            for key, _ in batch:
                if key in self._known:
                    self._pending.setdefault(key)
            await asyncio.sleep(1.0)
            return
        for (key, known), answer in zip(batch, answers, strict=True):
            if not isinstance(answer, ApiError):
                known.written = True
            elif isinstance(answer, AlreadyExists):
                # An earlier batch got no answer but was done: what is there has an older count.
                known.written = True
                self._pending.setdefault(key)
            elif isinstance(answer, NotFound):
                # The event, or its namespace, is gone: the next repeat starts a new one.
                self._known.pop(key, None)
