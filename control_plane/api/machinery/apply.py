"""Server-side apply: who owns which field, merging of applied configurations, conflicts.

Sources: Kubernetes documentation "Server-Side Apply"; kubernetes-sigs/structured-merge-diff, package merge;
apimachinery, package managedfields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from rayplane.control_plane.api.errors import BadRequest, Conflict
from rayplane.control_plane.api.machinery import budget, managed_fields
from rayplane.control_plane.api.machinery.fieldsets import EMPTY, EVERYTHING, FieldSet, Reach, ownable, render
from rayplane.control_plane.api.machinery.managed_fields import Entry, Manager, Managers, applier, updater
from rayplane.control_plane.api.machinery.schema import Definition, Type
from rayplane.control_plane.api.machinery.shapes import UNDESCRIBED, NotTyped, Place, type_errors
from rayplane.control_plane.api.machinery.typed import (
    Difference,
    compare,
    field_set,
    fields_of_new,
    merge,
    reconciled,
    remove,
    with_named,
)
from rayplane.control_plane.api.meta import Object

BEFORE_FIRST_APPLY: Final = "before-first-apply"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_KUBECTL: Final = "kubectl"

Convert = Callable[[Object, str], "tuple[Object, Definition | None] | None"]
"""An object in another version, and that version's definition; None for a version that is not served."""


# --- the operations ------------------------------------------------------------------------------


def apply(
    live: Object | None,
    config: Object,
    definition: Definition | None,
    *,
    manager: str,
    time: str,
    force: bool = False,
    subresource: str = "",
    reach: Reach = EVERYTHING,
    convert: Convert | None = None,
) -> Object:
    """The object after `manager` applied `config`, with managedFields; `live` None creates.

    Both are in the version of `definition`; `time` is an RFC 3339 stamp for the manager's entry; `reach` is what
    one may come to own through this endpoint. The result is not
    checked against the schema but for what is merged by it. When nothing changed it equals `live`.
    Raises Conflict with one FieldManagerConflict cause per field that another manager owns with another value,
    BadRequest for a config that carries managedFields or doesn't fit the schema.
    """
    if (config.get("metadata") or {}).get("managedFields") is not None:
        raise BadRequest("metadata.managedFields must be nil")
    views = _Views(config["apiVersion"], definition, reach, convert)
    check_config(config, definition)
    try:
        return _applied(live, config, views, applier(manager, subresource), time, force=force)
    except NotTyped as error:
        raise BadRequest(f"failed to create typed live object ({_what(config)}): {error}") from error


def check_config(config: Object, definition: Definition | None) -> None:
    """BadRequest for a configuration whose types or list keys do not fit the schema."""
    errors = type_errors(config, _root(definition))
    if errors:
        found = errors[0] if len(errors) == 1 else "\n  ".join(["errors:", *errors])
        raise BadRequest(f"failed to create typed patch object ({_what(config)}): {found}")


def track_update(
    live: Object | None,
    new: Object,
    definition: Definition | None,
    *,
    manager: str,
    time: str,
    version: str = "",
    subresource: str = "",
    reach: Reach = EVERYTHING,
    convert: Convert | None = None,
) -> None:
    """Set the managedFields of `new`, in place, after a create, update or patch by `manager`.

    Every changed field comes to belong to the manager, named as in `version` (that of `new` by default), and is taken
    from all others. As in Kubernetes, managedFields that `new` brings along replace the stored ones (not through
    subresources), an empty list or one empty entry resets them, and an object without any is not tracked until
    somebody applies.
    """
    meta = new.setdefault("metadata", {})
    given, stored = meta.pop("managedFields", None), _managed(live)
    if live is not None:
        if subresource or given == stored:
            given = None
        if given in ([], [{}]) or not (given or stored):
            return
    views = _Views(version or new["apiVersion"], definition, reach, convert)
    old = live if live is not None else _bare(new)
    try:
        if live is None and not given and new["apiVersion"] == views.version and not reach.only:
            fields = fields_of_new(new, views.root, reach.without)
            key = updater(manager, views.version, subresource)
            managed_fields.encode(new, {key: Entry(EMPTY, views.version, time, fields)} if fields else {})
            return
        difference = views.difference(old, new, views.version)
        if given is None and stored and not difference.any:
            meta["managedFields"] = stored
            return
        managers = _decoded(given) or _decoded(stored)
        if live is None or managers:
            key = updater(manager, views.version, subresource)
            managed_fields.encode(new, _updated(old, new, managers, views, key, time))
    except NotTyped:
        if stored:
            meta["managedFields"] = stored


