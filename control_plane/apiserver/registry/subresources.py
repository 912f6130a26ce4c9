"""Subresources with a meaning of their own, and the kinds that are only questions (reviews)."""

from collections.abc import Callable
from typing import Any

import orjson

from rayplane.control_plane.api.errors import (
    BadRequest,
    FieldError,
    Invalid,
    MethodNotAllowed,
)
from rayplane.control_plane.api.kinds.autoscaling.scale import configuration, get_scale, set_scale
from rayplane.control_plane.api.kinds.core.binding import bind
from rayplane.control_plane.api.kinds.pod_template.updates import (
    resized_spec,
    validate_ephemeral_update,
    validate_resize,
)
from rayplane.control_plane.api.kinds.rules import CLIENTS_METADATA, ScalePaths
from rayplane.control_plane.api.machinery import decoding, patching
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission import Admission, AdmissionRequest
from rayplane.control_plane.apiserver.admission.request import CREATE
from rayplane.control_plane.apiserver.apiextensions.forms import Forms
from rayplane.control_plane.apiserver.authorization.reviews import Reviews
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.registry.bodies import (
    check_patched,
    check_same,
    place_configuration,
    read_configuration,
    validation_mode,
)
from rayplane.control_plane.apiserver.registry.evictions import Evictions
from rayplane.control_plane.apiserver.registry.reading import Reader
from rayplane.control_plane.apiserver.registry.token_requests import TokenRequests
from rayplane.control_plane.apiserver.registry.writing import Writer, keep_as_made
from rayplane.control_plane.apiserver.requests import (
    Answer,
    Target,
    User,
    WriteOptions,
)
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.storage.env import Env

