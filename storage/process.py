"""The beginning of a process of ours: what others may read of its files, and how seldom its garbage is looked for."""

import gc

#: What processes that keep a cluster's data run with.
UMASK = 0o077
COLLECTOR_THRESHOLDS = (50_000, 20, 50)


def grow_heap() -> None:
    """Tell the garbage collector to look seldom; call first, before a process imports and makes what it needs.

    The collector's default is to look for cycles after every 700 new objects: a tenth of the time that imports take,
    and of a busy process's.
    """
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
