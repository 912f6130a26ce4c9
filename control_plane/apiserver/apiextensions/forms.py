"""Objects in the forms that clients ask for: at once, or when the webhook that converts them has answered.

What is read and written by version asks here; without a webhook nothing waits. Objects of a list, and events of a watch
that come together, are asked in few questions; who needs the same at the same time shares the answer, and it is
remembered (`Kinds.converted`). A webhook that does not answer, or lies, fails those who need what it converts, and
nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.conversions import (
    BadConversion,
    Task,
    Unconverted,
    converted,
    failed,
    review,
)
from rayplane.control_plane.apiserver.extension_metrics import CALL_FAILURE, MALFORMED, Conversions
from rayplane.control_plane.apiserver.flowcontrol.fairness import elsewhere
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.storage.entries import Entry, encode
from rayplane.control_plane.apiserver.storage.outcomes import shutting_down
from rayplane.control_plane.apiserver.webhook_calls import Caller, CallFailed
from rayplane.control_plane.client.singleflight import SingleFlight
from rayplane.storage.env import Env

TIMEOUT_S = 30.0
"""Of one question to a webhook, as in Kubernetes."""
#: Objects of one question, and their bytes: answers have a bound too.
OBJECTS_MAX = 500
BYTES_MAX = 1 << 20
#: Questions until something is certain: who applies sees an object in the version of each manager.
_TRIES = 64

T = TypeVar("T")


class Forms:
    """The forms of objects, as one server serves them. Everything raises ApiError where a webhook fails."""

    def __init__(self, kinds: Kinds, caller: Caller, env: Env) -> None:
        self._kinds = kinds
        self._caller = caller
        self._env = env
        self.measured = Conversions()
        self._asking: SingleFlight[None] = SingleFlight(shutting_down)
        self._asked_for: dict[bytes, str] = {}
        """The question that is under way for each object."""

    async def stop(self) -> None:
        await self._asking.stop()

    async def to_stored(self, info: ResourceInfo, o: Object) -> Object:
        """See `Kinds.to_stored`."""
        if not info.custom:
            return self._kinds.to_stored(info, o)
        return await self.known(lambda: self._kinds.to_stored(info, o))

    async def from_stored(self, info: ResourceInfo, o: Object) -> Object:
        """See `Kinds.from_stored`."""
        if not info.custom:
            return self._kinds.from_stored(info, o)
        return await self.known(lambda: self._kinds.from_stored(info, o))

    async def json(self, info: ResourceInfo, entry: Entry) -> bytes:
        """See `Kinds.json`."""
        if not info.custom:
            return self._kinds.json(info, entry)
        return await self.known(lambda: self._kinds.json(info, entry))

    async def known(self, make: Callable[[], T]) -> T:
        """What `make` gives when it knows all conversions that it needs; it is called again until then."""

        async def made() -> T:
            return make()

        return await self.settled(made)

    async def settled(self, make: Callable[[], Awaitable[T]]) -> T:
        """As `known`."""
        for _ in range(_TRIES):
            try:
                return await make()
            except Unconverted as e:
                await self._ask([e.task])
        raise ApiError("an object was to be converted without end: its definition changes too fast", reason="")

    async def entries(self, info: ResourceInfo, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Entries whose objects are in the form of `info`, where a webhook makes that; else those that are given."""
        if self._kinds.webhook(info) is None or not any(_differs(info, entry) for entry in entries):
            return entries
        shown = replace(info, stored_api_version=info.api_version)
        made: list[Entry] = []
        for piece in _pieces(entries):
            tasks: dict[bytes, Task] = {}
            for entry in piece:
                try:
                    self._kinds.from_stored(info, entry.object)
                except Unconverted as e:
                    tasks[e.task.key] = e.task
            if tasks:
                await self._ask(list(tasks.values()))
            for entry in piece:
                if not _differs(info, entry):
                    made.append(entry)
                    continue
                o = await self.from_stored(info, entry.object)
                made.append(Entry(shown, entry.key, encode(o), entry.revision))
        return made

    async def _ask(self, tasks: Sequence[Task]) -> None:
        """Ask a webhook for what nobody asks for, and wait for what others do; the tasks are of the same version."""
        others = {self._asked_for[task.key] for task in tasks if task.key in self._asked_for}
        own = [task for task in tasks if task.key not in self._asked_for]
        if own:
            uid = self._env.uuid()
            self._asked_for.update((task.key, uid) for task in own)
            with elsewhere():
                await self._asking.run(uid, lambda: self._question(own, uid))
        for one in others:
            # What comes of it is seen by who looks again, and asks again where it failed.
            with contextlib.suppress(ApiError), elsewhere():
                await self._asking.run(one, _nothing)

    async def _question(self, tasks: Sequence[Task], uid: str) -> None:
        try:
            await self._asked(tasks, uid)
        finally:
            for task in tasks:
                self._asked_for.pop(task.key, None)

    async def _asked(self, tasks: Sequence[Task], uid: str) -> None:
        webhook, failure, loop = tasks[0].webhook, "", asyncio.get_running_loop()
        began = loop.time()
        try:
            answer = await self._caller.post(webhook.client, review(tasks, uid), TIMEOUT_S)
            objects = converted(tasks, uid, answer)
        except CallFailed as e:
            failure = CALL_FAILURE
            why = str(e).removeprefix("failed to call webhook: ")
            raise ApiError(failed(tasks, why), reason="") from e
        except BadConversion as e:
            failure = MALFORMED
            raise ApiError(str(e), reason="") from e
        finally:
            versions = (str(tasks[0].object.get("apiVersion")), tasks[0].api_version)
            from_, to = (one.rpartition("/")[2] for one in versions)
            self.measured.observe(loop.time() - began, webhook.definition, (from_, to), failure)
        for task, o in zip(tasks, objects, strict=True):
            self._kinds.converted.learn(task, o)


async def _nothing() -> None:
    """The work of who only waits for that of others."""


def _differs(info: ResourceInfo, entry: Entry) -> bool:
    return entry.readable and entry.object.get("apiVersion") != info.api_version


def _pieces(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """The entries in order, so many at once as one question may hold."""
    start = size = 0
    for at, entry in enumerate(entries):
        more = entry.size if entry.readable else 0
        if at > start and (at - start == OBJECTS_MAX or size + more > BYTES_MAX):
            yield entries[start:at]
            start, size = at, 0
        size += more
    yield entries[start:]
