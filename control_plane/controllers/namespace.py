"""Namespaces: all content goes when a namespace is deleted, then its `kubernetes` finalizer is removed.

Source: Kubernetes API reference core/v1 Namespace (spec.finalizers, finalize subresource).
"""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    PurgeNamespace,
    Result,
    UpdateStatus,
    View,
    Watch,
    result,
)

FINALIZER = "kubernetes"


class NamespaceController(BaseController):
    name = "namespace"
    component = "namespace-controller"
    watches = (Watch("namespaces"),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        namespace = view.get("namespaces", "", key)
        if namespace is None or not meta.is_deleting(namespace):
            return NOTHING
        if meta.status(namespace).get("phase") != "Terminating":
            status = {**meta.status(namespace), "phase": "Terminating"}
            return result([UpdateStatus("namespaces", {**namespace, "status": status})])
        if FINALIZER not in (meta.spec(namespace).get("finalizers") or ()):
            return NOTHING
        return result([PurgeNamespace(namespace)])
