"""Protection finalizers: a claim stays while a pod uses it, a volume while it is bound.

Source: Kubernetes concepts "Persistent Volumes" (storage object in use protection).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.api.pods.volumes import claims_of
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Patch,
    Result,
    View,
    Watch,
    own_key,
    result,
)

PVC_PROTECTION = "kubernetes.io/pvc-protection"
PV_PROTECTION = "kubernetes.io/pv-protection"


def _used_claims(pod: Object, _view: View) -> Iterable[str]:
    return claims_of(pod)


def _usage_changed(old: Object, new: Object) -> bool:
    return pod_is_terminated(old) != pod_is_terminated(new)


class ProtectionController(BaseController):
    """One instance for claims, one for volumes."""

    component = "volume-protection-controller"

    def __init__(self, *, resource: str) -> None:
        self.name = f"{resource}-protection"
        self._resource = resource
        self._finalizer = PV_PROTECTION if resource == "persistentvolumes" else PVC_PROTECTION
        watches: Sequence[Watch] = (Watch(resource, own_key),)
        if resource == "persistentvolumeclaims":
            watches = (*watches, Watch("pods", _used_claims, changed=_usage_changed))
        self.watches = watches

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        o = view.get(self._resource, *meta.split_key(key))
        if o is None:
            return NOTHING
        has = self._finalizer in meta.finalizers(o)
        if not meta.is_deleting(o):
            return NOTHING if has else self._write(o, [*meta.finalizers(o), self._finalizer])
        if not has or self._in_use(o, view):
            return NOTHING
        return self._write(o, [f for f in meta.finalizers(o) if f != self._finalizer])

    def _in_use(self, o: Object, view: View) -> bool:
        if self._resource == "persistentvolumes":
            return meta.status(o).get("phase") == "Bound"
        pods = view.indexed("pods", "claim", meta.key(o))
        return any(meta.node_name(pod) and not pod_is_terminated(pod) for pod in pods)

    def _write(self, o: Object, finalizers: list[str]) -> Result:
        guard = {"uid": meta.uid(o), "resourceVersion": meta.resource_version(o)}
        body = {"metadata": {**guard, "finalizers": finalizers or None}}
        return result([Patch(self._resource, meta.namespace(o), meta.name(o), body)])
