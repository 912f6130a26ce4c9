"""Events (events.k8s.io) about what happens on a node."""

import asyncio

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import EventRecorder

BURST_S = 5.0


class Events:
    """A recorder that writes Events; Normal ones at most `per_s` a second (with a burst of BURST_S), as they are but a
    courtesy.
    """

    def __init__(self, recorder: EventRecorder, *, per_s: float) -> None:
        self._recorder = recorder
        self._per_s = per_s
        self._tokens = per_s * BURST_S
        self._at = 0.0

    def record(self, about: Object, kind: str, reason: str, message: str, *, part: str = "") -> None:
        """`kind`: Normal or Warning. `part`: of the object, `spec.containers{web}`."""
        if kind == "Normal" and not self._take():
            return
        self._recorder.event(about, kind, reason, message, part=part)

    def announce(self, about: Object, reason: str, message: str) -> None:
        """A Normal one that is written however many there are."""
        self._recorder.event(about, "Normal", reason, message)

    def _take(self) -> bool:
        now = asyncio.get_running_loop().time()
        refilled = self._tokens + (now - self._at) * self._per_s
        self._tokens, self._at = min(self._per_s * BURST_S, refilled), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
