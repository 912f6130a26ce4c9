"""Garbage in aggregated APIs: their servers keep objects that no cache here follows, so the API servers look for it.

While there are such APIs, all their objects are looked through now and then.
Source: Kubernetes concepts "Garbage Collection" (whose collector watches them like all others).
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import CollectAggregated
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)
from rayplane.control_plane.controllers.elsewhere import SERVICES

_ALL = "all"


def _of_others(service: Object, _view: View) -> Iterable[str]:
    return (_ALL,) if meta.spec(service).get("service") else ()


class AggregatedGarbageCollector(BaseController):
    """Its one key is all of it."""

    name = "garbagecollector-aggregated"
    component = "garbage-collector-controller"

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._due = 0.0
        self.watches = (Watch(SERVICES, _of_others),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        if not any(meta.spec(service).get("service") for service in view.list(SERVICES)):
            return NOTHING
        if now.mono < self._due:
            return result(requeue_after=self._due - now.mono)
        self._due = now.mono + self._period_s
        return result([CollectAggregated()], requeue_after=self._period_s)
