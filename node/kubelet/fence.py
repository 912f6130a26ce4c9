"""Fence of a node: it tells when the node must take itself for cut off from the cluster."""

import asyncio
from collections.abc import Callable


class Fence:
    """A fence that closes when the node's Lease was not renewed for `after_s`: its pods stop before others are started
    elsewhere.

    Whoever comes first looks: a process that was stopped may find events of its containers before its timers.
    """

    __slots__ = ("_on_close", "after_s", "closed", "heard_at")

    def __init__(self, after_s: float, on_close: Callable[[], None]) -> None:
        self.after_s = after_s
        self.closed = False
        self.heard_at = 0.0
        """When the last renewal was sent, on the loop's clock."""
        self._on_close = on_close

    @property
    def due(self) -> float:
        """Moment at which it closes unless the cluster is heard."""
        return self.heard_at + self.after_s

    def is_late(self) -> bool:
        return asyncio.get_running_loop().time() >= self.due

    def check(self) -> None:
        if not self.closed and self.is_late():
            self.closed = True
            self._on_close()

    def open(self) -> None:
        self.closed = False
