"""The log of calls and requests that fail: one line each, as many as fit; a trace now and then.

Who can call can make calls fail, as often as it likes. So what a client does wrong is not logged at all but answered;
what we did wrong is one line, at most LINES_BURST at once and one every LINE_EVERY_S seconds after that, and each
place of the code shows its trace once in TRACE_EVERY_S.
"""

import logging
import time
from collections.abc import Callable

LINES_BURST = 20
LINE_EVERY_S = 1.0
TRACE_EVERY_S = 600.0
#: Places whose last trace is remembered.
PLACES_MAX = 256
LINE_CHARS_MAX = 500


class FaultLog:
    """A log of faults that writes to one logger; `clock` gives seconds."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._left = float(LINES_BURST)
        self._at = clock()
        self._unsaid = 0
        self._traced: dict[tuple[str, str, int], float] = {}

    def tell(self, what: str, exception: BaseException | None = None, *, level: int = logging.ERROR) -> None:
        """`what` failed, by `exception` where there is one. Control characters are escaped: it is one line."""
        now = self._clock()
        self._left = min(float(LINES_BURST), self._left + max(0.0, now - self._at) / LINE_EVERY_S)
        self._at = now
        if self._left < 1:
            self._unsaid += 1
            return
        self._left -= 1
        text = what if exception is None else f"{what}: {type(exception).__name__}: {exception}"
        if self._unsaid:
            text, self._unsaid = f"{text[:LINE_CHARS_MAX]} (and {self._unsaid} more that were not told)", 0
        line = text[: LINE_CHARS_MAX + 100].encode("unicode_escape").decode()
        self._log.log(level, "%s", line, exc_info=exception if self._traces(exception, now) else None)

    def _traces(self, exception: BaseException | None, now: float) -> bool:
        if exception is None or exception.__traceback__ is None:
            return False
        last = exception.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        place = (type(exception).__name__, last.tb_frame.f_code.co_filename, last.tb_lineno)
        before = self._traced.get(place)
        if before is not None and now - before < TRACE_EVERY_S:
            return False
        if len(self._traced) >= PLACES_MAX:
            self._traced.clear()
        self._traced[place] = now
        return True
