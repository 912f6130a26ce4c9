"""Garbage collector: dependents go when their owners have gone; foreground and orphan deletion of owners.

Keys are `object/<resource>/<namespace>/<name>` (look at one object) and `owner/<uid>` (an owner has gone: look at all
that name it). Before anything is deleted the API server itself confirms that the owners are gone: caches of owners may
lag behind caches of dependents. Objects of kinds nobody serves count as living: better too much than too little, and
they are looked at again now and then; so are those of kinds that aggregated APIs serve, and these are asked then. Kept
between calls, and rebuilt from nothing: which objects were seen to go, by uid, as their kind may go right after them.
Source: Kubernetes concepts "Garbage Collection", "Owners and Dependents".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import form_as_stored
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    Delete,
    Event,
    IfAbsent,
    Patch,
)
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)
from rayplane.control_plane.controllers.elsewhere import is_kept_elsewhere, resource_of
from rayplane.control_plane.controllers.finalizers import without_finalizer

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
UNKNOWN_KIND_RETRY_S = 30.0
DEPARTED_MAX = 4096
Absent = tuple[str, str, str, str]
Ref = dict[str, Any]


class _Kind(NamedTuple):
    resource: str
    namespaced: bool


def followed_as(crd: Object) -> str:
    """How to ask for a custom resource's objects: as they are stored, where a webhook would have to convert them."""
    spec = meta.spec(crd)
    if (spec.get("conversion") or {}).get("strategy") == "Webhook":
        return form_as_stored(crd)
    return f"{spec['names']['plural']}.{spec['group']}"


