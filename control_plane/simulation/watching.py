"""The looks at a run while it goes on: until when, and at the doings of one component."""

import logging
from collections.abc import Callable

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.durations import DurationError, parse_span
from rayplane.control_plane.simulation.loop import LIFE, VirtualLoop
from rayplane.control_plane.simulation.trace import Event, Trace

Say = Callable[[str], None]


class Until:
    """A moment that is waited for: a time of the run (`90s`, `12.5`), or the first event whose words begin so, or have
    that in them: `kill member-0`, `VIOLATION`, `step 4`."""

    def __init__(self, text: str, after_s: float = 0.0) -> None:
        """`after_s`: from when on. Raises UsageError."""
        if not text.strip():
            raise UsageError("name a time such as 90s, or an event such as `kill member-0`")
        self._text = text.strip()
        try:
            self.time_s: float | None = parse_span(self._text)
        except DurationError:
            self.time_s = None
        self._after_s = after_s

    def __str__(self) -> str:
        return self._text

    def is_met_by(self, event: Event) -> bool:
        """Whether it was this event that is waited for."""
        return self.time_s is None and event.at_s >= self._after_s and self._text in f"{event.kind} {event.text}"

    def is_met_at(self, time_s: float) -> bool:
        return self.time_s is not None and time_s >= self.time_s


def halt_at(loop: VirtualLoop, trace: Trace, text: str) -> None:
    """End the run at a moment (see `Until`): `loop.halted` says at which. Raises UsageError."""
    until = Until(text)

    def heard(event: Event) -> None:
        if not loop.halted and until.is_met_by(event):
            loop.halted = str(event).strip()

    trace.listeners.append(heard)
    if until.time_s is not None:
        loop.halt_s = until.time_s


class Tracer(logging.Handler):
    """A teller of all that one component does: its events, its messages, its log from DEBUG on."""

    def __init__(self, name: str, loop: VirtualLoop, trace: Trace, say: Say) -> None:
        super().__init__(logging.DEBUG)
        self._name = name
        self._loop = loop
        self._say = say
        trace.listeners.append(self._event)
        trace.tap = self._message

    def _tell(self, text: str) -> None:
        self._say(f"{self._loop.time():12.6f} {text}")

    def _event(self, event: Event) -> None:
        if self._name in event.text:
            self._tell(f"{event.kind} {event.text}")

    def _message(self, source: str, target: str, size: int) -> None:
        if self._name in (source, target):
            self._tell(f"{source} -> {target} {size} bytes")

    def emit(self, record: logging.LogRecord) -> None:
        life = LIFE.get()
        if life is not None and life.name == self._name:
            self._tell(f"{record.levelname} {record.name}: {record.getMessage()}")
