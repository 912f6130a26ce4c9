"""The garbage collector's settings for a process that serves."""

import contextlib
import ctypes
import gc

COLLECTOR_THRESHOLDS = (50_000, 20, 50)


def grow_heap() -> None:
    """Tell the garbage collector to look seldom; call first, before a process imports and makes what it needs.

    The collector's default is to look for cycles after every 700 new objects: a tenth of the time that imports take,
    and of a busy process's.
    """
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def settle_heap() -> None:
    """Tell the garbage collector that what is there now stays; call once, when a process's components have started.

    Caches are large trees of small dicts that reference counting frees. What little is left over in cycles by a start
    stays, too: to look for it takes longer than a tenth of the whole start, just when the first requests come.
    """
    grow_heap()
    gc.freeze()
    # What only starting needed (a log that was read whole) goes back to the system; other C libraries do it unasked.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
