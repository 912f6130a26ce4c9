"""VolumeAttributesClasses in use: one stays while a claim or a volume names it.

Source: Kubernetes KEP-3751 (VolumeAttributesClass), and its protection controller.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api.meta import Object
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
from rayplane.control_plane.controllers.indexes import attributes_classes_of

CLASSES = "volumeattributesclasses.storage.k8s.io"
CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
FINALIZER = "kubernetes.io/vac-protection"


def _named(o: Object, _view: View) -> Iterable[str]:
    return attributes_classes_of(o)


def _renamed(old: Object, new: Object) -> bool:
    return attributes_classes_of(old) != attributes_classes_of(new)


class AttributesClassProtection(BaseController):
    name = component = "volumeattributesclass-protection-controller"
    watches = (
        Watch(CLASSES, own_key),
        Watch(CLAIMS, _named, changed=_renamed),
        Watch(VOLUMES, _named, changed=_renamed),
    )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        found = view.get(CLASSES, "", key)
        if found is None:
            return NOTHING

        def is_used() -> bool:
            return any(view.indexed(resource, "attributesclass", key) for resource in (CLAIMS, VOLUMES))

        write = protection(CLASSES, found, FINALIZER, is_used)
        return result([write]) if write is not None else NOTHING
