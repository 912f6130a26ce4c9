"""The resources this server serves, and the forms their objects travel in.

Starts as Kubernetes' own resources; custom resources are added and removed while the server runs.
"""

from typing import Any

import orjson

from control_plane.api import conversion, schema
from control_plane.api.errors import NotFound
from control_plane.api.meta import Object
from control_plane.api.resources import Registry, ResourceInfo, builtin_registry
from control_plane.api.schema import Definition
from control_plane.api.subresources import ScalePaths
from control_plane.apiserver.entries import Entry


class Kinds:
    """Look-ups by name, schema definitions, and conversion between the served and the stored form."""

    def __init__(self) -> None:
        self.registry: Registry = builtin_registry().copy()
        self.custom_definitions: dict[tuple[str, str], Definition] = {}
        """Definitions of custom resources by (apiVersion, kind)."""
        self.custom_schemas: dict[tuple[str, str], dict[str, Any]] = {}
        """Their OpenAPI v3 schemas, by the same keys."""
        self.columns: dict[tuple[str, str], list[dict[str, Any]]] = {}
        """Their additionalPrinterColumns, by the same keys."""
        self.scale_paths: dict[str, ScalePaths] = {}
        """Where custom resources (plural.group) keep their replica counts."""

    def find(self, group: str, version: str, plural: str) -> ResourceInfo:
        """The resource; an empty version is the group's preferred one. NotFound as for an unknown path."""
        if version:
            info = self.registry.lookup(group, version, plural)
        else:
            try:
                info = self.registry.by_name(f"{plural}.{group}" if group else plural)
            except LookupError:
                info = None
        if info is None:
            raise NotFound("the server could not find the requested resource", details={})
        return info

    def named(self, name: str) -> ResourceInfo:
        """The stored form of `pods` or `deployments.apps`."""
        return self.stored(self.registry.by_name(name))

    def stored(self, info: ResourceInfo) -> ResourceInfo:
        return info if info.is_storage_version else self.registry.storage_info(info)

    def definition(self, info: ResourceInfo) -> Definition | None:
        if info.custom:
            return self.custom_definitions.get((info.api_version, info.kind))
        return schema.definition(info.definition) if info.definition else None

    def to_stored(self, info: ResourceInfo, o: Object) -> Object:
        """The stored form of an object that came in the form of `info`."""
        return conversion.to_stored(o, info)

    def from_stored(self, info: ResourceInfo, o: Object) -> Object:
        """A stored object in the form of `info`. May share parts with `o`."""
        return conversion.to_served(o, info)

    def json(self, info: ResourceInfo, entry: Entry) -> bytes:
        """An entry's bytes in the form of `info`."""
        if info.is_storage_version:
            return entry.json
        return orjson.dumps(conversion.to_served(entry.object, info))
