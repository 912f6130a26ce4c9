"""Owners of the fields of an object: recorded with each write, and looked at by those who apply.

Managers name fields in the version that they write: objects are looked at in all of these.
"""

from __future__ import annotations

from rayplane.control_plane.api.machinery import apply, decoding
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.schema import Definition
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission import AdmissionRequest
from rayplane.control_plane.apiserver.apiextensions.forms import Forms
from rayplane.control_plane.apiserver.conversions import Unconverted
from rayplane.control_plane.apiserver.flowcontrol.heavy import Heavy
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.registry.bodies import reach_of
from rayplane.control_plane.apiserver.requests import Target, WriteOptions
from rayplane.storage.env import Env


class Owners:
    """The managedFields of what is written."""

    def __init__(self, kinds: Kinds, forms: Forms, heavy: Heavy, env: Env) -> None:
        self._kinds = kinds
        self._forms = forms
        self._heavy = heavy
        self._env = env

    async def applied(
        self, live: Object | None, config: Object, target: Target, options: WriteOptions, *, size: int = 0
    ) -> Object:
        """The object after its configuration was applied, both in the requested form, with who owns what."""
        return await self._forms.settled(lambda: self._heavy.run(size, self._applied, live, config, target, options))

    def _applied(self, live: Object | None, config: Object, target: Target, options: WriteOptions) -> Object:
        info, definition = target.info, self._kinds.definition(target.info)
        new = apply.apply(
            live,
            config,
            definition,
            manager=options.field_manager,
            time=self._stamp(target.subresource),
            force=options.force,
            subresource=target.subresource,
            reach=reach_of(info, target.subresource),
            convert=self._views(info),
        )
        decoding.conform_patched(new, definition, field_validation="Ignore")
        new["metadata"].setdefault("managedFields", [])  # so that none is not taken for none said
        return new

    def _stamp(self, subresource: str) -> str:
        """The time of an entry; a change of scale leaves none, as in Kubernetes."""
        return "" if subresource == "scale" else self._env.timestamp()

    async def track(self, old: Object | None, new: Object, info: ResourceInfo, request: AdmissionRequest) -> None:
        """Record who manages the fields that change, named as in `info`; without a manager, keep what is recorded."""
        if not request.manager:
            self._tracked(old, new, info, request)
            return
        await self._forms.settled(lambda: self._heavy.run(request.size, self._tracked, old, new, info, request))

    def _tracked(self, old: Object | None, new: Object, info: ResourceInfo, request: AdmissionRequest) -> None:
        if not request.manager:
            kept = old["metadata"].get("managedFields") if old is not None else None
            entries = new["metadata"].pop("managedFields", kept)
            if entries:
                new["metadata"]["managedFields"] = entries
            return
        given = new["metadata"].get("managedFields")
        try:
            apply.track_update(
                old,
                new,
                self._kinds.definition(info),
                manager=request.manager,
                time=self._stamp(request.subresource),
                version=info.api_version,
                subresource=request.subresource,
                reach=reach_of(info, request.subresource),
                convert=self._views(info),
            )
        except Unconverted:
            # It begins anew with what it was given.
            if given is not None:
                new["metadata"]["managedFields"] = given
            raise

    def _views(self, info: ResourceInfo) -> apply.Convert:
        """How objects of a resource look in its other versions."""

        def convert(obj: Object, api_version: str) -> tuple[Object, Definition | None] | None:
            other = self._kinds.version(info, api_version)
            if other is None:
                return None
            if not info.custom:
                here = self._kinds.version(info, obj["apiVersion"]) or info
                obj = self._kinds.to_stored(here, obj)
            return self._kinds.from_stored(other, obj), self._kinds.definition(other)

        return convert
