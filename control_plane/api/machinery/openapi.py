"""OpenAPI v3: the root document and one document per group-version, built on first use.

Enough for kubectl to validate, merge and explain: schemas with group-version-kinds, merge keys
and list types, and per kind the paths whose operations say which query parameters exist. The
schemas carry no descriptions, as the generated data holds names and types only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.machinery.discovery import Document
from rayplane.control_plane.api.machinery.patching import PATCH_TYPES
from rayplane.control_plane.api.machinery.resources import Registry, ResourceInfo
from rayplane.control_plane.api.machinery.schema import definition_name, parse_type, raw_definitions

_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
_SCALARS: Final[Mapping[str, dict[str, Any]]] = {
    "string": {"type": "string"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "bool": {"type": "boolean"},
    "double": {"type": "number", "format": "double"},
    "bytes": {"type": "string", "format": "byte"},
    "any": {},
    "object": {"type": "object"},
}
# Scalars that stand under a name of their own, so that `explain` can print it.
_NAMED: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "quantity": (
        "io.k8s.apimachinery.pkg.api.resource.Quantity",
        {"oneOf": [{"type": "string"}, {"type": "number"}]},
    ),
    "int-or-string": (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    ),
    "time": (_META + "Time", {"type": "string", "format": "date-time"}),
    "micro-time": (_META + "MicroTime", {"type": "string", "format": "date-time"}),
}
_EXTENSIONS: Final = {
    "strategy": "x-kubernetes-patch-strategy",
    "key": "x-kubernetes-patch-merge-key",
    "list": "x-kubernetes-list-type",
    "keys": "x-kubernetes-list-map-keys",
    "map": "x-kubernetes-map-type",
}
_ACTIONS: Final = {"get": "get", "create": "post", "update": "put", "patch": "patch"}
_WRITES: Final = frozenset({"post", "put", "patch"})


@dataclass(frozen=True, slots=True)
class _Operation:
    """One HTTP method of a path, and what `x-kubernetes-action` calls it."""

    method: str
    action: str
    kind: tuple[str, str, str]


class OpenAPI:
    """The documents of one registry; rendered once per change of the registry.

    `custom_schemas` maps (apiVersion, kind) of custom resources to their OpenAPI v3 schema.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        version: str,
        custom_schemas: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
    ) -> None:
        self._registry = registry
        self._version = version
        self._custom = custom_schemas if custom_schemas is not None else {}
        self._generation = -1
        self._cache: dict[str, Document] = {}

    def root(self) -> Document:
        """GET `/openapi/v3`: where each group-version's document is, with its hash."""
        self._refresh()
        if "" not in self._cache:
            paths: dict[str, Any] = {}
            for group in self._registry.groups():
                for version in group.versions:
                    key = f"apis/{group.name}/{version}" if group.name else f"api/{version}"
                    digest = self.group_version(key).etag.strip('"')
                    paths[key] = {"serverRelativeURL": f"/openapi/v3/{key}?hash={digest}"}
            self._cache[""] = _document({"paths": dict(sorted(paths.items()))})
        return self._cache[""]

    def group_version(self, key: str) -> Document:
        """GET `/openapi/v3/<key>` with key `api/v1` or `apis/apps/v1`. Raises NotFound.

        The ETag is the hash that the root document names.
        """
        self._refresh()
        found = self._cache.get(key)
        if found is None:
            match key.strip("/").split("/"):
                case ["api", version]:
                    infos = self._registry.in_version("", version)
                case ["apis", group, version]:
                    infos = self._registry.in_version(group, version)
                case _:
                    infos = []
            if not infos:
                raise NotFound()
            found = self._cache[key] = _document(self._build(infos))
        return found

    def group_versions(self) -> list[Document]:
        """The documents that the root names."""
        return [self.group_version(key) for key in orjson.loads(self.root().body)["paths"]]

    def _refresh(self) -> None:
        if self._generation != self._registry.generation:
            self._cache.clear()
            self._generation = self._registry.generation

    def _build(self, infos: list[ResourceInfo]) -> dict[str, Any]:
        paths: dict[str, Any] = {}
        schemas = _Schemas()
        schemas.need(_META + "DeleteOptions")
        schemas.need(_META + "Status")
        for info in infos:
            name = self._schema_of(info, schemas)
            paths |= _resource_paths(info, name, schemas)
        return {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": self._version},
            "paths": paths,
            "components": {"schemas": schemas.render()},
        }

    def _schema_of(self, info: ResourceInfo, schemas: _Schemas) -> str:
        if info.definition:
            schemas.need(info.definition)
            if listed := definition_name(info.api_version, info.list_kind):
                schemas.need(listed)
            return info.definition
        reversed_group = ".".join(reversed(info.group.split(".")))
        name = f"{reversed_group}.{info.version}.{info.kind}"
        custom = self._custom.get((info.api_version, info.kind), {"type": "object"})
        schemas.add_custom(name, custom, (info.group, info.version, info.kind))
        return name


