"""Resource quotas: their status says what is allowed and what is used.

Admission adds what is created in the transaction that creates it; what goes away is found here. The caches say when
they and the status disagree; then the API server itself is asked, since a cache of pods may be behind that of quotas.
Source: Kubernetes concepts "Resource Quotas".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLASSES
from rayplane.control_plane.api.device_quotas import NO_NAMES, is_of_resource, names_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import report_of
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.api.quotas import CLAIMS, DEVICES, PODS, SERVICES, counted, used
from rayplane.control_plane.controllers.actions import Recount
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Keys,
    Moment,
    Result,
    View,
    Watch,
    in_namespace,
    never,
    result,
)

QUOTAS = "resourcequotas"
GATHER_S = 0.5
#: What nobody watches, and pods whose time to end runs out, are looked at this often.
RESYNC_S = 300.0


class ResourceQuotaController(BaseController):
    name = "resourcequota"
    component = "resourcequota-controller"

    def __init__(self, resources: Sequence[str]) -> None:
        """`resources`: those whose changes are watched, by plural[.group]."""
        self.follow(resources)

    def follow(self, resources: Sequence[str]) -> None:
        """Watch these from now on, and no others."""
        self._watched = tuple(resources)
        self.watches: Sequence[Watch] = (Watch(QUOTAS), _CLASSES, *(_watch(r) for r in resources))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        quota = view.get(QUOTAS, *meta.split_key(key))
        if quota is None or meta.is_deleting(quota):
            return NOTHING
        hard, names = meta.spec(quota).get("hard") or {}, names_of(view.list(CLASSES))
        seen = {r: in_namespace(view, r, meta.namespace(quota)) for r in self._watched if counted(hard, r, names)}
        status, unseen = meta.status(quota), [name for name in hard if not any(counted([name], r, names) for r in seen)]
        recorded = {name: amount for name, amount in (status.get("used") or {}).items() if name not in unseen}
        known = _resources_of(unseen)
        if status.get("hard") == hard and recorded == used(quota, seen, now.wall, names) and not known:
            return Result(requeue_after=RESYNC_S)
        return result([Recount(quota, (*seen, *known))], requeue_after=RESYNC_S)


def _resources_of(names: Iterable[str]) -> list[str]:
    """The resources that names like `count/widgets.example.com` are about."""
    return sorted(name.removeprefix("count/") for name in names if name.startswith("count/"))


def _watch(resource: str) -> Watch:
    return Watch(resource, _quotas_for(resource), delay_s=GATHER_S, changed=_counts_otherwise(resource))


def _quotas_for(resource: str) -> Keys:
    def keys(o: Object, view: View) -> Iterable[str]:
        names = names_of(view.list(CLASSES)) if resource == DEVICES else NO_NAMES
        for quota in in_namespace(view, QUOTAS, meta.namespace(o)):
            if counted(meta.spec(quota).get("hard") or (), resource, names):
                yield meta.key(quota)

    return keys


def _of_resources(_class: Object, view: View) -> Iterable[str]:
    """The quotas of extended resources: another name of a class has claims count otherwise."""
    for quota in view.list(QUOTAS):
        if any(map(is_of_resource, meta.spec(quota).get("hard") or ())):
            yield meta.key(quota)


_CLASSES = Watch(CLASSES, _of_resources, delay_s=GATHER_S, changed=lambda old, new: names_of([old]) != names_of([new]))


def _counts_otherwise(resource: str) -> Callable[[Object, Object], bool]:
    """Whether a changed object may count for something else. Pods change all the time: this is to be quick."""
    if resource == PODS:
        return lambda old, new: _footing(old) != _footing(new) or meta.spec(old) != meta.spec(new)
    if resource in (SERVICES, CLAIMS):
        return lambda old, new: meta.spec(old) != meta.spec(new) or meta.status(old) != meta.status(new)
    return never


def _footing(pod: Object) -> tuple[Any, ...]:
    return pod_is_terminated(pod), meta.is_deleting(pod), report_of(pod)
