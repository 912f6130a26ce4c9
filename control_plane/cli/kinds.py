"""Names that people have for kinds, and their resources; custom ones are learnt from the cluster when needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.resources import Registry, ResourceInfo, UnknownResource, builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.errors import ClusterError, UsageError

_VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Objects of one resource: those named, or all."""

    info: ResourceInfo
    names: tuple[str, ...] = ()


class Lists(Protocol):
    """A client that lists objects of a resource, and may do no more."""

    async def list(self, resource: str, /) -> Any: ...


class Kinds:
    """The kinds by the words of users. Raises ClusterError, in kubectl's words, for what is not served."""

    def __init__(self, api: Lists) -> None:
        self._api = api
        self._registry: Registry = builtin_registry()
        self._columns: dict[tuple[str, str], Sequence[dict[str, Any]]] = {}
        self._complete = False

    async def resolve(self, text: str) -> list[ResourceInfo]:
        """The resource that `text` (plural, kind, short name, with or without group) names, or those of a category."""
        if text == "all":
            return [i for i in self._registry.all() if "all" in i.categories and i.is_storage_version]
        try:
            return [self._registry.resolve(text)]
        except UnknownResource:
            await self._learn()
        try:
            return [self._registry.resolve(text)]
        except UnknownResource:
            near = get_close_matches(
                text.lower(), [name for i in self._registry.all() for name in (i.plural, i.singular)]
            )
            advice = f"did you mean {near[0]}?" if near else "`rayplane get crds` shows those beside the built-in ones"
            raise ClusterError(f'the server doesn\'t have a resource type "{text}"; {advice}') from None

    async def of(self, obj: Object) -> ResourceInfo:
        """The resource of an object, by its apiVersion and kind."""
        version, kind = str(obj["apiVersion"]), str(obj["kind"])
        found = self._registry.by_kind(version, kind)
        if found is None:
            await self._learn()
            found = self._registry.by_kind(version, kind)
        if found is None:
            raise ClusterError(
                f'no matches for kind "{kind}" in version "{version}"; check apiVersion and kind, or apply its '
                "CustomResourceDefinition first"
            )
        return found

    def columns(self, info: ResourceInfo) -> Sequence[dict[str, Any]] | None:
        """The printer columns of a custom resource; None for the others."""
        return self._columns.get((info.name, info.version), ()) if info.custom else None

    async def choose(self, arguments: Sequence[str]) -> list[Chosen]:
        """`KIND[,KIND..] [NAME..]` or `KIND/NAME ..`. Raises UsageError."""
        if not arguments:
            raise UsageError("say what: KIND, KIND NAME or KIND/NAME")
        if any("/" in a for a in arguments):
            return await self._choose_pairs(arguments)
        infos = [i for part in arguments[0].split(",") if part for i in await self.resolve(part)]
        names = tuple(dict.fromkeys(arguments[1:]))
        if names and len(infos) > 1:
            raise UsageError("with several kinds write KIND/NAME for each object")
        return [Chosen(i, names) for i in dict.fromkeys(infos)]

    async def _choose_pairs(self, arguments: Sequence[str]) -> list[Chosen]:
        found: dict[ResourceInfo, list[str]] = {}
        for argument in arguments:
            kind, _, name = argument.partition("/")
            if not kind or not name or "/" in name:
                raise UsageError(f"{argument!r}: where one object is given as KIND/NAME, all must be")
            for info in await self.resolve(kind):
                found.setdefault(info, []).append(name)
        return [Chosen(info, tuple(names)) for info, names in found.items()]

    async def _learn(self) -> None:
        """Take the cluster's custom resources in, once."""
        if self._complete:
            return
        from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS

        self._complete = True
        self._registry = self._registry.copy()
        for definition in (await self._api.list(CRDS)).items:
            for info, columns in custom_resources(definition):
                self._registry.add(info)
                self._columns[info.name, info.version] = columns


def custom_resources(definition: Object) -> list[tuple[ResourceInfo, Sequence[dict[str, Any]]]]:
    """What a CustomResourceDefinition serves, each version with its printer columns."""
    spec = meta.spec(definition)
    names = spec["names"]
    stored = next((v["name"] for v in spec["versions"] if v.get("storage")), "")
    return [
        (
            ResourceInfo(
                group=spec["group"],
                version=version["name"],
                kind=names["kind"],
                plural=names["plural"],
                singular=names.get("singular") or names["kind"].lower(),
                namespaced=spec["scope"] == "Namespaced",
                verbs=_VERBS,
                definition="",
                storage_prefix=f"/registry/{spec['group']}/{names['plural']}/",
                stored_api_version=f"{spec['group']}/{stored}",
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                custom=True,
            ),
            version.get("additionalPrinterColumns") or (),
        )
        for version in spec["versions"]
        if version.get("served")
    ]


def resource_of(info: ResourceInfo) -> str:
    """How `ApiClient` is told of a resource in just this version."""
    return f"{info.plural}.{info.version}.{info.group}".rstrip(".")
