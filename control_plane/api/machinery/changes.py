"""Changes of objects between two instants: which came, went and changed, in which fields, by whom, when.

Who wrote a field is what managedFields say of it; who deleted an object, nothing in the object tells, but others may.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import managed_fields
from rayplane.control_plane.api.machinery.fieldsets import FieldSet, Path, render
from rayplane.control_plane.api.machinery.managed_fields import Manager, Managers
from rayplane.control_plane.api.machinery.schema import Type, definition_of
from rayplane.control_plane.api.machinery.shapes import UNDESCRIBED, NotTyped, Place, below, elements
from rayplane.control_plane.api.machinery.typed import compare
from rayplane.control_plane.api.meta import Object

What = Literal["created", "deleted", "replaced", "changed"]
Key = tuple[str, str, str, str]
Deleters = Mapping[str, tuple[str, str]]
"""By an object's uid the user who asked first that it be deleted, and when (RFC 3339)."""
ABSENT: Final = None
BEFORE, AFTER = "*** (before)", "*** (after)"
"""What stands for the values of Secrets, as in `kubectl diff`."""
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_COUNTED: Final = ("generation", "managedFields", "resourceVersion", "selfLink", "uid", "creationTimestamp")
"""Metadata that tell nothing beside what else has changed."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field with what it was and what it became; None for nothing, a word for what a Secret keeps.

    `by` and `at` are empty where nobody knows.
    """

    path: str
    before: Any
    after: Any
    by: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """The fate of an object. `replaced`: it was deleted, and another of its name was made."""

    what: What
    api_version: str
    kind: str
    namespace: str
    name: str
    fields: tuple[FieldChange, ...] = ()
    by: str = ""
    at: str = ""

    def to_json(self) -> dict[str, Any]:
        fields = [
            {"path": f.path, "before": f.before, "after": f.after, "manager": f.by, "time": f.at} for f in self.fields
        ]
        who = {"manager": self.by, "time": self.at}
        what = {"change": self.what, "apiVersion": self.api_version, "kind": self.kind}
        return {**what, "namespace": self.namespace, "name": self.name, **who, "fields": fields}


def key_of(obj: Object) -> Key:
    """The place of an object among all, whatever version it is in."""
    return meta.group_of(obj), str(obj.get("kind", "")), meta.namespace(obj), meta.name(obj)


def changes(before: Iterable[Object], after: Iterable[Object], deleters: Deleters | None = None) -> list[Change]:
    """All that became of the objects of two instants, by kind and name."""
    olds, news = ({key_of(o): o for o in objs} for objs in (before, after))
    found = (_change(olds.get(key), news.get(key), deleters or {}) for key in sorted({**olds, **news}))
    return [one for one in found if one is not None]


def _change(old: Object | None, new: Object | None, deleters: Deleters) -> Change | None:
    if new is None:
        assert old is not None
        by, at = deleters.get(meta.uid(old), ("", ""))
        return _described("deleted", old, by=by, at=at or str(meta.metadata(old).get("deletionTimestamp") or ""))
    if old is None:
        created = str(meta.metadata(new).get("creationTimestamp") or "")
        return _described("created", new, by=_first(managed_fields.decode(new)), at=created)
    if meta.resource_version(old) and meta.resource_version(old) == meta.resource_version(new):
        return None
    fields = tuple(_field_changes(old, new))
    replaced = meta.uid(old) != meta.uid(new)
    if not (fields or replaced):
        return None
    last = max(fields, key=lambda f: f.at, default=FieldChange("", None, None))
    writers = ", ".join(dict.fromkeys(f.by for f in fields if f.by))
    return _described("replaced" if replaced else "changed", new, fields, by=writers, at=last.at)


def _described(what: What, obj: Object, fields: tuple[FieldChange, ...] = (), *, by: str = "", at: str = "") -> Change:
    version, kind = str(obj.get("apiVersion", "")), str(obj.get("kind", ""))
    return Change(what, version, kind, meta.namespace(obj), meta.name(obj), fields, by, at)


def _first(managers: Managers) -> str:
    """Who set something first."""
    return min(managers, key=lambda m: managers[m].time).name if managers else ""


def _field_changes(old: Object, new: Object) -> Iterator[FieldChange]:
    definition = definition_of(str(new.get("apiVersion")), str(new.get("kind")))
    root: Place = (Type.struct(definition), None) if definition is not None else UNDESCRIBED
    told, now = _telling(old), _telling(new)
    try:
        found = compare(told, now, root)
    except NotTyped:
        root = UNDESCRIBED
        found = compare(told, now, root)
    before, after = managed_fields.decode(old), managed_fields.decode(new)
    told, now = masked(told, BEFORE), masked(now, AFTER)
    moved = [m for m, e in after.items() if m not in before or before[m] != e]
    for path in _outermost(found.changed | found.removed):
        value = _value(now, path, root)
        writer = _writer(after, path) if value is not ABSENT else _remover(moved, path)
        time = after[writer].time if writer is not None else ""
        yield FieldChange(render(path)[1:], _value(told, path, root), value, writer.name if writer else "", time)


def _telling(obj: Object) -> Object:
    return {**obj, "metadata": meta.without(meta.metadata(obj), _COUNTED)}


def masked(obj: Object, word: str) -> Object:
    """The object with a word instead of what a Secret keeps."""
    if key_of(obj)[:2] != ("", "Secret"):
        return obj
    kept = {part: dict.fromkeys(obj[part], word) for part in ("data", "stringData") if type(obj.get(part)) is dict}
    metadata = meta.metadata(obj)
    if _LAST_APPLIED in meta.annotations(obj):
        metadata = {**metadata, "annotations": {**meta.annotations(obj), _LAST_APPLIED: word}}
    return {**obj, **kept, "metadata": metadata}


def _outermost(paths: FieldSet) -> list[Path]:
    """The paths that are inside none of the others, in their order."""
    return sorted(p for p in paths if p and not any(p[:n] in paths for n in range(1, len(p))))


def _writer(managers: Managers, path: Path) -> Manager | None:
    """Whoever has the field, or else what is in it, or else what it is in; the last of several."""
    for owns in (_has, _has_inside, _has_around):
        found = [m for m, entry in managers.items() if owns(entry.fields, path)]
        if found:
            return max(found, key=lambda m: managers[m].time)
    return None


def _remover(moved: Sequence[Manager], path: Path) -> Manager | None:
    """Who took a field away, where only one has written there meanwhile: nobody owns what is gone."""
    could = [m for m in moved if (m.subresource == "status") == (path[0] == "f:status")]
    return could[0] if len(could) == 1 else None


def _has(fields: FieldSet, path: Path) -> bool:
    return path in fields


def _has_inside(fields: FieldSet, path: Path) -> bool:
    return any(one[: len(path)] == path for one in fields)


def _has_around(fields: FieldSet, path: Path) -> bool:
    return any(path[:n] in fields for n in range(1, len(path)))


def _value(obj: Any, path: Path, place: Place) -> Any:
    """What is there, None where nothing is."""
    for element in path:
        if element.startswith("f:"):
            obj = obj.get(element[2:], ABSENT) if type(obj) is dict else ABSENT
        elif type(obj) is list:
            obj = next((one for name, one in elements(obj, place) if name == element), ABSENT)
        if obj is ABSENT:
            return ABSENT
        place = below(place, element)
    return obj