def _managed(obj: Object | None) -> Any:
    return ((obj or {}).get("metadata") or {}).get("managedFields")


def _decoded(entries: Any) -> Managers:
    return managed_fields.decode({"metadata": {"managedFields": entries}})


def _root(definition: Definition | None) -> Place:
    return (Type.struct(definition), None) if definition is not None else UNDESCRIBED


def _what(obj: Object) -> str:
    meta, (group, _, version) = obj.get("metadata"), obj["apiVersion"].rpartition("/")
    meta = meta if type(meta) is dict else {}
    return f"{meta.get('namespace') or ''}/{meta.get('name') or ''}; {group}/{version}, Kind={obj['kind']}"


def _bare(obj: Object) -> Object:
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"]}


class _Views:
    """Objects as the versions see them in which fields are named, and their differences there."""

    def __init__(self, version: str, definition: Definition | None, reach: Reach, convert: Convert | None) -> None:
        self.version = version
        self.root = _root(definition)
        self._reach = reach
        self._convert = convert
        self._last: tuple[Object, Object, dict[str, Difference]] | None = None

    def of(self, obj: Object, version: str) -> tuple[Object, Place] | None:
        """An object in a version; None where that is not served any more."""
        if obj["apiVersion"] == version == self.version:
            return obj, self.root
        found = self._convert(obj, version) if self._convert is not None else None
        return (found[0], _root(found[1])) if found is not None else None

    def difference(self, old: Object, new: Object, version: str) -> Difference:
        """What is different in a version that is served; remembered for the last two objects."""
        if self._last is None or self._last[0] is not old or self._last[1] is not new:
            self._last = (old, new, {})
        known = self._last[2]
        if version not in known:
            before, _ = self.of(old, version) or (old, self.root)
            after, root = self.of(new, version) or (new, self.root)
            found = compare(before, after, root)
            known[version] = Difference(self.counted(found.changed), self.counted(found.removed))
        return known[version]

    def counted(self, fields: FieldSet) -> FieldSet:
        """`fields` without those that this endpoint resets."""
        return self._reach.counted(fields)


def _updated(old: Object, new: Object, managers: Managers, views: _Views, key: Manager, time: str) -> Managers:
    # What the manager had before is treated as another's: it keeps what it doesn't change.
    managers, _ = _settled(_reconciled(managers, new, views), None, old, new, views)
    changed = ownable(views.difference(old, new, views.version).changed)
    if changed:
        before = managers.get(key)
        managers[key] = Entry(changed | (before.fields if before is not None else EMPTY), views.version, time)
    managed_fields.cap_updaters(managers)
    return managers


def _applied(live: Object | None, config: Object, views: _Views, key: Manager, time: str, *, force: bool) -> Object:
    old = live if live is not None else _bare(config)
    managers = managed_fields.decode(old)
    if live is not None and not managers:
        before_first = updater(BEFORE_FIRST_APPLY, views.version, key.subresource)
        managers = _updated(_bare(live), live, {}, views, before_first, time)
    managers = _reconciled(managers, old, views)
    root, last = views.root, managers.get(key)
    fields = views.counted(field_set(config, root))
    managers[key] = Entry(fields, views.version, last.time if last is not None else "")
    merged = _pruned(merge(old, config, root), managers, key, last, views)
    managers, conflicts = _settled(managers, key, old, merged, views)
    if conflicts and not force:
        if key.name == _KUBECTL:
            conflicts = _without_last_applied(conflicts, old, root)
        if conflicts:
            raise _conflict_error(conflicts)
    changed = live is None or merged != live
    if key in managers:
        entry = managers.pop(key)
        fields = ownable(entry.fields)
        if fields:
            managers[key] = Entry(fields, entry.api_version, time if changed else entry.time)
    merged = orjson.loads(orjson.dumps(merged))
    if key.name == _KUBECTL:
        _set_last_applied(merged, config)
    managed_fields.encode(merged, managers)
    return merged


def _reconciled(managers: Managers, obj: Object, views: _Views) -> Managers:
    """The managers with their fields as the schemas of today name them; without those of versions that are gone."""
    found: Managers = {}
    for manager, entry in managers.items():
        seen = views.of(obj, entry.api_version)
        if seen is not None:
            found[manager] = entry.with_fields(reconciled(entry.fields, seen[1]))
    return found