_SUCCESS = orjson.dumps({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
_SCALE = ("autoscaling/v1", "Scale")
_WHOLE_OBJECT = frozenset({"ephemeralcontainers", "resize", "approval", "finalize"})


class Subresources:
    """The subresources: `get`, `create`, `update`, `patch`, and `review`. Authorisation was before."""

    def __init__(
        self,
        kinds: Kinds,
        forms: Forms,
        reader: Reader,
        writer: Writer,
        lookup: Lookup,
        *,
        admission: Admission,
        reviews: Reviews,
        token_requests: TokenRequests,
        env: Env,
    ) -> None:
        self._kinds = kinds
        self._forms = forms
        self._reader = reader
        self._writer = writer
        self._evictions = Evictions(kinds, reader, writer, lookup, env)
        self._admission = admission
        self._reviews = reviews
        self._token_requests = token_requests
        self._env = env

    # --- reads --------------------------------------------------------------------------------

    async def get(self, target: Target, resource_version: str) -> bytes:
        entry = await self._reader.get(target, resource_version)
        if target.subresource == "scale":
            o = await self._forms.from_stored(target.info, entry.object)
            return orjson.dumps(get_scale(o, self._kinds.scale_paths(target.info)))
        if target.subresource in _WHOLE_OBJECT:
            return await self._forms.json(target.info, entry)
        raise MethodNotAllowed(details={})

    # --- writes -------------------------------------------------------------------------------

    async def create(self, user: User, target: Target, body: bytes, content_type: str, options: WriteOptions) -> Answer:
        sub = target.subresource
        if sub not in ("binding", "eviction", "token"):
            raise MethodNotAllowed(details={})
        o = self._body(target, body, content_type)
        request = AdmissionRequest(CREATE, target.info, user, target.namespace, target.name, o, subresource=sub)
        request.dry_run = options.dry_run
        await self._admission.admit(request)
        await self._admission.validate(request)
        o = request.object
        name = (o.get("metadata") or {}).get("name") or target.name
        if name != target.name:
            raise BadRequest(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
        if sub == "binding":
            answer = await self._bind(user, target, o, options)
        elif sub == "eviction":
            await self._evictions.evict(user, target, o, dry_run=options.dry_run)
            answer = Answer(_SUCCESS, created=True)
        else:
            answer = await self._token_requests.answer(target, o)
        answer.warnings += request.warnings
        return answer

    async def update(self, user: User, target: Target, body: bytes, content_type: str, options: WriteOptions) -> Answer:
        if target.subresource == "scale":
            given = self._body(target, body, content_type)
            return await self._scale(user, target, lambda _: given, options)
        if target.subresource not in _WHOLE_OBJECT:
            raise MethodNotAllowed(details={})
        whole = self._writer.decode(target.info, body, content_type, options).object

        async def make(_: Object) -> Object:
            copy: Object = orjson.loads(orjson.dumps(whole))
            return copy

        return await self._change_part(user, target, make, options)

    async def patch(
        self,
        user: User,
        target: Target,
        kind: patching.PatchKind,
        body: bytes,
        options: WriteOptions,
    ) -> Answer:
        if target.subresource == "scale":
            return await self._patch_scale(user, target, kind, body, options)
        if target.subresource not in _WHOLE_OBJECT:
            raise MethodNotAllowed(details={})
        definition, mode = self._kinds.definition(target.info), validation_mode(options.field_validation)
        if kind == "apply":
            kind_of = (target.info.api_version, target.info.kind)
            config, _ = read_configuration(body, kind_of, definition, mode)
            place_configuration(config, target)

            async def applied(current: Object) -> Object:
                return await self._writer.owners.applied(current, config, target, options)

            return await self._change_part(user, target, applied, options.untracked)
        document = patching.parse_patch(kind, body)

        async def make(current: Object) -> Object:
            new = patching.apply_patch(kind, current, document, definition, owned=True)
            decoding.conform_patched(new, definition, field_validation=mode)
            check_patched(new, target, target.info.api_version, target.info.kind)
            return new

        return await self._change_part(user, target, make, options)

    async def _change_part(self, user: User, target: Target, make: Any, options: WriteOptions) -> Answer:
        prepare = _PREPARE[target.subresource]
        status = target.subresource in ("approval", "finalize", "resize", "ephemeralcontainers")
        return await self._writer.change(user, target, make, options, prepare=prepare, status=status)

    # --- scale --------------------------------------------------------------------------------

    async def _scale(
        self, user: User, target: Target, wanted: Callable[[Object], Object], options: WriteOptions
    ) -> Answer:
        """Set the replicas to those of the Scale that is `wanted` in place of the current one."""
        info, paths = target.info, self._kinds.scale_paths(target.info)

        async def make(current: Object) -> Object:
            scale = wanted(get_scale(current, paths))
            check_same(info, scale.get("metadata") or {}, current["metadata"])
            set_scale(current, scale, paths)
            return current

        return self._scale_of(await self._writer.change(user, target, make, options), paths)

    async def _patch_scale(
        self, user: User, target: Target, kind: patching.PatchKind, body: bytes, options: WriteOptions
    ) -> Answer:
        shape = definition_of(*_SCALE)
        mode = validation_mode(options.field_validation)
        if kind == "apply":
            return await self._apply_scale(user, target, body, options)
        document = patching.parse_patch(kind, body)

        def patched(scale: Object) -> Object:
            new = patching.apply_patch(kind, scale, document, shape)
            decoding.conform_patched(new, shape, field_validation=mode)
            check_patched(new, target, *_SCALE)
            return new

        return await self._scale(user, target, patched, options)

    async def _apply_scale(self, user: User, target: Target, body: bytes, options: WriteOptions) -> Answer:
        paths, mode = self._kinds.scale_paths(target.info), validation_mode(options.field_validation)
        scale, _ = read_configuration(body, _SCALE, definition_of(*_SCALE), mode)
        place_configuration(scale, target)

        async def make(current: Object) -> Object:
            check_same(target.info, scale["metadata"], current["metadata"])
            new = await self._writer.owners.applied(current, configuration(current, scale, paths), target, options)
            # A Scale that nobody gives a number any more is one of none.
            set_scale(new, get_scale(new, paths), paths)
            return new

        return self._scale_of(await self._writer.change(user, target, make, options.untracked), paths)

    def _scale_of(self, answer: Answer, paths: ScalePaths) -> Answer:
        shown = get_scale(orjson.loads(answer.json), paths)
        return Answer(orjson.dumps(shown), warnings=answer.warnings)

    # --- binding ------------------------------------------------------------------------

    async def _bind(self, user: User, target: Target, binding: Object, options: WriteOptions) -> Answer:
        now = self._env.clock.now()

        async def make(current: Object) -> Object:
            bind(current, binding, now=now)
            return current

        plain = Target(target.info, target.namespace, target.name)
        await self._writer.change(user, plain, make, options, prepare=keep_as_made, status=True)
        return Answer(_SUCCESS, created=True)

    # --- reviews and other questions ----------------------------------------------------------

    async def review(self, user: User, target: Target, body: bytes, content_type: str, options: WriteOptions) -> Answer:
        """Answer a kind that is not stored."""
        info = target.info
        o = self._writer.decode(info, body, content_type, options).object
        if info.name == "bindings":
            name = (o.get("metadata") or {}).get("name") or ""
            pods = self._kinds.named("pods")
            return await self._bind(user, Target(pods, target.namespace, name), o, options)
        answered = await self._reviews.answer(user, info, target.namespace, o)
        return Answer(orjson.dumps(answered), created=True, object=answered)

    def _body(self, target: Target, body: bytes, content_type: str) -> Object:
        sub = target.info.subresources[target.subresource]
        o = decoding.decode(body, content_type, kind=sub.kind) if body else {}
        o.setdefault("kind", sub.kind)
        if o["kind"] != sub.kind:
            raise BadRequest(f"expected a {sub.kind} in the body, got {o['kind']}")
        o.setdefault("apiVersion", sub.api_version)
        # Older versions of a request mean the same.
        o["apiVersion"] = sub.api_version
        definition = definition_of(sub.api_version, sub.kind)
        decoding.conform_patched(o, definition, field_validation="Ignore")
        return o


def _ephemeral(new: Object, old: Object, info: ResourceInfo) -> None:
    wanted = (new.get("spec") or {}).get("ephemeralContainers") or []
    _replace(new, old, {"spec": {**old["spec"], "ephemeralContainers": wanted}})
    _must_be_valid(new, validate_ephemeral_update(new, old))
    _count(new, old)


def _resize(new: Object, old: Object, info: ResourceInfo) -> None:
    _replace(new, old, {"spec": resized_spec(new.get("spec") or {}, old["spec"])})
    _must_be_valid(new, validate_resize(new, old))
    _count(new, old)


def _count(new: Object, old: Object) -> None:
    """A change of what a pod is to be is a new generation of it, whichever way it comes."""
    if new["spec"] != old["spec"]:
        new["metadata"]["generation"] = (old["metadata"].get("generation") or 0) + 1


def _must_be_valid(pod: Object, errors: list[FieldError]) -> None:
    if errors:
        raise Invalid.of("Pod", pod["metadata"]["name"], errors)


def _approval(new: Object, old: Object, info: ResourceInfo) -> None:
    conditions = (new.get("status") or {}).get("conditions") or []
    parts = {"status": {**(old.get("status") or {}), "conditions": conditions}}
    _replace(new, old, parts, metadata=CLIENTS_METADATA)


def _finalize(new: Object, old: Object, info: ResourceInfo) -> None:
    finalizers = (new.get("spec") or {}).get("finalizers") or []
    spec = {k: v for k, v in (old.get("spec") or {}).items() if k != "finalizers"}
    if finalizers:
        spec["finalizers"] = finalizers
    _replace(new, old, {"spec": spec}, metadata=CLIENTS_METADATA)


def _replace(new: Object, old: Object, parts: Object, *, metadata: frozenset[str] = frozenset()) -> None:
    """Make `new` the old object with only `parts` changed, and these fields of `metadata`."""
    given = new.get("metadata") or {}
    taken = {"resourceVersion", "managedFields", *metadata}
    kept = {field: value for field, value in old["metadata"].items() if field not in taken}
    new.clear()
    new.update({**old, **parts})
    new["metadata"] = kept | {field: value for field, value in given.items() if field in taken}


_PREPARE = {
    "ephemeralcontainers": _ephemeral,
    "resize": _resize,
    "approval": _approval,
    "finalize": _finalize,
}
