"""Widths of requests: the seats that they take, by what they will have to do. Pure.

A list takes a seat for each 100 kB that it holds at once. A write goes on after its answer, in who is told of it: it
keeps its seats for as long as that takes.

Source: apiserver's flowcontrol/request, with what telling one more watcher takes here.
"""

import math

_BYTES_PER_SEAT = 100_000
# Lists are sent in pieces: no more of one than this is held.
_LIST_BYTES_MAX = 1_000_000
WATCHES_PER_SEAT = 10
# Watchers of one selection share the encoded change: what is left for each is a write to its connection.
_TOLD_S = 20e-6


def of_list(objects: int, object_bytes: int, widest: int) -> int:
    """Seats of a list of so many objects of about such a size."""
    return min(max(math.ceil(min(objects * object_bytes, _LIST_BYTES_MAX) / _BYTES_PER_SEAT), 1), widest)


def of_write(watches: int, widest: int) -> tuple[int, float]:
    """Seats that a write takes in the end, and for how many seconds; nothing where few watch."""
    if watches < WATCHES_PER_SEAT:
        return 0, 0.0
    seats = min(math.ceil(watches / WATCHES_PER_SEAT), widest)
    return seats, watches * _TOLD_S / seats