class GarbageCollector(BaseController):
    name = "garbagecollector"
    component = "garbage-collector-controller"

    def __init__(self, resources: Sequence[str]) -> None:
        self._resources = tuple(resources)
        self._kinds: dict[tuple[str, str], _Kind] = {}
        """By apiVersion and kind, as references name them."""
        self._custom: dict[tuple[str, str], str] = {}
        """What a custom resource is followed as, by group and kind."""
        self._departed: dict[str, tuple[str, str, str]] = {}
        """Group, kind and name of objects that have gone, by uid; the latest ones."""
        for info in builtin_registry().all():
            if info.name in self._resources:
                self._kinds[info.api_version, info.kind] = _Kind(info.name, info.namespaced)
        self.watches: Sequence[Watch] = tuple(
            Watch(name, self._mapping(name), changed=_ownership_changed) for name in resources
        )

    def add_custom(self, crd: Object) -> str:
        """Follow owners among a custom resource's objects from now on; as what they were followed, if that is over."""
        spec = meta.spec(crd)
        group, kind, resource = spec["group"], spec["names"]["kind"], followed_as(crd)
        if not meta.condition_is(crd, "Established"):
            return ""
        before = self._custom.get((group, kind), "")
        self._forget_kind(group, kind)
        self._custom[group, kind] = resource
        for version in spec.get("versions") or ():
            if version.get("served"):
                known = _Kind(resource, spec.get("scope") == "Namespaced")
                self._kinds[f"{group}/{version['name']}", kind] = known
        if before == resource:
            return ""
        self._forget(before)
        self._resources = (*self._resources, resource)
        watch = Watch(resource, self._mapping(resource), changed=_ownership_changed)
        self.watches = (*self.watches, watch)
        return before

    def remove_custom(self, crd: Object) -> str:
        """The custom resource is no longer served: owners of its kind count as living."""
        spec = meta.spec(crd)
        group, kind = spec["group"], spec["names"]["kind"]
        resource = self._custom.pop((group, kind), followed_as(crd))
        self._forget_kind(group, kind)
        self._forget(resource)
        return resource

    @property
    def resources(self) -> Sequence[str]:
        """All whose owners are followed."""
        return self._resources

    def _forget_kind(self, group: str, kind: str) -> None:
        self._kinds = {
            named: known for named, known in self._kinds.items() if (_group(named[0]), named[1]) != (group, kind)
        }

    def _forget(self, resource: str) -> None:
        self._resources = tuple(r for r in self._resources if r != resource)
        self.watches = tuple(w for w in self.watches if w.resource != resource)

    def _mapping(self, resource: str) -> Any:
        def keys(o: Object, view: View) -> Iterable[str]:
            refs, found = meta.metadata(o).get("ownerReferences") or (), []
            owners = [self._cached_owner(ref, meta.namespace(o), view) for ref in refs]
            # As long as its owners live there is nothing to do; when one goes, that is heard of.
            if _is_finalizing(o) or any(owner is None or _is_deleting_dependents(owner) for owner in owners):
                found.append(f"object/{resource}/{meta.namespace(o)}/{meta.name(o)}")
            current = view.get(resource, meta.namespace(o), meta.name(o))
            if current is None or meta.uid(current) != meta.uid(o):
                self._departs(o)
                found.append(f"owner/{meta.uid(o)}")
            # An owner that waits for this dependent may be able to go on.
            for ref, owner in zip(refs, owners, strict=True):
                if owner is not None and _is_finalizing(owner):
                    known = self._kinds[_named(ref)]
                    found.append(f"object/{known.resource}/{meta.namespace(owner)}/{meta.name(owner)}")
            return found

        return keys

    def _departs(self, o: Object) -> None:
        self._departed[meta.uid(o)] = (meta.group_of(o), o.get("kind") or "", meta.name(o))
        if len(self._departed) > DEPARTED_MAX:
            del self._departed[next(iter(self._departed))]

    def _is_departed(self, ref: Ref) -> bool:
        named = (meta.group_of(ref), ref.get("kind") or "", ref.get("name") or "")
        return self._departed.get(ref.get("uid") or "") == named

    def _went_with_its_kind(self, ref: Ref) -> bool:
        """An owner that was seen to go, of a kind that is served in no version now."""
        kind = (meta.group_of(ref), ref.get("kind"))
        return self._is_departed(ref) and all((_group(version), name) != kind for version, name in self._kinds)

    def _cached_owner(self, ref: Ref, namespace: str, view: View) -> Object | None:
        known = self._kinds.get(_named(ref))
        if known is None:
            return None
        owner = view.get(known.resource, namespace if known.namespaced else "", ref.get("name") or "")
        return owner if owner is not None and meta.uid(owner) == ref.get("uid") else None

    def _misplaced(self, o: Object, ref: Ref, view: View) -> Event | None:
        """An event where the owner that is meant lives in another namespace."""
        known = self._kinds.get(_named(ref))
        if known is None or not known.namespaced or self._is_departed(ref):
            return None
        space = meta.namespace(o)
        owners = (owner for owner in view.list(known.resource) if meta.uid(owner) == ref.get("uid"))
        if all(meta.namespace(owner) == space for owner in owners):
            return None
        meant = (
            f"[{ref.get('apiVersion')}/{ref.get('kind')}, namespace: {space}, name: {ref.get('name')}, "
            f"uid: {ref.get('uid')}]"
        )
        text = f'ownerRef {meant} does not exist in namespace "{space}"'
        return Event(o, "Warning", "OwnerRefInvalidNamespace", text)

    # --- reconcile ------------------------------------------------------------------------------

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        what, _, rest = key.partition("/")
        if what == "owner":
            return result(self._of_owner(rest, view))
        resource, namespace, name = rest.split("/", 2)
        o = view.get(resource, namespace, name)
        if o is None:
            return NOTHING
        if meta.is_deleting(o):
            return self._finish(resource, o, view)
        refs = meta.metadata(o).get("ownerReferences") or ()
        unknown = any(_named(ref) not in self._kinds for ref in refs)
        return result(self._collect(resource, o, view), requeue_after=UNKNOWN_KIND_RETRY_S if unknown else None)

    def _of_owner(self, uid: str, view: View) -> list[Action]:
        """Everything that named a departed owner: one check of that owner serves many dependents."""
        groups: dict[tuple[Absent, ...], list[Patch | Delete]] = {}
        steps: list[Action] = []
        for resource, o in self._dependents(uid, view):
            for action in self._collect(resource, o, view):
                if isinstance(action, IfAbsent):
                    groups.setdefault(action.absent, []).extend(action.writes)
                else:
                    steps.append(action)
        return [*steps, *(IfAbsent(a, tuple(writes)) for a, writes in groups.items())]

    def _dependents(self, uid: str, view: View) -> list[tuple[str, Object]]:
        return [
            (resource, o)
            for resource in self._resources
            for o in sorted(view.indexed(resource, "owner", uid), key=meta.key)
        ]

    def _dependents_of(self, o: Object, view: View) -> list[tuple[str, Object]]:
        """What an object may own: who names it from another namespace is no dependent, and holds nothing up."""
        space, found = meta.namespace(o), self._dependents(meta.uid(o), view)
        return [(name, d) for name, d in found if meta.namespace(d) == space] if space else found

    def _collect(self, resource: str, o: Object, view: View) -> list[Action]:
        """Delete an object without a living owner; drop references to owners that are gone."""
        refs = meta.metadata(o).get("ownerReferences") or ()
        if not refs or meta.is_deleting(o):
            return []
        solid, waiting = [], False
        absent: list[Absent] = []
        elsewhere: list[Ref] = []
        events: list[Action] = []
        for ref in refs:
            known = self._kinds.get(_named(ref))
            owner = self._cached_owner(ref, meta.namespace(o), view)
            if owner is None and (known is not None or self._went_with_its_kind(ref)):
                event = self._misplaced(o, ref, view)
                events += [event] if event else []
                if known is None:
                    continue  # its kind went after it
                if known.namespaced and not meta.namespace(o):
                    return events  # no such owner can be looked for, so nothing is said of it
                space = meta.namespace(o) if known.namespaced else ""
                absent.append((known.resource, space, ref.get("name") or "", ref.get("uid") or ""))
            elif owner is not None and _is_deleting_dependents(owner):
                waiting = True
            elif known is None and is_kept_elsewhere(meta.group_of(ref), view):
                elsewhere.append(ref)
            else:
                solid.append(ref)
        if solid or waiting:
            solid = [ref for ref in refs if ref in solid or ref in elsewhere]
        else:  # they are the last ones
            absent += [_kept_elsewhere(ref, meta.namespace(o)) for ref in elsewhere]
        if len(solid) == len(refs):
            return events
        # Some owner lives: only the references to the others go.
        write = _with_owners(resource, o, solid) if solid else self._end(resource, o, view, waiting=waiting)
        return [*events, IfAbsent(tuple(absent), (write,)) if absent else write]

    def _end(self, resource: str, o: Object, view: View, *, waiting: bool) -> Patch | Delete:
        """The deletion of an object without owners. `waiting`: some of them wait for their dependents to go."""
        dependents = self._dependents_of(o, view) if waiting else []
        if any(_is_deleting_dependents(d) for _, d in dependents) and _is_blocking(o):
            # It may well be an owner of its own owner: neither would ever go.
            return _unblocked(resource, o)
        if dependents or FOREGROUND in meta.finalizers(o):
            propagation = "Foreground"
        else:
            propagation = "Orphan" if ORPHAN in meta.finalizers(o) else "Background"
        # Whoever changes the owners meanwhile has the object looked at again.
        return Delete(resource, o, propagation=propagation, guard_version=True)

    def _finish(self, resource: str, o: Object, view: View) -> Result:
        """Serve the finalizers of an object under deletion."""
        dependents = self._dependents_of(o, view)
        if ORPHAN in meta.finalizers(o):
            freed = [_without_owner(name, d, meta.uid(o)) for name, d in dependents]
            return result(freed, [without_finalizer(resource, o, ORPHAN)])
        if FOREGROUND not in meta.finalizers(o):
            return NOTHING
        blocking = [(name, d) for name, d in dependents if _blocks(d, meta.uid(o))]
        if not blocking:
            return result([without_finalizer(resource, o, FOREGROUND)])
        steps: list[Action] = []
        for name, d in dependents:
            steps += self._collect(name, d, view)
        if not steps:
            steps += [_unblocked(name, d) for name, d in blocking if self._waits_for(d, meta.uid(o), view)]
        return result(steps)

    def _waits_for(self, o: Object, uid: str, view: View) -> bool:
        """Whether an object under foreground deletion is held, through any number of others, by the one of that uid."""
        seen, ahead = set(), [o]
        while ahead:
            one = ahead.pop()
            if meta.uid(one) in seen or not _is_deleting_dependents(one):
                continue
            seen.add(meta.uid(one))
            held_by = [d for _, d in self._dependents_of(one, view) if _blocks(d, meta.uid(one))]
            if any(meta.uid(d) == uid for d in held_by):
                return True
            ahead += held_by
        return False


