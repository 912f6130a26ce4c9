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
    Result,
    View,
    Watch,
    own_key,
    result,
)
from rayplane.control_plane.controllers.finalizers import protection
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

        def is_used() -> bool:
            return any(not pod_is_terminated(pod) for pod in view.indexed("pods", "group", key))

        write = protection(GROUPS, group, PROTECTION, is_used)
        return result([write]) if write is not None else NOTHING
