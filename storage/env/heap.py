"""The garbage collector's settings for a process that serves."""

import contextlib
import ctypes
import gc

COLLECTOR_THRESHOLDS = (50_000, 20, 50)


def settle_heap() -> None:
    """Tell the garbage collector that what is there now stays; call once, when a process's components have started.

    Caches are large trees of small dicts that reference counting frees. The collector's default is to look for
    cycles after every 700 new ones, which took a tenth of a busy process's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    # What only starting needed (a log that was read whole) goes back to the system; other C libraries do it unasked.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
