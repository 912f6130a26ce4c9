"""Namespaces: all content goes when a namespace is deleted, then its `kubernetes` finalizer is removed.

Source: Kubernetes API reference core/v1 Namespace (spec.finalizers, finalize subresource).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import PurgeNamespace, UpdateStatus
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

FINALIZER = "kubernetes"


@dataclass(slots=True)
class Remains:
    """The content that holds a namespace back, as one look found it."""

    counts: Counter[str] = field(default_factory=Counter)
    """Objects that are being deleted and still there, by resource."""
    finalizers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """What went wrong while content was deleted."""
    undiscovered: str = ""
    """Why the resources to look at could not be found out."""

    def __bool__(self) -> bool:
        return bool(self.counts or self.failures or self.undiscovered)

    def add(self, resource: str, objects: Iterable[Object]) -> None:
        """`objects` of a resource are being deleted, and held back."""
        for o in objects:
            self.counts[resource] += 1
            self.finalizers.update(o["metadata"].get("finalizers") or ())


def conditions_of(namespace: Object, remains: Remains, now: datetime) -> list[Object]:
    """The conditions of a namespace that is being deleted."""
    found = [dict(one) for one in meta.status(namespace).get("conditions") or ()]
    for kind, (reason, message), trouble in (
        (
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "All resources successfully discovered"),
            remains.undiscovered
            and ("DiscoveryFailed", f"Discovery failed for some groups, 1 failing: {remains.undiscovered}"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            "",
        ),
        (
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            remains.failures and ("ContentDeletionFailed", _failed(remains.failures)),
        ),
        (
            "NamespaceContentRemaining",
            ("ContentRemoved", "All content successfully removed"),
            remains.counts and ("SomeResourcesRemain", f"Some resources are remaining: {_counted(remains.counts)}"),
        ),
        (
            "NamespaceFinalizersRemaining",
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            remains.finalizers and ("SomeFinalizersRemain", _held(remains.finalizers)),
        ),
    ):
        if trouble:
            reason, message = trouble
        status = "True" if trouble else "False"
        meta.set_condition(found, {"type": kind, "status": status, "reason": reason, "message": message}, now)
    return found


def _failed(failures: list[str]) -> str:
    return f"Failed to delete all resource types, {len(failures)} remaining: {', '.join(sorted(failures))}"


def _counted(counts: Counter[str]) -> str:
    # A resource is written with its group behind a dot, which is there for the core group too.
    names = {resource: resource if "." in resource else f"{resource}." for resource in counts}
    return ", ".join(sorted(f"{names[resource]} has {count} resource instances" for resource, count in counts.items()))


def _held(finalizers: Counter[str]) -> str:
    texts = sorted(f"{name} in {count} resource instances" for name, count in finalizers.items())
    return f"Some content in the namespace has finalizers remaining: {', '.join(texts)}"


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
