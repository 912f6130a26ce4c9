"""The trace of a run as one running hash: two runs are the same when their hashes are."""

import hashlib
from collections import deque
from collections.abc import Callable

LAST_EVENTS = 60


class Trace:
    """Events with their virtual time. Every one counts in the hash; the last notable ones are kept for people."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._hash = hashlib.sha256()
        self._last: deque[str] = deque(maxlen=LAST_EVENTS)
        self.events = 0
        self.messages = 0

    def message(self, source: str, target: str, data: bytes) -> None:
        """A message is on its way."""
        self.messages += 1
        head = f"{self._now()!r} {source} {target} {len(data)} ".encode()
        self._hash.update(head + data)

    def event(self, kind: str, *details: object) -> None:
        """Something notable: kills, acknowledged writes, what a client saw."""
        self.events += 1
        now = self._now()
        text = " ".join(map(str, details))
        self._hash.update(f"{now!r} {kind} {text}\n".encode())
        self._last.append(f"{now:12.6f} {kind:10} {text[:200]}")

    @property
    def hash(self) -> str:
        return self._hash.hexdigest()[:32]

    @property
    def last(self) -> list[str]:
        """The last notable events, oldest first."""
        return list(self._last)
