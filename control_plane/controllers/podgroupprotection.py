"""The protection of pod groups: one that is deleted stays until no pod refers to it that is not done.

Source: KEP-4671 "PodGroup Deletion Protection"; kubernetes/pkg/controller/scheduling/podgroupprotection.
"""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.scheduling.fields import GROUPS
from rayplane.control_plane.api.kinds.scheduling.pod_group import PROTECTION
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
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
from rayplane.control_plane.controllers.indexes import by_group


def _is_done(old: Object, new: Object) -> bool:
    return pod_is_terminated(old) != pod_is_terminated(new)


class PodGroupProtectionController(BaseController):
    """Keys are those of groups."""

    name = component = "podgroup-protection-controller"
    watches = (Watch(GROUPS, own_key), Watch("pods", lambda pod, _: by_group(pod), changed=_is_done))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        group = view.get(GROUPS, *meta.split_key(key))
        if group is None:
            return NOTHING
        held = meta.finalizers(group)
        if not meta.is_deleting(group):
            return NOTHING if PROTECTION in held else _write(group, [*held, PROTECTION])
        if PROTECTION not in held or any(not pod_is_terminated(pod) for pod in view.indexed("pods", "group", key)):
            return NOTHING
        return _write(group, [one for one in held if one != PROTECTION])


def _write(group: Object, finalizers: list[str]) -> Result:
    guard = {"uid": meta.uid(group), "resourceVersion": meta.resource_version(group)}
    body = {"metadata": {**guard, "finalizers": finalizers or None}}
    return result([Patch(GROUPS, meta.namespace(group), meta.name(group), body)])
