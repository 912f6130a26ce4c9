"""Limits of streams: commands, port-forwards and followed logs that are open at once, of a pod and of a host.

Fewer than the runtime allows, so that the commands of probes and hooks find room whatever clients do.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator

from rayplane.node.errors import TooMany

PER_POD = 32
PER_HOST = 192


class Sessions:
    """Open ones by pod; bounded by PER_HOST."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def open(self, pod: str) -> int:
        return self._open[pod]

    @contextlib.contextmanager
    def one(self, pod: str) -> Iterator[None]:
        """Hold a place for `pod` (its key). Raises TooMany."""
        if self._open[pod] >= PER_POD:
            raise TooMany(f"{PER_POD} sessions of pod {pod} are open: end some first")
        if self._open.total() >= PER_HOST:
            raise TooMany(f"{PER_HOST} sessions of this node host are open: end some first")
        self._open[pod] += 1
        try:
            yield
        finally:
            self._open[pod] -= 1
            if not self._open[pod]:
                del self._open[pod]
