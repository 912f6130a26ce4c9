"""The garbage collector looks as often as it did before, once what grew has grown."""

import gc
import threading

import pytest

from rayplane.storage.env import growing_heap, heap
from rayplane.storage.process import COLLECTOR_THRESHOLDS


def test_starts_in_two_threads_leave_the_collector_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one begins just when the first one ends."""
    before, began, may_end = gc.get_threshold(), threading.Event(), threading.Event()

    def start_too() -> None:
        with growing_heap():
            began.set()
            may_end.wait(5)

    other = threading.Thread(target=start_too)

    class Growing(list[tuple[int, int, int]]):
        def pop(self, *_: object) -> tuple[int, int, int]:
            found = super().pop()
            if other.ident is None:
                other.start()
                began.wait(0.05)  # in vain: it waits for the first one
            return found

    monkeypatch.setattr(heap, "_growing", Growing())
    try:
        with growing_heap():
            assert gc.get_threshold() == COLLECTOR_THRESHOLDS
        may_end.set()
        other.join()
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*before)
