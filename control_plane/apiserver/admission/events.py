"""EventRateLimit: events come no faster than the configuration says.

Source: kubernetes/plugin/pkg/admission/eventratelimit.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from rayplane.control_plane.api.errors import TooManyRequests
from rayplane.control_plane.apiserver.admission.configuration import (
    NAMESPACE,
    SERVER,
    SOURCE_AND_OBJECT,
    USER,
    EventLimit,
)
from rayplane.control_plane.apiserver.admission.request import CREATE, UPDATE, AdmissionRequest

_OF_SOURCE = ("component", "host")
_OF_OBJECT = ("kind", "namespace", "name", "uid", "apiVersion")


class Buckets:
    """Token buckets by key: those that were used last, up to `limit.cache_size`. Time is the caller's."""

    def __init__(self, limit: EventLimit) -> None:
        self._limit = limit
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now: float) -> bool:
        """Whether one more may come now."""
        burst = float(self._limit.burst)
        left, since = self._left.pop(key, (burst, now))
        left = min(burst, left + (now - since) * self._limit.qps)
        accepted = left >= 1
        self._left[key] = (left - 1 if accepted else left), now
        if len(self._left) > self._limit.cache_size:
            self._left.popitem(last=False)
        return accepted


class EventRates:
    """The plug-in."""

    def __init__(self, limits: Sequence[EventLimit]) -> None:
        self._limits = [(limit.type, Buckets(limit)) for limit in limits]

    async def admit(self, request: AdmissionRequest) -> None:
        """TooManyRequests."""
        info = request.asked or request.info
        if info.plural != "events" or info.group or request.operation not in (CREATE, UPDATE):
            return
        now, refused = asyncio.get_running_loop().time(), ""
        for kind, buckets in self._limits:
            key = _KEYS[kind](request)
            if not buckets.take(key, now):
                refused = f"Too many requests: limit reached on type {kind} for key {key}"
        if refused:
            raise TooManyRequests(refused)


def _source_and_object(request: AdmissionRequest) -> str:
    source, about = (request.object.get(part) or {} for part in ("source", "involvedObject"))
    parts = [source.get(part) for part in _OF_SOURCE] + [about.get(part) for part in _OF_OBJECT]
    return "".join(str(part or "") for part in parts)


_KEYS: Mapping[str, Callable[[AdmissionRequest], str]] = {
    SERVER: lambda request: "",
    NAMESPACE: lambda request: request.namespace,
    USER: lambda request: request.user.name,
    SOURCE_AND_OBJECT: _source_and_object,
}
