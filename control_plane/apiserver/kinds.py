"""The resources this server serves, and the forms their objects travel in.

Starts as Kubernetes' own resources; custom resources are added and removed while the server runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.kinds.registry import load_all, rules_for
from rayplane.control_plane.api.kinds.rules import WORKLOAD_PATHS, ScalePaths
from rayplane.control_plane.api.machinery import conversion, schema
from rayplane.control_plane.api.machinery.resources import Registry, ResourceInfo, builtin_registry
from rayplane.control_plane.api.machinery.schema import Definition
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.conversions import Known, Webhook
from rayplane.control_plane.apiserver.storage.entries import Entry, head_of

#: Bytes of objects that are known in the version that a webhook converted them to.
CONVERTED_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class CustomVersion:
    """One version of a custom resource and what its definition says of it."""

    info: ResourceInfo
    served: bool
    schema: dict[str, Any]
    definition: Definition = field(compare=False)
    columns: list[dict[str, Any]] = field(default_factory=list)
    selectable: tuple[str, ...] = ()
    scale: ScalePaths | None = None
    deprecated: str = ""
    """What every client is told who uses this version, if it is to go."""
    settle: Callable[[Object], None] = field(default=lambda o: None, compare=False)
    """Makes what was stored under an earlier schema what this one says, in place."""
    prune: Callable[[Object], None] = field(default=lambda o: None, compare=False)
    """Drops what the schema does not know, in place."""
    terminating: bool = False
    """Nothing new is made: the definition is being deleted."""
    rules: Any = field(default=None, compare=False)
    """The rules of the schema, compiled."""
    revision: int = field(default=0, compare=False)
    """The revision of the definition since which the schema is this one."""
    webhook: Webhook | None = None
    """Who converts objects to and from this version; None: they differ in their apiVersion alone."""


class Kinds:
    """Look-ups by name, schema definitions, and conversion between the served and the stored form."""

    def __init__(self) -> None:
        load_all()
        self.registry: Registry = builtin_registry().copy()
        self.custom_schemas: dict[tuple[str, str], dict[str, Any]] = {}
        """OpenAPI v3 schemas of custom resources by (apiVersion, kind)."""
        self._custom: dict[tuple[str, str], CustomVersion] = {}
        self._by_name: dict[str, list[CustomVersion]] = {}
        self.converted = Known(CONVERTED_BYTES_MAX)

    # --- look-ups -----------------------------------------------------------------------------

    def find(self, group: str, version: str, plural: str) -> ResourceInfo:
        """The resource; an empty version is the group's preferred one. NotFound as for an unknown path."""
        info = self.served(group, version, plural)
        if info is None:
            raise NotFound("the server could not find the requested resource", details={})
        return info

    def served(self, group: str, version: str, plural: str) -> ResourceInfo | None:
        """As `find`; None for what is not served."""
        if version:
            return self.registry.lookup(group, version, plural)
        try:
            return self.registry.by_name(f"{plural}.{group}" if group else plural)
        except LookupError:
            return None

    def named(self, name: str) -> ResourceInfo:
        """The stored form of `pods` or `deployments.apps`."""
        return self.stored(self.registry.by_name(name))

    def stored(self, info: ResourceInfo) -> ResourceInfo:
        if info.is_storage_version:
            return info
        if info.custom:
            found = self._custom.get((info.stored_api_version, info.kind))
            if found is None:
                # Its definition has gone this very moment.
                raise NotFound("the server could not find the requested resource", details={})
            return found.info
        return self.registry.storage_info(info)

    def version(self, info: ResourceInfo, api_version: str) -> ResourceInfo | None:
        """The same resource in another version; None for one that is not served."""
        if info.api_version == api_version:
            return info
        found: ResourceInfo | None
        if info.custom:
            custom = self._custom.get((api_version, info.kind))
            found = custom.info if custom is not None else None
        else:
            group, _, version = api_version.rpartition("/")
            found = self.registry.lookup(group, version, info.plural)
        return found if found is not None and found.storage_prefix == info.storage_prefix else None

    def custom(self, info: ResourceInfo) -> CustomVersion | None:
        """What the definition of a custom resource says of it."""
        return self._custom.get((info.api_version, info.kind)) if info.custom else None

    def definition(self, info: ResourceInfo) -> Definition | None:
        if info.custom:
            found = self.custom(info)
            return found.definition if found is not None else None
        return schema.definition(info.definition) if info.definition else None

    def warning(self, info: ResourceInfo) -> str:
        """What clients are told of a version that is on its way out."""
        found = self.custom(info)
        return found.deprecated if found is not None else rules_for(info).deprecated

    def scale_paths(self, info: ResourceInfo) -> ScalePaths:
        found = self.custom(info)
        return (found.scale if found is not None else None) or WORKLOAD_PATHS

    def in_group(self, group: str) -> list[ResourceInfo]:
        """Everything that is served in a group, in all its versions."""
        return [info for info in self.registry.all() if info.group == group]

    # --- custom resources ---------------------------------------------------------------------

    def custom_names(self) -> list[str]:
        return list(self._by_name)

    def set_custom(self, name: str, versions: list[CustomVersion]) -> str:
        """Serve these versions of `plural.group`, and no others; its prefix where they are converted otherwise now."""
        served = self._by_name.get(name)
        if served == versions and [one.info.told for one in served] == [one.info.told for one in versions]:
            return ""
        self.remove_custom(name)
        self._by_name[name] = versions
        for one in versions:
            key = (one.info.api_version, one.info.kind)
            self._custom[key] = one
            if one.served:
                self.custom_schemas[key] = one.schema
                self.registry.add(one.info)
        changed = served and versions and served[0].webhook != versions[0].webhook
        return versions[0].info.storage_prefix if changed else ""

    def remove_custom(self, name: str) -> str:
        """Stop serving `plural.group`; its prefix in etcd, empty if it was not served."""
        prefix = ""
        for one in self._by_name.pop(name, ()):
            info = one.info
            prefix = info.storage_prefix
            self._custom.pop((info.api_version, info.kind), None)
            self.custom_schemas.pop((info.api_version, info.kind), None)
            self.registry.remove(info.group, info.version, info.plural)
        return prefix

    # --- forms --------------------------------------------------------------------------------

    def to_stored(self, info: ResourceInfo, o: Object) -> Object:
        """The stored form of an object that came in the form of `info`. May share parts with `o`.

        Raises Unconverted, as `from_stored` and `json` do, where a webhook is to be asked first.
        """
        if not info.custom:
            return conversion.to_stored(o, info)
        if info.is_storage_version:
            return o
        stored = self.stored(info)
        made, found = self._converted(stored, o), self.custom(stored)
        if found is not None:
            # Whoever reads it is shown the defaults of the version that it is stored in.
            found.settle(made)
        return made

    def from_stored(self, info: ResourceInfo, o: Object) -> Object:
        """A stored object in the form of `info`. May share parts with `o`."""
        if info.custom:
            return self._settled(info, o)
        return conversion.to_served(o, info)

    def webhook(self, info: ResourceInfo) -> Webhook | None:
        """Who converts the objects of a custom resource; None where nobody is asked."""
        found = self.custom(info)
        return found.webhook if found is not None else None

    def _converted(self, info: ResourceInfo, o: Object) -> Object:
        """A custom object in the form of `info`, without what that form does not have."""
        found = self.custom(info)
        if found is None or "metadata" not in o:
            return {**o, "apiVersion": info.api_version}
        if found.webhook is not None:
            made = self.converted.get(found.webhook, o, info.api_version)
        else:
            made = {**orjson.loads(orjson.dumps(o)), "apiVersion": info.api_version}
        found.prune(made)
        return made

    def _settled(self, info: ResourceInfo, o: Object) -> Object:
        """A custom object by the schema of its version, whatever it was stored by."""
        version = str((o.get("metadata") or {}).get("resourceVersion") or "0")
        if not self._outlived(info, o.get("apiVersion"), int(version)):
            return o
        if o.get("apiVersion") != info.api_version:
            # Completed as what it is, before it becomes something else.
            source = self._custom.get((str(o.get("apiVersion")), info.kind))
            return self._converted(info, self._settled(source.info, o) if source is not None else o)
        found = self.custom(info)
        copy: Object = orjson.loads(orjson.dumps(o))
        if found is not None:
            found.settle(copy)
        return copy

    def _outlived(self, info: ResourceInfo, api_version: Any, revision: int) -> bool:
        """Whether a custom object may have been stored by another schema than that of `info`."""
        found = self.custom(info)
        return api_version != info.api_version or found is None or revision <= found.revision

    def json(self, info: ResourceInfo, entry: Entry) -> bytes:
        """An entry's bytes in the form of `info`."""
        if info.is_storage_version and not info.custom:
            return entry.json
        head = head_of(info.kind, info.api_version)
        if info.custom and entry.json.startswith(head) and not self._outlived(info, info.api_version, entry.revision):
            return entry.json
        return orjson.dumps(self.from_stored(info, entry.object))
