"""The trace of a run as one running hash: two runs are the same when their hashes are."""

import hashlib
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

LAST_EVENTS = 60
STORY_EVENTS = 200
#: What happens by the hundred and says little by itself: not for the story.
COMMON = frozenset(
    {"asked", "cut-off", "rest-rewatch", "rest-told", "rewatch", "saw", "told", "unreached", "unread", "write"}
)
_WRONG = "VIOLATION"
#: A story goes on so far after what went wrong first.
_AFTERWARDS = 10


class Event(NamedTuple):
    """Something notable: when in virtual time, of which kind, and its details."""

    at_s: float
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.at_s:12.6f} {self.kind:10} {self.text[:200]}"


class Trace:
    """Events with their virtual time. Every one counts in the hash; the last notable ones are kept for people."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._hash = hashlib.sha256()
        self._last: deque[Event] = deque(maxlen=LAST_EVENTS)
        self.story: deque[Event] = deque(maxlen=STORY_EVENTS)
        """The rarer ones up to the first violation, oldest first: who did what, not what everybody saw."""
        self.at_fault: list[str] = []
        """What had happened when something was wrong for the first time."""
        self._wrong = False
        self._story_left = _AFTERWARDS
        self.listeners: list[Callable[[Event], None]] = []
        """Told of each event."""
        self.tap: Callable[[str, str, int], None] | None = None
        """Told of each message: source, target, bytes."""
        self.events = 0
        self.messages = 0

    def message(self, source: str, target: str, data: bytes) -> None:
        """A message is on its way."""
        self.messages += 1
        head = f"{self._now()!r} {source} {target} {len(data)} ".encode()
        self._hash.update(head + data)
        if self.tap is not None:
            self.tap(source, target, len(data))

    def event(self, kind: str, *details: object) -> None:
        """Something notable: kills, acknowledged writes, what a client saw."""
        self.events += 1
        event = Event(self._now(), kind, " ".join(map(str, details)))
        self._hash.update(f"{event.at_s!r} {kind} {event.text}\n".encode())
        self._last.append(event)
        if kind not in COMMON and self._story_left:
            self.story.append(event)
            if kind == _WRONG and not self._wrong:
                self._wrong, self.at_fault = True, self.last
            self._story_left -= self._wrong
        for listener in self.listeners:
            listener(event)

    def remark(self, kind: str, *details: object) -> None:
        """Something for the story alone: nothing happened."""
        if self._story_left:
            self.story.append(Event(self._now(), kind, " ".join(map(str, details))))

    @property
    def hash(self) -> str:
        return self._hash.hexdigest()[:32]

    @property
    def last(self) -> list[str]:
        """The last notable events, oldest first."""
        return [*map(str, self._last)]
