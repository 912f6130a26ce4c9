"""Adoption of dependents by their controller: keep, adopt orphans that match, release what no longer matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import LabelSelector, from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.controllers.core import Patch, View, controlled


@dataclass(frozen=True, slots=True)
class Claim:
    """The outcome of adoption.

    `owned`: objects controlled now and matching. `patches`: adoptions and releases to make first.
    """

    owned: list[Object]
    patches: tuple[Patch, ...]


def claim(view: View, resource: str, owner: Object, *, selector: LabelSelector) -> Claim:
    """Sort the dependents of `owner` by selector and controller reference.

    Adoption carries the dependent's uid and version as preconditions and does not happen while the owner is being
    deleted. Adopted objects count as owned from the next reconcile on.
    """
    owned, patches = [], []
    for o in controlled(view, resource, owner):
        if meta.namespace(o) != meta.namespace(owner):
            continue
        if selector.matches(meta.labels(o)):
            owned.append(o)
        elif not meta.is_deleting(o) and not meta.is_deleting(owner):
            patches.append(_release(resource, o, owner))
    if not meta.is_deleting(owner):
        patches += [
            _adopt(resource, o, owner)
            for o in view.indexed(resource, "orphan", meta.namespace(owner))
            if selector.matches(meta.labels(o)) and not meta.is_deleting(o) and not pod_is_terminated(o)
        ]
    owned.sort(key=meta.name)
    patches.sort(key=lambda p: p.name)
    return Claim(owned, tuple(patches))


def _guard(o: Object) -> dict[str, Any]:
    return {"uid": meta.uid(o), "resourceVersion": meta.resource_version(o)}


def _adopt(resource: str, o: Object, owner: Object) -> Patch:
    refs = [*(meta.metadata(o).get("ownerReferences") or ()), meta.owner_reference(owner)]
    body = {"metadata": {**_guard(o), "ownerReferences": refs}}
    return Patch(resource, meta.namespace(o), meta.name(o), body)


def _release(resource: str, o: Object, owner: Object) -> Patch:
    refs = meta.metadata(o).get("ownerReferences") or ()
    kept = [ref for ref in refs if ref.get("uid") != meta.uid(owner)]
    body = {"metadata": {**_guard(o), "ownerReferences": kept or None}}
    return Patch(resource, meta.namespace(o), meta.name(o), body)


def orphan_matches(view: View, resource: str, o: Object) -> list[str]:
    """Keys of objects of `resource` in the namespace of `o` whose selector would adopt it."""
    if meta.controller_of(o) is not None:
        return []
    found = []
    for owner in view.indexed(resource, "namespace", meta.namespace(o)):
        selector = from_label_selector(meta.spec(owner).get("selector"))
        if not selector.everything and selector.matches(meta.labels(o)):
            found.append(meta.key(owner))
    return sorted(found)
