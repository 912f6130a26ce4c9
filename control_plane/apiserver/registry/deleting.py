"""Deletes, for every kind in the same way: preconditions, admission, then gone at once or marked as being deleted.

What is no object can be deleted too, and what cannot be decrypted where that is asked for (`IGNORE_READ_ERRORS`).
Authorisation comes before all of it and is the caller's.
"""

from functools import partial
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Invalid, NotFound
from rayplane.control_plane.api.kinds import deletion
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission import Admission, AdmissionRequest
from rayplane.control_plane.apiserver.admission.request import DELETE
from rayplane.control_plane.apiserver.apiextensions import definitions as custom
from rayplane.control_plane.apiserver.apiextensions.forms import Forms
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.registry.delete_options import NOT_CORRUPT
from rayplane.control_plane.apiserver.requests import Answer, DeleteOptions, Target, User
from rayplane.control_plane.apiserver.storage.entries import Broken, Entry, Unreadable
from rayplane.control_plane.apiserver.storage.store import DryRun, Storage, Write
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.storage.env import Env

# Kinds whose DELETE answers with the object that is gone instead of a Status.
_RETURNS_DELETED = frozenset(
    {
        "pods",
        "podtemplates",
        "services",
        "persistentvolumes",
        "persistentvolumeclaims",
        "resourcequotas",
        "serviceaccounts",
    }
)


class Deleter:
    """All deletes of the registry."""

    def __init__(
        self, kinds: Kinds, forms: Forms, storage: Storage, hub: WatchHub, admission: Admission, *, env: Env
    ) -> None:
        self._kinds = kinds
        self._forms = forms
        self._storage = storage
        self._hub = hub
        self._admission = admission
        self._env = env

    async def delete(self, user: User, target: Target, options: DeleteOptions) -> Answer:
        """Remove an object, or mark it as being deleted while something holds it back."""
        info, stored = target.info, self._kinds.stored(target.info)
        cache = self._hub.peek(stored)
        known = cache.get(target.namespace, target.name) if cache is not None else None
        removed = begins = False
        warnings: list[str] = []

        async def change(entry: Entry | None) -> Write:
            nonlocal removed, begins
            assert entry is not None
            if isinstance(entry, Broken) or options.ignore_read_errors:
                removed = True
                return self._without_reading(entry, stored, options)
            o = entry.fresh_object()
            deletion.check_preconditions(o, info.name, uid=options.uid, version=options.resource_version)
            request = await self._admitted(user, target, o, entry.object, dry_run=options.dry_run)
            warnings[:] = request.warnings
            if stored.name == CRDS:
                custom.mark_for_cleanup(o, self._env.timestamp())
            done = self._begun(o, options)
            removed = done.remove
            begins = not meta.is_deleting(entry.object) and (done.remove or done.changed)
            if options.dry_run:
                raise DryRun(o)
            if done.remove:
                await self._admission.reserve(request)
            return Write(o, delete=done.remove, keep=not done.changed, effects=request.effects)

        try:
            entry, _ = await self._storage.update(stored, target.namespace, target.name, change, known=known)
        except DryRun as dry:
            gone, shown = dry.object, partial(self._shown, info, dry.object)
        except NotFound as e:
            raise NotFound.of(info.plural, target.name, group=info.group) from e
        else:
            if begins:
                self._storage.deletions.note(meta.uid(entry.object), user.name, self._env.timestamp())
            gone, shown = entry.object, partial(self._forms.json, info, entry)
        # Of what is gone only the name is told, which nobody needs to convert.
        named = removed and info.name not in _RETURNS_DELETED
        json = orjson.dumps(_deleted_status(info, gone)) if named else await shown()
        # 202 was only ever said to those who ask in the oldest way, and stays theirs.
        return Answer(json, accepted=not removed and options.orphan_dependents is False, warnings=warnings)

    def _begun(self, o: Object, options: DeleteOptions) -> deletion.Deletion:
        return deletion.begin_deletion(
            o,
            now=self._env.clock.now(),
            grace_seconds=options.grace_period_s,
            propagation=options.propagation_policy,
            orphan_dependents=options.orphan_dependents,
        )

    async def _shown(self, info: ResourceInfo, o: Object) -> bytes:
        return orjson.dumps(await self._forms.from_stored(info, o))

    async def _admitted(self, user: User, target: Target, o: Object, old: Object, *, dry_run: bool) -> AdmissionRequest:
        stored = self._kinds.stored(target.info)
        request = AdmissionRequest(DELETE, stored, user, target.namespace, target.name, o, old=old)
        request.asked, request.dry_run = target.info, dry_run
        await self._admission.admit(request)
        return request

    @staticmethod
    def _without_reading(entry: Entry, info: ResourceInfo, options: DeleteOptions) -> Write:
        """Remove what cannot be read. Raises Invalid, or its error where it is said which one is meant."""
        if entry.readable:
            raise Invalid.of(info.plural, entry.name, [NOT_CORRUPT], group=info.group)
        if options.uid or options.resource_version not in ("", str(entry.revision)):
            assert isinstance(entry, Unreadable)
            raise entry.error
        named = {"name": entry.name, "namespace": entry.namespace}
        o = {"kind": info.kind, "apiVersion": info.stored_api_version, "metadata": named}
        if options.dry_run:
            raise DryRun(o)
        return Write(o, delete=True)


def _deleted_status(info: ResourceInfo, o: Object) -> Object:
    """The Status that tells of an object that is gone."""
    details: dict[str, Any] = {"name": o["metadata"]["name"]}
    if info.group:
        details["group"] = info.group
    details["kind"] = info.plural
    details["uid"] = o["metadata"].get("uid") or ""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }
