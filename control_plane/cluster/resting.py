"""A rest for the main thread of a process whose work is done by others.

The main thread of a Ray worker asks a hundred times a second for signals that came in, which costs half a percent of a
core in each of a cluster's processes. Nothing turns that off; but a handler of a signal may take its time. So an event
loop in another thread sends the main thread to rest by a signal, again and again. Ray's calls (start, stop) wait until
a rest is over.
"""

import asyncio
import contextlib
import signal
import threading
import time

#: How late a call of Ray may come for it.
REST_S = 1.0
#: In between, for the calls that wait.
AWAKE_S = 0.05
# Unlike others it does nothing to a process without a handler.
_SIGNAL = signal.SIGURG
_sleep = time.sleep


class Rests:
    """The rests of the main thread. Make and end them in that thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """`loop`: runs in another thread."""
        self._loop = loop
        self._ended = False
        self._thread = threading.main_thread().ident or 0
        signal.signal(_SIGNAL, lambda *_: self._rest())
        self._awake(REST_S)

    def end(self) -> None:
        self._ended = True

    def _awake(self, span_s: float) -> None:
        """Rest when that span is over."""
        # A loop that is closed needs no main thread any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.call_later, span_s, self._send)

    def _send(self) -> None:
        if not self._ended:
            signal.pthread_kill(self._thread, _SIGNAL)

    def _rest(self) -> None:
        # The next signal is sent after this rest, so that none comes into another.
        if not self._ended:
            _sleep(REST_S)
            self._awake(AWAKE_S)