def _kept_elsewhere(ref: Ref, namespace: str) -> Absent:
    resource = resource_of(ref.get("apiVersion") or "", ref.get("kind") or "")
    return resource, namespace, ref.get("name") or "", ref.get("uid") or ""


def _group(version: str) -> str:
    return meta.group_of({"apiVersion": version})


def _named(ref: Ref) -> tuple[str, str]:
    return ref.get("apiVersion") or "", ref.get("kind") or ""


def _is_blocking(o: Object) -> bool:
    return any(ref.get("blockOwnerDeletion") for ref in meta.metadata(o).get("ownerReferences") or ())


def _unblocked(resource: str, o: Object) -> Patch:
    refs = meta.metadata(o).get("ownerReferences") or ()
    return _with_owners(resource, o, [{**ref, "blockOwnerDeletion": False} for ref in refs])


def _is_deleting_dependents(o: Object) -> bool:
    return meta.is_deleting(o) and FOREGROUND in meta.finalizers(o)


def _with_owners(resource: str, o: Object, owners: Sequence[dict[str, Any]]) -> Patch:
    guard = {"uid": meta.uid(o), "resourceVersion": meta.resource_version(o)}
    body = {"metadata": {**guard, "ownerReferences": list(owners) or None}}
    return Patch(resource, meta.namespace(o), meta.name(o), body)


def _without_owner(resource: str, o: Object, uid: str) -> Patch:
    refs = meta.metadata(o).get("ownerReferences") or ()
    return _with_owners(resource, o, [ref for ref in refs if ref.get("uid") != uid])


def _is_finalizing(o: Object) -> bool:
    finalizers = meta.finalizers(o)
    return meta.is_deleting(o) and (FOREGROUND in finalizers or ORPHAN in finalizers)


def _blocks(o: Object, owner_uid: str) -> bool:
    return any(
        ref.get("uid") == owner_uid and ref.get("blockOwnerDeletion")
        for ref in meta.metadata(o).get("ownerReferences") or ()
    )


def _ownership_changed(old: Object, new: Object) -> bool:
    return (
        meta.metadata(old).get("ownerReferences") != meta.metadata(new).get("ownerReferences")
        or meta.is_deleting(old) != meta.is_deleting(new)
        or meta.finalizers(old) != meta.finalizers(new)
        or meta.uid(old) != meta.uid(new)
    )
