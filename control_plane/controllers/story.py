"""The story of what controllers did: for each of their keys the last looks, from which changes, and what came of them.

Bounded by entries and bytes; when it is full, the keys that were not looked at for longest are forgotten. It is written
at each reconcile, so it keeps what it is given and puts it into words when somebody asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Delete, Patch, Write

LOOKS_OF_KEY_MAX = 16
LOOKS_MAX = 20_000
BYTES_MAX = 16 * 1024 * 1024
CHANGES_MAX, WRITES_MAX = 6, 32  # of one look
ERROR_CHARS_MAX = 500
# What a look takes besides its texts, and a change or write of it.
_LOOK_BYTES, _PART_BYTES = 600, 300


class Change(NamedTuple):
    """A change of an object that a controller was told of."""

    resource: str
    object: str
    kind: str
    version: str


class Written(NamedTuple):
    """A write, and the version that the server answered, or why it refused."""

    verb: str
    resource: str
    object: str
    version: str = ""
    error: str = ""


@dataclass(slots=True)
class Look:
    """One reconcile of a key; or several in a row to the same effect, none, as the last of them."""

    controller: str
    key: str
    at: datetime
    seconds: float = 0.0
    times: int = 1
    changes: Sequence[Change] = ()
    changes_left_out: int = 0
    writes: Sequence[Written] = ()
    writes_left_out: int = 0
    error: str = ""
    """Why it comes again after a pause; empty: it went well."""
    requeue_after_s: float | None = None

    def repeats(self, before: Look) -> bool:
        """Whether nothing came of either, for the same reason."""
        if self.error != before.error:
            return False
        if not self.writes and not before.writes:
            return True
        return not any(written.version for look in (before, self) for written in look.writes)

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        size = _LOOK_BYTES + len(self.error) + _PART_BYTES * (len(self.changes) + len(self.writes))
        return size + sum(len(one.error) for one in self.writes) if self.writes else size

    def concerns(self, resource: str, name: str) -> bool:
        """Whether it was about an object, or made or changed it."""
        return any(c.object == name and c.resource == resource for c in self.changes) or any(
            w.object == name and w.resource == resource for w in self.writes
        )


class Story:
    """The story of a replica's controllers, over all of its terms."""

    def __init__(self, *, looks_max: int = LOOKS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._looks_max, self._bytes_max = looks_max, bytes_max
        self._looks: OrderedDict[tuple[str, str], list[Look]] = OrderedDict()
        self._count = self._bytes = 0
        self.forgotten = False
        """Whether any key's looks are gone."""

    def add(self, look: Look) -> None:
        place = (look.controller, look.key)
        known = self._looks.get(place)
        if known is None:
            known = self._looks[place] = []
        else:
            self._looks.move_to_end(place)
        if known and look.repeats(known[-1]):
            look.times += known[-1].times
            self._drop(known.pop())
        elif len(known) >= LOOKS_OF_KEY_MAX:
            self._drop(known.pop(0))
        known.append(look)
        self._count += 1
        self._bytes += look.size
        while (self._count > self._looks_max or self._bytes > self._bytes_max) and len(self._looks) > 1:
            for old in self._looks.popitem(last=False)[1]:
                self._drop(old)
            self.forgotten = True

    def _drop(self, look: Look) -> None:
        self._count -= 1
        self._bytes -= look.size

    def of_key(self, controller: str, key: str) -> Sequence[Look]:
        return self._looks.get((controller, key), ())

    def about(self, resource: str, name: str, owners: frozenset[str]) -> list[Look]:
        """The looks that concern an object, in the order in which they were told.

        `owners`: controllers whose key of that name is the object itself.
        """
        found = [
            look
            for (controller, key), looks in self._looks.items()
            for look in looks
            if (key == name and controller in owners) or look.concerns(resource, name)
        ]
        return sorted(found, key=lambda look: look.at)

    def __len__(self) -> int:
        return self._count


class Teller:
    """The teller of one controller's part, for one term. What it was told of a key is kept until its next look."""

    def __init__(self, story: Story, controller: str) -> None:
        self._story = story
        self._controller = controller
        self._pending: dict[str, list[Change]] = {}
        self._left_out: dict[str, int] = {}

    def changed(self, key: str, resource: str, kind: str, obj: Object) -> None:
        """A key is to be looked at because an object has changed."""
        change = Change(resource, meta.key(obj), kind, meta.resource_version(obj))
        pending = self._pending.get(key)
        if pending is None:
            self._pending[key] = [change]
        elif len(pending) < CHANGES_MAX:
            pending.append(change)
        else:
            self._left_out[key] = self._left_out.get(key, 0) + 1

    def look(self, key: str, at: datetime) -> Look:
        """A look that begins now; tell how it ended by `ended`."""
        left_out = self._left_out.pop(key, 0) if self._left_out else 0
        return Look(self._controller, key, at, changes=self._pending.pop(key, ()), changes_left_out=left_out)

    def ended(
        self,
        look: Look,
        seconds: float,
        *,
        answers: Sequence[tuple[Write, Object | ApiError]] = (),
        error: str = "",
        requeue_after_s: float | None = None,
    ) -> None:
        """A look has ended: with the server's answers to its writes, and why it failed, if it did."""
        look.seconds = seconds
        if answers:
            look.writes = tuple(_written(answers))
            look.writes_left_out = max(0, len(answers) - WRITES_MAX)
        look.error = error[:ERROR_CHARS_MAX]
        look.requeue_after_s = requeue_after_s
        self._story.add(look)


def _written(answers: Sequence[tuple[Write, Object | ApiError]]) -> Iterator[Written]:
    for write, answer in islice(answers, WRITES_MAX):
        verb = type(write).__name__.lower()
        name = _name(write)
        if isinstance(answer, ApiError):
            yield Written(verb, write.resource, name, error=answer.message[:ERROR_CHARS_MAX])
        elif isinstance(write, Delete):
            yield Written(verb, write.resource, name)
        else:
            yield Written(verb, write.resource, meta.key(answer), meta.resource_version(answer))


def _name(write: Write) -> str:
    if isinstance(write, Patch):
        return f"{write.namespace}/{write.name}" if write.namespace else write.name
    return meta.key(write.obj) + (
        meta.metadata(write.obj).get("generateName") or "" if not meta.name(write.obj) else ""
    )
