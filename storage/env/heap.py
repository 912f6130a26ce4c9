"""The garbage collector's settings for a process that serves."""

import asyncio
import contextlib
import ctypes
import gc
import threading
from collections.abc import Iterator

from rayplane.storage.process import grow_heap

#: What ended components have left is looked for so long after the first of them ended, and so often at most: it stops
#: the process for as long as it takes.
SWEEP_AFTER_S, SWEEP_EVERY_S = 5.0, 30.0


_growing: list[tuple[int, int, int]] = []
# What starts in other threads begins and ends meanwhile.
_growing_lock = threading.Lock()


@contextlib.contextmanager
def growing_heap() -> Iterator[None]:
    """Around the start of something in a process that is others': the collector looks seldom, and then as it did."""
    with _growing_lock:
        _growing.append(gc.get_threshold())
        grow_heap()
    try:
        yield
    finally:
        with _growing_lock:
            # Who ends last gives back what the first one found.
            before = _growing[0]
            _growing.pop()
            if not _growing:
                gc.set_threshold(*before)


def settle_heap() -> None:
    """Tell the garbage collector that what is there now stays; call once, when a process's components have started.

    Caches are large trees of small dicts that reference counting frees. What little is left over in cycles by a start
    stays, too: to look for it takes longer than a tenth of the whole start, just when the first requests come.
    """
    grow_heap()
    gc.freeze()
    # What only starting needed (a log that was read whole).
    _give_back()


class HeapSweep:
    """One look for the cycles that ended components have left, for all that end meanwhile.

    A process that goes on without them would keep them: by itself the collector looks at old objects once in hours.
    """

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._earliest_s = 0.0

    def soon(self) -> None:
        """A component has ended."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time() + SWEEP_AFTER_S, self._earliest_s), self._sweep)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        gc.collect()
        _give_back()
        self._earliest_s = asyncio.get_running_loop().time() + SWEEP_EVERY_S


def _give_back() -> None:
    """Free memory goes back to the system; other C libraries do it unasked."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
