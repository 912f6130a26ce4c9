"""The API of what was recorded: its kinds, lists and tables as they were at a moment, for reading alone. Pure.

What is in a file is nobody's promise: each object is brought into the shape of its kind before anything looks at it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import BadRequest, NotFound
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.kinds.registry import load_all, rules_for
from rayplane.control_plane.api.machinery import schema
from rayplane.control_plane.api.machinery.changes import Change, changes
from rayplane.control_plane.api.machinery.discovery import Discovery, Document
from rayplane.control_plane.api.machinery.resources import Registry, ResourceInfo, builtin_registry
from rayplane.control_plane.api.machinery.selectors import parse_labels
from rayplane.control_plane.api.machinery.strict import conform
from rayplane.control_plane.api.machinery.tables import to_table
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.invariants.stored import UNRECORDED
from rayplane.control_plane.recordings import Moment, Recording

READ: Final = ("get", "list")
_OF_NAME = "metadata.name="


class _Catalog(Registry):
    """The resources of which objects are recorded, and what else of them is known."""

    def is_stale(self, group: str, version: str) -> bool:
        return False


class RecordedApi:
    """The API of one recording. Methods raise ApiError."""

    def __init__(self, recording: Recording) -> None:
        load_all()
        self._recording = recording
        stored = {info.name: info for info in builtin_registry().stored()}
        found = recording.resources()
        own = [replace(info, verbs=READ, subresources={}) for name, info in stored.items() if name not in UNRECORDED]
        custom = [info for name in found.keys() - stored.keys() if (info := _custom(name, found[name]))]
        self._catalog = _Catalog([*own, *sorted(custom, key=lambda info: info.name)])
        self._discovery = Discovery(self._catalog)

    def discovery(self, path: str, accept: str) -> Document:
        return self._discovery.document(path, accept)

    def named(self, group: str, version: str, plural: str) -> ResourceInfo:
        """Raises NotFound."""
        info = self._catalog.lookup(group, version, plural)
        if info is None:
            raise NotFound("objects of this kind are not recorded")
        return info

    def objects(self, name: str, moment: Moment, namespace: str = "") -> list[Object]:
        """Those of a resource, as `pods` or `deployments.apps`; none where the recording has none."""
        found = (info for info in self._catalog.all() if info.name == name)
        return [o for info in found for o in self._objects(info, moment, namespace)]

    def selected(self, info: ResourceInfo, moment: Moment, namespace: str, query: Mapping[str, str]) -> list[Object]:
        """Those of a namespace, or of all, by labels or by a name."""
        found = self._objects(info, moment, namespace)
        if fields := query.get("fieldSelector", ""):
            if not fields.startswith(_OF_NAME):
                raise BadRequest(f"a recording can be asked by {_OF_NAME}NAME alone")
            found = [o for o in found if meta.name(o) == fields.removeprefix(_OF_NAME)]
        if labels := query.get("labelSelector", ""):
            selector = parse_labels(labels)
            found = [o for o in found if selector.matches(meta.labels(o))]
        return found

    def table(self, info: ResourceInfo, objs: list[Object], moment: Moment) -> Object:
        """A table of objects of the resource, with ages of then."""
        version = {"resourceVersion": str(moment.revision)}
        with _shown():
            columns = self._columns(info, moment) if info.custom else None
            return to_table(rules_for(info).printer, objs, now=self._time(moment), metadata=version, columns=columns)

    def changes(self, old: Moment, new: Moment, namespace: str) -> list[Change]:
        """What became of all objects."""
        before, after = [
            [o for info in self._catalog.all() for o in self._objects(info, at, namespace)] for at in (old, new)
        ]
        with _shown():
            return changes(before, after)

    def _time(self, moment: Moment) -> datetime:
        return self._recording.time(moment)

    def _objects(self, info: ResourceInfo, moment: Moment, namespace: str) -> list[Object]:
        if namespace and not info.namespaced:
            return []
        definition = schema.definition(info.definition or schema.OBJECT_META)
        found = []
        for obj in self._recording.objects(info.name, moment, namespace):
            obj |= {"apiVersion": info.api_version, "kind": info.kind}
            with _shown():
                conform(obj if info.definition else obj["metadata"], definition)
            found.append(obj)
        return found

    def _columns(self, info: ResourceInfo, moment: Moment) -> list[Any]:
        """Those that the definition of a custom kind lists."""
        for definition in self.objects(CRDS, moment):
            if meta.name(definition) == info.name:
                versions = meta.spec(definition).get("versions") or ()
                found: Object = next((v for v in versions if v["name"] == info.version), {})
                return list(found.get("additionalPrinterColumns") or ())
        return []


@contextmanager
def _shown() -> Iterator[None]:
    """Whatever an object makes of who looks at it, it is the object that is wrong."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        raise BadRequest(f"the recording has an object that is none of its kind: {e}") from e


def _custom(name: str, sample: Object) -> ResourceInfo | None:
    """What can be told of a kind by one of its objects; None where that is of another group."""
    plural, _, group = name.partition(".")
    version = str(sample.get("apiVersion") or "").removeprefix(f"{group}/")
    kind = str(sample.get("kind") or "")
    if not (plural and group and version and kind) or "/" in version:
        return None
    return ResourceInfo(
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        namespaced=bool(meta.namespace(sample)),
        verbs=READ,
        definition="",
        storage_prefix=f"/registry/{group}/{plural}/",
        stored_api_version=f"{group}/{version}",
        custom=True,
        list_kind=f"{kind}List",
    )