def _settled(
    managers: Managers, key: Manager | None, old: Object, new: Object, views: _Views
) -> tuple[Managers, dict[Manager, FieldSet]]:
    """The managers after all but `key` have lost what changed, and what of it they owned."""
    settled: Managers = {}
    conflicts: dict[Manager, FieldSet] = {}
    for manager, entry in managers.items():
        if manager != key:
            difference = views.difference(old, new, entry.api_version)
            lost = difference.changed & entry.fields
            if lost:
                conflicts[manager] = lost
            lost |= difference.removed & entry.fields
            if lost:
                entry = entry.with_fields(entry.fields - lost)
        if entry.fields:
            settled[manager] = entry
    return settled, conflicts


def _pruned(merged: Object, managers: Managers, key: Manager, last: Entry | None, views: _Views) -> Object:
    """`merged` without what the manager applied last and doesn't apply now, unless somebody else owns it."""
    if last is None or (last.api_version == views.version and last.fields <= managers[key].fields):
        return merged
    seen = views.of(merged, last.api_version)
    if seen is None:
        return merged
    whole, root = seen
    let_go = with_named(last.fields, root)
    had = with_named(field_set(whole, root), root)
    left = remove(whole, let_go, root)
    owned: dict[str, FieldSet] = {last.api_version: EMPTY}
    for entry in managers.values():
        owned[entry.api_version] = owned.get(entry.api_version, EMPTY) | entry.fields
    for version, fields in owned.items():
        left = _with_owned(whole, left, version, fields, views)
    # What nobody owned, or who merely updated, went along with an item: it goes only if the item does.
    seen = views.of(left, last.api_version)
    if seen is None:
        return merged
    stays = with_named(field_set(*seen), root)
    back = views.of(remove(whole, (had - stays) & let_go, root), views.version)
    return back[0] if back is not None else merged


def _with_owned(whole: Object, left: Object, version: str, owned: FieldSet, views: _Views) -> Object:
    """`left` with what it lacks of `whole` and is owned under a version."""
    before, after = views.of(whole, version), views.of(left, version)
    if before is None or after is None:
        return left
    obj, root = before
    stays = with_named(field_set(*after), root) | with_named(owned, root)
    return remove(obj, with_named(field_set(obj, root), root) - stays, root)


# --- kubectl's client-side apply -----------------------------------------------------------------


def _without_last_applied(conflicts: dict[Manager, FieldSet], live: Object, root: Place) -> dict[Manager, FieldSet]:
    """The conflicts on other fields than those that kubectl's client-side apply had set, and that are still so."""
    annotation = ((live.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
    if not annotation:
        return conflicts
    try:
        applied = orjson.loads(annotation)
        budget.check_json(annotation.encode(), applied)
        if type(applied) is not dict or applied.get("apiVersion") != live["apiVersion"] or type_errors(applied, root):
            return conflicts
        difference = compare(applied, live, root)
        had = field_set(applied, root) - difference.changed - difference.removed
    except (ValueError, budget.TooManyValues):
        return conflicts
    found = {manager: fields - had for manager, fields in conflicts.items()}
    return {manager: fields for manager, fields in found.items() if fields}


def _set_last_applied(obj: Object, config: Object) -> None:
    """Keep the annotation of kubectl's client-side apply in step, in place, where an object has it."""
    annotations = (obj.get("metadata") or {}).get("annotations") or {}
    if not annotations.get(LAST_APPLIED):
        return
    meta = dict(config.get("metadata") or {})
    if meta.get("annotations"):
        meta["annotations"] = {k: v for k, v in meta["annotations"].items() if k != LAST_APPLIED}
    text = orjson.dumps({**config, "metadata": meta}, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
    annotations[LAST_APPLIED] = text.decode()
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > budget.LIMITS.annotations_bytes:
        del annotations[LAST_APPLIED]


# --- conflicts -----------------------------------------------------------------------------------


def _conflict_error(conflicts: Mapping[Manager, FieldSet]) -> Conflict:
    rows = [
        (str(manager), render(path))
        for manager, fields in sorted(conflicts.items(), key=lambda pair: str(pair[0]))
        for path in sorted(fields)
    ]
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": field} for who, field in rows
    ]
    if len(rows) == 1:
        who, field = rows[0]
        text = f"Apply failed with 1 conflict: conflict with {who}: {field}"
    else:
        lines: list[str] = []
        for who in dict.fromkeys(who for who, _ in rows):
            lines.append(f"conflicts with {who}:")
            lines += [f"- {field}" for owner, field in rows if owner == who]
        text = f"Apply failed with {len(rows)} conflicts: " + "\n".join(lines)
    return Conflict(text, details={"causes": causes})
