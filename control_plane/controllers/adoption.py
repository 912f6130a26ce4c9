"""Adoption of dependents by their controller: keep, adopt orphans that match, release what no longer matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import LabelSelector, from_label_selector, from_map
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.controllers.actions import Action, IfAlive, Patch
from rayplane.control_plane.controllers.core import (
    Keys,
    View,
    controlled,
    controller_key,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """The outcome of adoption.

    `owned`: objects controlled now and matching. `steps`: adoptions and releases to make first.
    """

    owned: list[Object]
    steps: tuple[Action, ...]


def _any(_: Object) -> bool:
    return True


def claim(
    view: View,
    resource: str,
    owner: Object,
    *,
    owners: str,
    selector: LabelSelector,
    member: Callable[[Object], bool] = _any,
    release: bool = True,
    finalizer: str = "",
) -> Claim:
    """Sort the dependents of `owner`, an object of resource `owners`, by selector, `member` and controller reference.

    Adoption carries the dependent's uid and version as preconditions, and does not happen while the owner is being
    deleted. A cache may not know yet that it is, and dependents that its deletion left behind would be adopted and then
    collected as garbage: so the API server is asked. Adopted objects count as owned from the next reconcile on. With a
    finalizer, by which the owner follows its dependents to their end, those it adopts get it, ended ones too, and those
    it releases lose it.
    """

    def fits(o: Object) -> bool:
        return selector.matches(meta.labels(o)) and member(o)

    if meta.is_deleting(owner):
        return Claim(sorted(filter(fits, _own(view, resource, owner)), key=meta.name), ())
    owned, steps = [], []
    for o in _own(view, resource, owner):
        if fits(o) or not release:
            owned.append(o)
        elif not meta.is_deleting(o):
            steps.append(_release(resource, o, owner, finalizer))
    orphans = [
        _adopt(resource, o, owner, finalizer)
        for o in _orphans(view, resource, meta.namespace(owner), selector)
        if member(o) and not meta.is_deleting(o) and (finalizer or not pod_is_terminated(o))
    ]
    owned.sort(key=meta.name)
    actions: list[Action] = [*sorted(steps, key=lambda p: p.name)]
    if orphans:
        actions.append(IfAlive(owners, owner, tuple(sorted(orphans, key=lambda p: p.name))))
    return Claim(owned, tuple(actions))


def _own(view: View, resource: str, owner: Object) -> list[Object]:
    return [o for o in controlled(view, resource, owner) if meta.namespace(o) == meta.namespace(owner)]


def _orphans(view: View, resource: str, namespace: str, selector: LabelSelector) -> list[Object]:
    """Objects that a selector matches and nobody controls, from the shorter of two lists."""
    pool = view.indexed(resource, "orphan", namespace)
    if not pool:
        return []
    for key, value in selector.exact.items():
        labelled = view.indexed(resource, "label", f"{namespace}/{key}={value}")
        pool = min(pool, labelled, key=len)
    return [o for o in pool if meta.controller_of(o) is None and selector.matches(meta.labels(o))]


def _guard(o: Object) -> dict[str, Any]:
    return {"uid": meta.uid(o), "resourceVersion": meta.resource_version(o)}


def _adopt(resource: str, o: Object, owner: Object, finalizer: str) -> Patch:
    refs = [*(meta.metadata(o).get("ownerReferences") or ()), meta.owner_reference(owner)]
    body: dict[str, Any] = {"metadata": {**_guard(o), "ownerReferences": refs}}
    if finalizer and finalizer not in meta.finalizers(o):
        body["metadata"]["finalizers"] = [*meta.finalizers(o), finalizer]
    return Patch(resource, meta.namespace(o), meta.name(o), body)


def _release(resource: str, o: Object, owner: Object, finalizer: str) -> Patch:
    refs = meta.metadata(o).get("ownerReferences") or ()
    kept = [ref for ref in refs if ref.get("uid") != meta.uid(owner)]
    body: dict[str, Any] = {"metadata": {**_guard(o), "ownerReferences": kept or None}}
    if finalizer in meta.finalizers(o):
        body["metadata"]["finalizers"] = [one for one in meta.finalizers(o) if one != finalizer] or None
    return Patch(resource, meta.namespace(o), meta.name(o), body)


def selector_of(owner: Object) -> LabelSelector:
    """What a workload selects: a map of labels in ReplicationControllers, a label selector in all others."""
    selector = meta.spec(owner).get("selector")
    return from_map(selector) if owner.get("kind") == "ReplicationController" else from_label_selector(selector)


def owner_or_adopters(kind: str, group: str, resource: str) -> Keys:
    """Maps an object to the key of its controller, when that is of the given kind, an orphan to those that match."""
    of_owner = controller_key(kind, group)

    def keys(o: Object, view: View) -> Iterable[str]:
        return of_owner(o, view) if meta.controller_of(o) is not None else orphan_matches(view, resource, o)

    return keys


def orphan_matches(view: View, resource: str, o: Object) -> list[str]:
    """Keys of objects of `resource` in the namespace of `o` whose selector would adopt it."""
    if meta.controller_of(o) is not None or not meta.labels(o):
        return []
    found = []
    for owner in view.indexed(resource, "namespace", meta.namespace(o)):
        selector = selector_of(owner)
        if not selector.everything and selector.matches(meta.labels(o)):
            found.append(meta.key(owner))
    return sorted(found)
