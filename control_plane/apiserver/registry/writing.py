"""Writes: create, update and patch, for every kind in the same way.

Order of a create: decode, metadata of the system, defaults, admission, preparation by the kind's strategy, validation,
reservations, transaction. An update or patch does the same against what is stored, again after a race. Authorisation
comes before all of it and is the caller's.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson

from rayplane.control_plane.api.errors import ApiError, Conflict, Invalid, NotFound, Verbatim, invalid
from rayplane.control_plane.api.kinds import defaulting, deletion, strategy
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery import decoding, managed_fields, patching
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission import Admission, AdmissionRequest, typechecking
from rayplane.control_plane.apiserver.admission.request import CREATE, DELETE, UPDATE
from rayplane.control_plane.apiserver.apiextensions import acceptance
from rayplane.control_plane.apiserver.apiextensions.defaulting import default as default_custom
from rayplane.control_plane.apiserver.apiextensions.forms import Forms
from rayplane.control_plane.apiserver.flowcontrol.heavy import Heavy
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.registry.alike import Alike, Keep, Made
from rayplane.control_plane.apiserver.registry.bodies import (
    check_new,
    check_patched,
    check_same,
    drop_doubled_owners,
    new_metadata,
    place_configuration,
    read_configuration,
    set_namespace,
    validation_mode,
    wrong_name,
)
from rayplane.control_plane.apiserver.registry.deleting import Deleter
from rayplane.control_plane.apiserver.registry.judging import create_errors, refuse_terminating, update_errors
from rayplane.control_plane.apiserver.registry.naming import named
from rayplane.control_plane.apiserver.registry.owners import Owners
from rayplane.control_plane.apiserver.registry.races import changed_or_made
from rayplane.control_plane.apiserver.requests import SYSTEM, Answer, DeleteOptions, Target, User, WriteOptions
from rayplane.control_plane.apiserver.storage.entries import Entry
from rayplane.control_plane.apiserver.storage.leases import EventLeases
from rayplane.control_plane.apiserver.storage.store import DryRun, GuardFailed, Storage, Write, name_taken
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.storage.env import Env

_RESERVE_TRIES = 16


def keep_as_made(new: Object, old: Object, info: ResourceInfo) -> None:
    """A preparation of what was made of the stored object itself: nothing to take back.

    Nor is admission asked about it: it was asked about the binding that the pod is changed for.
    """


# They keep what is stored but for labels and the status, which few kinds have defaults for, or for what they set.
_OF_STATUS = (strategy.prepare_for_status_update, keep_as_made)

Prepare = Callable[[Object, Object, ResourceInfo], None]
MakeNew = Callable[[Object], Awaitable[Object]]
"""From the stored object in the requested form (owned by the callee) to the wanted one."""


class Writer:
    """All writes of the registry."""

    def __init__(
        self,
        kinds: Kinds,
        forms: Forms,
        storage: Storage,
        hub: WatchHub,
        admission: Admission,
        *,
        env: Env,
        leases: EventLeases,
    ) -> None:
        self._kinds = kinds
        self._forms = forms
        self._storage = storage
        self._hub = hub
        self._admission = admission
        self._env = env
        self._leases = leases
        self._heavy = Heavy(env)
        self.owners = Owners(kinds, forms, self._heavy, env)
        self._deleter = Deleter(kinds, forms, storage, hub, admission, env=env)
        self._alike = Alike(admission)

    # --- create -------------------------------------------------------------------------------

    async def create(self, user: User, target: Target, body: bytes, content_type: str, options: WriteOptions) -> Answer:
        """Store a new object. Raises what decoding, admission, validation and storage refuse."""
        alike = self._alike.asked(user, target, body, content_type, options)
        if alike is not None and (made := alike.found) is not None:
            return await self._create_again(user, target, made)
        info, size = target.info, len(body)
        decoded = await self._heavy.run(size, self.decode, info, body, content_type, options)
        warnings, keep = decoded.warnings, alike.keep if alike is not None else None
        return await self.create_object(user, target, decoded.object, options, warnings=warnings, size=size, keep=keep)

    async def make_namespace(self, name: str) -> None:
        """As `create`, for whatever is written where no namespace is."""
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await self.create_object(SYSTEM, Target(self._kinds.named("namespaces"), name), made, WriteOptions())

    def decode(self, info: ResourceInfo, body: bytes, content_type: str, options: WriteOptions) -> decoding.Decoded:
        """A body of the resource's kind."""
        return decoding.decode_object(
            body,
            content_type,
            api_version=info.api_version,
            kind=info.kind,
            definition=self._kinds.definition(info),
            field_validation=validation_mode(options.field_validation),
            custom=info.custom,
        )

    async def create_object(
        self,
        user: User,
        target: Target,
        o: Object,
        options: WriteOptions,
        *,
        warnings: list[str] | None = None,
        size: int = 0,
        keep: Keep | None = None,
    ) -> Answer:
        """As `create`, with an object of the requested form that the callee may change; `size` in bytes where known.

        `keep` is told what was made of it, before it is stored.
        """
        info = target.info
        refuse_terminating(self._kinds, info)
        meta = new_metadata(target, o, uid=self._env.uuid(), now=self._env.timestamp())
        warnings = [*(warnings or ()), *drop_doubled_owners(meta)]
        prefix = meta.get("generateName") if not meta.get("name") else ""
        await self._heavy.run(size, self.default, info, o)
        stored_info = self._kinds.stored(info)
        stored = await self._forms.to_stored(info, o)
        request = AdmissionRequest(
            CREATE, stored_info, user, meta.get("namespace") or "", meta.get("name") or "", stored
        )
        request.dry_run, request.manager, request.size = options.dry_run, options.manager, size
        request.asked = info
        await self.owners.track(None, stored, info, request)
        # What a try has changed must not leak into the next: keep the object as it was asked for.
        original = orjson.dumps(stored) if prefix else b""
        once = partial(self._create_once, keep=partial(keep, warnings) if keep is not None else None)
        try:
            entry = await named(request, prefix or "", lambda: orjson.loads(original), once, self._env.rng)
        except ApiError as e:
            e.warnings = [*warnings, *request.warnings]
            raise
        found = [*warnings, *request.warnings]
        if entry is None:
            shown = await self._forms.from_stored(info, request.object)
            return Answer(orjson.dumps(shown), created=True, warnings=found, object=shown)
        return Answer(await self._forms.json(info, entry), created=True, warnings=found)

    async def _create_again(self, user: User, target: Target, made: Made) -> Answer:
        """One more of what was made before."""
        info, uid, now = target.info, self._env.uuid(), self._env.timestamp()
        one = made.another(uid, now)
        request = AdmissionRequest(CREATE, info, user, target.namespace, "", one, asked=info)
        made.tell()

        async def once(request: AdmissionRequest) -> Entry | None:
            async with await self._admission.turn(request):
                return await self._reserve_and_store(request, b"", 0)

        prefix = one["metadata"]["generateName"]
        entry = await named(request, prefix, lambda: made.another(uid, now), once, self._env.rng)
        assert entry is not None, "it is stored"
        return Answer(await self._forms.json(info, entry), created=True, warnings=[*made.warnings])

    async def _create_once(
        self, request: AdmissionRequest, *, keep: Callable[[AdmissionRequest], None] | None = None
    ) -> Entry | None:
        """One name: None for a dry run that would have been stored."""
        info = request.info
        await self._admit(request)
        o = request.object
        strategy.prepare_for_create(o, info)
        await self._complete(request)
        judged, shown, _ = await self._judged(request)
        errors = await self._heavy.run(request.size, create_errors, self._kinds, shown, judged, request.asked)
        if errors:
            raise Invalid.of(info.kind, o["metadata"].get("name") or "", errors, group=info.group)
        request.warnings += rules_for(info).warnings(o, None)
        await self._admission.validate(request)
        if keep is not None:
            keep(request)
        lease = await self._leases.lease(info)
        spec = orjson.dumps(o["spec"]) if info.name == "services" else b""
        async with await self._admission.turn(request):
            return await self._reserve_and_store(request, spec, lease)

    async def _complete(self, request: AdmissionRequest) -> None:
        """Set what the server itself says of an object in its status."""
        o, info = request.object, request.info
        if info.name == CRDS:
            in_group = self._kinds.in_group(acceptance.group_of(o))
            acceptance.complete(o, self._env.timestamp(), in_group, request.old)
        elif info.name == typechecking.POLICIES:
            # Each expression is compiled for each kind.
            size = request.size * typechecking.KINDS_MAX
            await self._heavy.run(size, typechecking.complete, o, self._kinds)

    async def _judged(self, request: AdmissionRequest) -> tuple[ResourceInfo, Object, Object | None]:
        """The form in which a write is judged, with the new and the old object: a custom one as it was asked for."""
        info, asked, old = request.info, request.asked or request.info, request.old
        if not info.custom or asked.is_storage_version:
            return info, request.object, old
        shown = await self._forms.from_stored(asked, request.object)
        return asked, shown, await self._forms.from_stored(asked, old) if old is not None else None

    async def _reserve_and_store(self, request: AdmissionRequest, spec: bytes, lease: int) -> Entry | None:
        info, o = request.info, request.object
        for _ in range(_RESERVE_TRIES):
            await self._admission.reserve(request)
            if request.dry_run:
                if found := await self._storage.get(info, request.namespace, o["metadata"]["name"]):
                    raise name_taken(info, o["metadata"], found)
                return None
            write = Write(o, lease=lease, guards=request.guards, effects=request.effects)
            write.spares_owners = bool(request.manager)
            try:
                return await self._storage.create(info, write)
            except GuardFailed:
                # Somebody else took what was chosen: choose again from fresh caches.
                await self._hub.fresh()
                if spec:
                    o["spec"] = orjson.loads(spec)
        raise Conflict.of(info.plural, o["metadata"]["name"], group=info.group)

    async def _admit(self, request: AdmissionRequest) -> None:
        """What admission makes of an object; webhooks may name an owner twice as clients do."""
        await self._admission.admit(request)
        request.warnings += drop_doubled_owners(request.object["metadata"], patched=True)

    def default(self, info: ResourceInfo, o: Object) -> None:
        """Defaults of the kind, or of a custom resource's schema, in place."""
        found = self._kinds.custom(info)
        if found is not None:
            default_custom(o, found.schema)
            return
        defaulting.default(o)

    # --- update and patch ---------------------------------------------------------------------

    async def update(
        self,
        user: User,
        target: Target,
        body: bytes,
        content_type: str,
        options: WriteOptions,
        *,
        may_create: Callable[[], Awaitable[None]],
    ) -> Answer:
        """Replace an object (or its status) by the one in the body.

        Of some kinds one that is not there is made, if `may_create` raises nothing.
        """
        info, size = target.info, self._size(target, body)
        decoded = await self._heavy.run(size, self.decode, info, body, content_type, options)
        asked: Object | None = decoded.object
        meta: dict[str, Any] = decoded.object.setdefault("metadata", {})
        set_namespace(target, meta)
        warnings = [*decoded.warnings, *drop_doubled_owners(meta)]
        name = meta.get("name") or ""
        if name != target.name:
            raise wrong_name(name, target.name)
        rules, version = rules_for(info), meta.get("resourceVersion")

        async def first() -> Object:
            nonlocal asked
            found, asked = asked, None
            if found is None:
                found = (await self._heavy.run(size, self.decode, info, body, content_type, options)).object
                again = found.setdefault("metadata", {})
                set_namespace(target, again)
                drop_doubled_owners(again)
            return found

        async def make(_: Object) -> Object:
            if not version and (info.custom or rules.needs_version):
                errors = [invalid("metadata.resourceVersion", Verbatim("0x0"), "must be specified for an update")]
                raise Invalid.of(info.plural, target.name, errors, group=info.group)
            return await first()

        async def new() -> Answer:
            await may_create()
            place = Target(info, target.namespace)
            return await self.create_object(user, place, await first(), options, warnings=warnings, size=size)

        change = partial(self.change, user, target, make, options, warnings=warnings, size=size)
        if target.subresource or version or not rules.made_by_update:
            return await change()
        return await changed_or_made(change, new)

    def _size(self, target: Target, body: bytes) -> int:
        """Bytes of the larger of a body and, where it is known, the stored object."""
        cache = self._hub.peek(self._kinds.stored(target.info))
        known = cache.get(target.namespace, target.name) if cache is not None else None
        return max(len(body), known.size if known is not None else 0)

    async def patch(
        self,
        user: User,
        target: Target,
        kind: patching.PatchKind,
        body: bytes,
        options: WriteOptions,
        *,
        may_create: Callable[[], Awaitable[None]],
    ) -> Answer:
        """Change an object by a patch; run again after a race unless the patch names a version.

        What is applied and not there is made, if `may_create` raises nothing.
        """
        if kind == "apply":
            return await self._apply(user, target, body, options, may_create)
        info, size = target.info, self._size(target, body)
        document = await self._heavy.run(size, patching.parse_patch, kind, body)
        definition, mode = self._kinds.definition(info), validation_mode(options.field_validation)
        doubled: list[str] = []
        if kind != "json" and mode != "Ignore":
            doubled = await self._heavy.run(size, decoding.duplicates, body, decoding.JSON)
        warnings: list[str] = []
        # A write of the status keeps nothing else, but for some metadata.
        only = None if info.custom or kind == "json" or target.subresource != "status" else document.keys()

        def patched(current: Object) -> Object:
            new = patching.apply_patch(kind, current, document, definition, owned=True)
            found = decoding.conform_patched(
                new,
                definition,
                field_validation=mode,
                patch=document if kind == "strategic" else None,
                doubled=doubled,
                only=only,
            )
            warnings[:] = found
            check_patched(new, target, info.api_version, info.kind)
            return new

        async def make(current: Object) -> Object:
            return await self._heavy.run(size, patched, current)

        answer = await self.change(user, target, make, options, size=size)
        answer.warnings = [*warnings, *answer.warnings]
        return answer

    async def _apply(
        self,
        user: User,
        target: Target,
        body: bytes,
        options: WriteOptions,
        may_create: Callable[[], Awaitable[None]],
    ) -> Answer:
        """Server-side apply: make the object have the fields of the body, and own them."""
        info, definition = target.info, self._kinds.definition(target.info)
        mode, size = validation_mode(options.field_validation), self._size(target, body)
        kind = (info.api_version, info.kind)
        config, warnings = await self._heavy.run(size, read_configuration, body, kind, definition, mode)
        place_configuration(config, target)

        async def make(current: Object) -> Object:
            return await self.owners.applied(current, config, target, options, size=size)

        untracked = options.untracked

        async def new() -> Answer:
            await may_create()
            check_new(info, config["metadata"], target.name)
            # Validated before the namespace is looked for, and then made like any other object.
            place = Target(info, target.namespace)
            made = await self.owners.applied(None, config, target, options, size=size)
            return await self.create_object(user, place, made, untracked, size=size)

        change = partial(self.change, user, target, make, untracked, size=size)
        answer = await (change() if target.subresource else changed_or_made(change, new))
        answer.warnings = [*warnings, *answer.warnings]
        return answer

    async def change(
        self,
        user: User,
        target: Target,
        make: MakeNew,
        options: WriteOptions,
        *,
        prepare: Prepare | None = None,
        warnings: list[str] | None = None,
        status: bool | None = None,
        size: int = 0,
    ) -> Answer:
        """The common part of all changes: `make` gives the wanted object in the requested form.

        `prepare(new, old, info)` replaces the kind's strategy, for subresources with a meaning of their own;
        `status`: validate as a change of status.
        """
        info = target.info
        stored = self._kinds.stored(info)
        if status is None:
            status = target.subresource == "status"
        chosen = prepare or (strategy.prepare_for_status_update if status else strategy.prepare_for_update)
        known = cache.get(target.namespace, target.name) if (cache := self._hub.peek(stored)) is not None else None
        lease = await self._leases.lease(stored)
        tried: list[AdmissionRequest] = []

        async def change(entry: Entry | None) -> Write:
            assert entry is not None
            if tried and tried[-1].guards:
                # Perhaps somebody else took what was chosen: choose again from fresh caches.
                await self._hub.fresh()
            old = await self._forms.from_stored(stored, entry.object) if stored.custom else entry.object
            # Patches may share parts with what they start from, and strategies write in place: start from a copy.
            wanted = await make(await self._forms.from_stored(info, entry.fresh_object()))
            request = AdmissionRequest(
                *(UPDATE, stored, user, target.namespace, target.name, wanted, old, target.subresource),
                *(options.dry_run, options.patches, options.manager, info, size),
            )
            tried[:] = [request]
            new = await self._changed(target, request, chosen, status=status)
            write = Write(new, lease=lease, guards=request.guards, effects=request.effects)
            write.spares_owners = bool(options.manager)
            if old["metadata"].get("deletionTimestamp") and deletion.removable(new):
                write.delete = True
                gone = AdmissionRequest(DELETE, stored, user, target.namespace, target.name, new, old=old)
                await self._admission.reserve(gone)
                write.guards, write.effects = (), gone.effects
            if options.dry_run:
                raise DryRun(new)
            return write

        try:
            entry, _ = await self._storage.update(stored, target.namespace, target.name, change, known=known)
        except DryRun as dry:
            shown = await self._forms.from_stored(info, dry.object)
            return Answer(orjson.dumps(shown), warnings=[*(warnings or ()), *tried[0].warnings])
        except ApiError as e:
            failed = NotFound.of(info.plural, target.name, group=info.group) if isinstance(e, NotFound) else e
            failed.warnings = [*(warnings or ()), *(tried[0].warnings if tried else ())]
            raise failed from e.__cause__
        return Answer(await self._forms.json(info, entry), warnings=[*(warnings or ()), *tried[0].warnings])

    async def _changed(self, target: Target, request: AdmissionRequest, prepare: Prepare, *, status: bool) -> Object:
        """The object to store, in stored form, from the wanted one in the requested form."""
        info, stored, old, wanted = target.info, request.info, request.old, request.object
        assert old is not None
        meta = wanted["metadata"]
        check_same(info, meta, old["metadata"])
        request.warnings += drop_doubled_owners(meta, patched=True)
        if prepare not in _OF_STATUS or info.custom or rules_for(info).defaults_in_status:
            await self._heavy.run(request.size, self.default, info, wanted)
        new = request.object = await self._forms.to_stored(info, wanted)
        meta = new["metadata"]
        prepare(new, old, stored)
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if not status:
            await self._complete(request)
        await self.owners.track(old, new, info, request)
        judges = prepare is not keep_as_made
        if judges:
            await self._admit(request)
        new = request.object
        managed_fields.keep_times(new, old)
        judged, shown, before = await self._judged(request)
        part = request.subresource
        errors = await self._heavy.run(
            request.size, update_errors, self._kinds, shown, before, judged, request.asked, part, status
        )
        if errors:
            raise Invalid.of(info.kind, target.name, errors, group=info.group)
        if judges:
            await self._admission.validate(request)
        if not status:
            request.warnings += rules_for(stored).warnings(new, old)
        if not status or target.subresource == "resize":
            await self._admission.reserve(request)
        return new

    async def delete(self, user: User, target: Target, options: DeleteOptions) -> Answer:
        """See `deleting`."""
        return await self._deleter.delete(user, target, options)
