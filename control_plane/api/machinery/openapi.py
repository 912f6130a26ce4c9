"""OpenAPI v3: the root document and one document per group-version, built on first use.

Owns which documents there are, and their hashes. Schemas and paths are made in `openapi_schemas` and `openapi_paths`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.machinery.discovery import Document
from rayplane.control_plane.api.machinery.openapi_paths import capitalized, plain_path, resource_paths, tag_of
from rayplane.control_plane.api.machinery.openapi_schemas import META, Schemas
from rayplane.control_plane.api.machinery.resources import Registry, ResourceInfo
from rayplane.control_plane.api.machinery.schema import definition_name

_JSON: Final = "application/json"
_PlainPath = tuple[str, str, str, str]
"""Operation, its description, its tag, and the schema of the answer, or none."""
_PLAIN_PATHS: Final[Mapping[str, _PlainPath]] = {
    ".well-known/openid-configuration": (
        "getServiceAccountIssuerOpenIDConfiguration",
        "get what a relying party must know of the issuer of service accounts' tokens",
        "WellKnown",
        "",
    ),
    "api": ("getCoreAPIVersions", "get the versions of the core group", "core", META + "APIVersions"),
    "apis": ("getAPIVersions", "get the groups and their versions", "apis", META + "APIGroupList"),
    "openid/v1/jwks": (
        "getServiceAccountIssuerOpenIDKeyset",
        "get the keys that service accounts' tokens are signed with",
        "openid",
        "",
    ),
    "version": (
        "getCodeVersion",
        "get the version of this server",
        "version",
        "io.k8s.apimachinery.pkg.version.Info",
    ),
}
CustomSchemas = Mapping[tuple[str, str], Mapping[str, Any]]


class OpenAPI:
    """The documents of one registry; rendered once per change of the registry.

    `custom_schemas` maps (apiVersion, kind) of custom resources to their OpenAPI v3 schema.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        version: str,
        custom_schemas: CustomSchemas | None = None,
    ) -> None:
        self._registry = registry
        self._version = version
        self._custom = custom_schemas if custom_schemas is not None else {}
        self._generation = -1
        self._cache: dict[str, Document] = {}

    def root(self) -> Document:
        """GET `/openapi/v3`: where each group-version's document is, with its hash.

        The first of a process takes a tenth of a second: it makes all documents.
        """
        self._refresh()
        if "" not in self._cache:
            paths = {key: {"serverRelativeURL": self.url(key)} for key in sorted(self._keys())}
            self._cache[""] = Document.of(orjson.dumps({"paths": paths}), _JSON)
        return self._cache[""]

    def url(self, key: str) -> str:
        """Where the document of a group-version is, as it is now. Raises NotFound."""
        return f"/openapi/v3/{key}?hash={self.group_version(key).hash}"

    def group_version(self, key: str) -> Document:
        """GET `/openapi/v3/<key>` with key `api/v1` or `apis/apps/v1`. Raises NotFound.

        The ETag is the hash that the root document names.
        """
        self._refresh()
        found = self._cache.get(key)
        if found is None and (plain := self._plain_paths().get(key)) is not None:
            found = self._cache[key] = _rendered({}, plain, Schemas(), self._version, root=f"/{key}")
        if found is None:
            infos = self._infos(key)
            if any(info.custom for info in infos):
                found = _render(infos, self._version, self._custom)
            else:
                found = _builtin(tuple(infos), self._version)
            self._cache[key] = found
        return found

    def group_versions(self) -> list[Document]:
        """The documents that the root names."""
        return [self.group_version(key) for key in self._keys()]

    def _keys(self) -> list[str]:
        found = list(self._plain_paths())
        for group in self._registry.groups():
            found += [f"apis/{group.name}/{one}" if group.name else f"api/{one}" for one in group.versions]
        return found

    def _plain_paths(self) -> dict[str, _PlainPath]:
        """What is served beside group-versions."""
        found = dict(_PLAIN_PATHS)
        for group in self._registry.groups():
            if group.name:
                name, tag = f"get{capitalized(group.name)}APIGroup", tag_of(group.name, "")
                found[f"apis/{group.name}"] = (name, "get what is served of a group", tag, META + "APIGroup")
        return found

    def _refresh(self) -> None:
        if self._generation != self._registry.generation:
            self._cache.clear()
            self._generation = self._registry.generation

    def _infos(self, key: str) -> list[ResourceInfo]:
        match key.strip("/").split("/"):
            case ["api", version]:
                infos = self._registry.in_version("", version)
            case ["apis", group, version]:
                infos = self._registry.in_version(group, version)
            case _:
                infos = []
        if not infos:
            raise NotFound()
        return infos


@lru_cache(maxsize=128)
def _builtin(infos: tuple[ResourceInfo, ...], version: str) -> Document:
    """A document without custom resources, which all servers of a process have in common."""
    return _render(infos, version, {})


def _render(infos: Sequence[ResourceInfo], version: str, custom: CustomSchemas) -> Document:
    paths: dict[str, Any] = {}
    schemas = Schemas()
    for name in ("DeleteOptions", "Status", "Patch"):
        schemas.need(META + name)
    for info in infos:
        paths |= resource_paths(info, _schema_of(info, schemas, custom), schemas)
    group, served = infos[0].group, infos[0].version
    operation = f"get{capitalized(group)}{served.capitalize()}APIResources"
    plain = operation, "get what is served of a version", tag_of(group, served), META + "APIResourceList"
    return _rendered(paths, plain, schemas, version, root=infos[0].path("").rpartition("/")[0])


def _rendered(paths: dict[str, Any], plain: _PlainPath, schemas: Schemas, version: str, *, root: str) -> Document:
    """A document with the paths of resources and with that at the `root` of them."""
    operation, text, tag, schema = plain
    if schema:
        schemas.need(schema)
    made = {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": plain_path(root + "/", operation, text, tag, schema) | paths,
        "components": {"schemas": schemas.render()},
    }
    return Document.of(orjson.dumps(made), _JSON)


def _schema_of(info: ResourceInfo, schemas: Schemas, custom: CustomSchemas) -> str:
    """The name of a resource's schema, which is among `schemas` from then on."""
    if info.definition:
        schemas.need(info.definition)
        if listed := definition_name(info.api_version, info.list_kind):
            schemas.need(listed)
        return info.definition
    reversed_group = ".".join(reversed(info.group.split(".")))
    name = f"{reversed_group}.{info.version}.{info.kind}"
    schema = custom.get((info.api_version, info.kind), {"type": "object"})
    schemas.add_custom(name, schema, (info.group, info.version, info.kind), info.list_kind)
    return name