def _document(data: dict[str, Any]) -> Document:
    return Document.of(orjson.dumps(data), "application/json")


class _Schemas:
    """The schemas of one document: those asked for and all they refer to."""

    def __init__(self) -> None:
        self._done: dict[str, dict[str, Any]] = {}
        self._todo: list[str] = []

    def need(self, name: str) -> None:
        if name not in self._done:
            self._todo.append(name)

    def add_custom(self, name: str, schema: Mapping[str, Any], kind: tuple[str, str, str]) -> None:
        made = {key: value for key, value in schema.items() if key != "properties"}
        properties = {
            **(schema.get("properties") or {}),
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": _reference(_META + "ObjectMeta"),
        }
        made |= {
            "type": "object",
            "properties": properties,
            "x-kubernetes-group-version-kind": [_kind(kind)],
        }
        self._done[name] = made
        self.need(_META + "ObjectMeta")

    def render(self) -> dict[str, Any]:
        while self._todo:
            name = self._todo.pop()
            if name not in self._done:
                self._done[name] = self._struct(raw_definitions()[name])
        return dict(sorted(self._done.items()))

    def _struct(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for field, value in entry["fields"].items():
            expression, notes = (value, {}) if isinstance(value, str) else value
            schema = self._type(expression)
            for note, text in notes.items():
                schema[_EXTENSIONS[note]] = text
            properties[field] = schema
        made: dict[str, Any] = {"type": "object"}
        if properties:
            made["properties"] = properties
        if required := entry.get("required"):
            made["required"] = required
        if map_type := entry.get("map"):
            made["x-kubernetes-map-type"] = map_type
        if kinds := entry.get("kinds"):
            made["x-kubernetes-group-version-kind"] = [_kind(tuple(kind)) for kind in kinds]
        return made

    def _type(self, expression: str) -> dict[str, Any]:
        if expression.startswith("[]"):
            return {"type": "array", "items": self._type(expression[2:])}
        if expression.startswith("{}"):
            return {"type": "object", "additionalProperties": self._type(expression[2:])}
        kind = parse_type(expression)
        if kind.reference:
            self.need(kind.reference)
            return _reference(kind.reference)
        if expression in _NAMED:
            name, schema = _NAMED[expression]
            self._done.setdefault(name, schema)
            return _reference(name)
        return dict(_SCALARS[expression])


def _reference(name: str) -> dict[str, Any]:
    return {"allOf": [{"$ref": f"#/components/schemas/{name}"}]}


def _kind(kind: tuple[str, ...]) -> dict[str, str]:
    group, version, name = kind
    return {"group": group, "kind": name, "version": version}


def _parameter(name: str, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": True}}


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _resource_paths(info: ResourceInfo, schema: str, schemas: _Schemas) -> dict[str, Any]:
    kind = (info.group, info.version, info.kind)
    verbs = set(info.verbs)
    collection = []
    if "list" in verbs:
        collection.append(_Operation("get", "list", kind))
    if "create" in verbs:
        collection.append(_Operation("post", "post", kind))
    if "deletecollection" in verbs:
        collection.append(_Operation("delete", "deletecollection", kind))
    item = [_Operation(_ACTIONS[verb], _ACTIONS[verb], kind) for verb in ("get", "update", "patch") if verb in verbs]
    if "delete" in verbs:
        item.append(_Operation("delete", "delete", kind))
    scope = "{namespace}" if info.namespaced else ""
    paths: dict[str, Any] = {}
    if collection:
        paths[info.path(scope)] = _path_item(info, collection, schema, named=False)
    if info.namespaced and "list" in verbs:
        everywhere = [_Operation("get", "list", kind)]
        paths[info.path()] = _path_item(info, everywhere, schema, named=False, namespaced=False)
    if item:
        paths[info.path(scope, "{name}")] = _path_item(info, item, schema, named=True)
    for name, sub in sorted(info.subresources.items()):
        sub_schema = definition_name(sub.api_version, sub.kind)
        if sub_schema is None:
            continue  # streams: exec, attach, port-forward, proxy
        schemas.need(sub_schema)
        operations = [
            _Operation(_ACTIONS[verb], _ACTIONS[verb], (sub.group, sub.version, sub.kind))
            for verb in sub.verbs
            if verb in _ACTIONS
        ]
        path = info.path(scope, "{name}") + f"/{name}"
        paths[path] = _path_item(info, operations, sub_schema, named=True)
    return paths


def _path_item(
    info: ResourceInfo,
    operations: list[_Operation],
    schema: str,
    *,
    named: bool,
    namespaced: bool = True,
) -> dict[str, Any]:
    parameters = [_path_parameter("name")] if named else []
    if info.namespaced and namespaced:
        parameters.append(_path_parameter("namespace"))
    made: dict[str, Any] = {
        operation.method: _operation(operation, schema, custom=info.custom) for operation in operations
    }
    made["parameters"] = [*parameters, _parameter("pretty")]
    return made


def _operation(operation: _Operation, schema: str, *, custom: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    made: dict[str, Any] = {
        "parameters": list(_query_parameters(operation)),
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": _kind(operation.kind),
    }
    if operation.method == "patch":
        media = [m for m, k in PATCH_TYPES.items() if not (custom and k == "strategic")]
        patch = {"type": "object"}
        made["requestBody"] = {"required": True, "content": {m: {"schema": patch} for m in media}}
    elif operation.method in _WRITES:
        made["requestBody"] = {"required": True, "content": content}
    elif operation.method == "delete":
        options = {"$ref": f"#/components/schemas/{_META}DeleteOptions"}
        made["requestBody"] = {"content": {"application/json": {"schema": options}}}
    return made


def _query_parameters(operation: _Operation) -> Iterator[dict[str, Any]]:
    if operation.method in _WRITES:
        for name in ("dryRun", "fieldManager", "fieldValidation"):
            yield _parameter(name)
        if operation.method == "patch":
            yield _parameter("force", "boolean")
    if operation.method == "delete":
        yield _parameter("dryRun")
        yield _parameter("gracePeriodSeconds", "integer")
        yield _parameter("orphanDependents", "boolean")
        yield _parameter("propagationPolicy")
    if operation.action in ("list", "deletecollection"):
        for name in ("continue", "fieldSelector", "labelSelector", "resourceVersion"):
            yield _parameter(name)
        yield _parameter("limit", "integer")
        yield _parameter("timeoutSeconds", "integer")
    if operation.action == "list":
        yield _parameter("resourceVersionMatch")
        yield _parameter("allowWatchBookmarks", "boolean")
        yield _parameter("sendInitialEvents", "boolean")
        yield _parameter("watch", "boolean")
