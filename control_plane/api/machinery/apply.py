"""Server-side apply: who owns which field, merging of applied configurations, conflicts.

Source: Kubernetes documentation "Server-Side Apply"; the FieldsV1 format of meta/v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from rayplane.control_plane.api.errors import BadRequest, Conflict, Invalid, required
from rayplane.control_plane.api.machinery import budget
from rayplane.control_plane.api.machinery.budget import TooManyValues
from rayplane.control_plane.api.machinery.fieldsets import (
    Difference,
    FieldSet,
    Path,
    compare,
    elements,
    field_set,
    from_fields_v1,
    item_type,
    member,
    render,
    shape_of,
    to_fields_v1,
    with_ancestors,
    without_below,
    without_ignored,
)
from rayplane.control_plane.api.machinery.schema import MAP, STRUCT, Definition, Field, Type
from rayplane.control_plane.api.meta import Object

BEFORE_FIRST_APPLY: Final = "before-first-apply"
ANCIENT_CHANGES: Final = "ancient-changes"
UPDATERS_MAX: Final = 10
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_EMPTY: Final[FieldSet] = frozenset()


@dataclass(frozen=True, slots=True)
class Manager:
    """Identity of an entry of managedFields; appliers are one whatever apiVersion they use."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""

    def __str__(self) -> str:
        text = f'"{self.name}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.api_version}" if self.operation == "Update" else text


@dataclass(frozen=True, slots=True)
class _Entry:
    fields: FieldSet
    api_version: str
    time: str


_Managers = dict[Manager, _Entry]


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
    ignore: Iterable[Path] = (),
) -> Object:
    """The object after `manager` applied `config`, with managedFields; `live` None creates.

    `config` conforms to `definition`; `time` is an RFC 3339 stamp for the manager's entry;
    `ignore` names subtrees that this endpoint resets and nobody comes to own through it, such as
    `("f:status",)`. When nothing changed the result equals `live`.
    Raises Conflict with one FieldManagerConflict cause per field that another manager owns with
    another value, Invalid without a manager, BadRequest for a config that carries managedFields.
    """
    if not manager:
        missing = required("fieldManager", "is required for apply patch")
        raise Invalid.of("PatchOptions", "", [missing], group="meta.k8s.io")
    if (config.get("metadata") or {}).get("managedFields"):
        raise BadRequest("metadata.managedFields must be nil")
    skip = tuple(ignore)
    root = Type.struct(definition) if definition is not None else None
    applied = without_ignored(field_set(config, root, strict=True), skip)
    key = Manager(manager, "Apply", config["apiVersion"], subresource)
    managers = _decode(live) if live is not None else {}
    if live is not None and not managers:
        everything = without_ignored(compare({}, live, root).changed, ())
        first = Manager(BEFORE_FIRST_APPLY, "Update", live["apiVersion"])
        managers[first] = _Entry(everything, live["apiVersion"], time)
    key = next((m for m in managers if _is_same_applier(m, key)), key)
    before = managers.get(key)
    old = live if live is not None else _bare(config)
    merged = _merge(old, config, root, None)
    managers[key] = _Entry(applied, config["apiVersion"], before.time if before else time)
    if before is not None:
        owned = with_ancestors(frozenset().union(*(e.fields for m, e in managers.items() if m != key)) | applied)
        _remove(merged, _tree(before.fields - owned), root, None)
    difference = compare(old, merged, root)
    forced = force or (manager == "kubectl" and _only_last_applied(old, managers, key, difference, root))
    managers = _settle(managers, key, difference, force=forced)
    unchanged = before is not None and before.fields == applied and not difference.any
    if not unchanged:
        managers[key] = _Entry(applied, config["apiVersion"], time)
    if not managers[key].fields:
        del managers[key]
    _encode(merged, managers)
    return merged


def track_update(
    live: Object | None,
    new: Object,
    definition: Definition | None,
    *,
    manager: str,
    time: str,
    subresource: str = "",
    ignore: Iterable[Path] = (),
) -> None:
    """Set the managedFields of `new`, in place, after a create, update or patch by `manager`.

    Every changed field comes to belong to the manager and is taken from all others. As in
    Kubernetes, managedFields that `new` brings along replace the stored ones (not through
    subresources), and an empty list or one empty entry resets them.
    """
    meta = new.setdefault("metadata", {})
    if meta.get("managedFields") in ([], [{}]):
        del meta["managedFields"]
        return
    managers = _decode(new) if not subresource else {}
    if not managers and live is not None:
        managers = _decode(live)
    root = Type.struct(definition) if definition is not None else None
    difference = compare(live if live is not None else _bare(new), new, root)
    key = Manager(manager, "Update", new["apiVersion"], subresource)
    managers = _settle(managers, key, difference, force=True)
    before = managers.get(key)
    kept = before.fields if before is not None else _EMPTY
    fields = (kept - difference.removed) | without_ignored(difference.changed, tuple(ignore))
    if fields != kept or (before is not None and difference.any):
        managers[key] = _Entry(fields, new["apiVersion"], time)
    if not fields:
        managers.pop(key, None)
    _merge_oldest(managers)
    _encode(new, managers)


def _merge_oldest(managers: _Managers) -> None:
    """Bound the entries of those who merely updated: the oldest become one for each apiVersion, as in Kubernetes."""
    left = sorted((m for m in managers if m.operation == "Update"), key=lambda m: managers[m].time)
    surplus = len(left) - UPDATERS_MAX
    first: dict[str, Manager] = {}
    for manager in left:
        if surplus <= 0:
            return
        entry, version = managers[manager], manager.api_version
        if version not in first:
            first[version] = manager
            continue
        bucket = Manager(ANCIENT_CHANGES, "Update", version)
        merged = managers.pop(first[version]).fields | managers.pop(manager).fields
        managers[bucket] = _Entry(merged, entry.api_version, entry.time)
        first[version] = bucket
        surplus -= 1


def _bare(config: Object) -> Object:
    meta = config.get("metadata") or {}
    named = {k: meta[k] for k in ("name", "namespace") if k in meta}
    return {"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": named}


def _is_same_applier(a: Manager, b: Manager) -> bool:
    return (a.name, a.operation, a.subresource) == (b.name, b.operation, b.subresource)


def _settle(managers: _Managers, key: Manager, difference: Difference, *, force: bool) -> _Managers:
    """Take changed fields from the other managers, or raise Conflict where that is not forced."""
    conflicts = _conflicts(managers, key, difference)
    if conflicts and not force:
        raise _conflict_error(conflicts)
    lost = difference.changed | difference.removed
    settled: _Managers = {}
    for manager, entry in managers.items():
        if manager != key:
            fields = entry.fields - lost
            fields = without_below(fields, difference.removed)
            if not fields:
                continue
            entry = _Entry(fields, entry.api_version, entry.time)
        settled[manager] = entry
    return settled


def _conflicts(managers: _Managers, key: Manager, difference: Difference) -> dict[Manager, FieldSet]:
    found = {m: e.fields & difference.changed for m, e in managers.items() if m != key}
    return {manager: fields for manager, fields in found.items() if fields}


def _only_last_applied(
    live: Object, managers: _Managers, key: Manager, difference: Difference, root: Type | None
) -> bool:
    """Whether all conflicts are on fields that kubectl's client-side apply had set before."""
    annotation = ((live.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
    if not annotation:
        return False
    try:
        applied = orjson.loads(annotation)
        budget.check_json(annotation.encode(), applied)
    except (ValueError, TooManyValues):
        return False
    conflicts = _conflicts(managers, key, difference)
    if not conflicts or type(applied) is not dict:
        return False
    had = with_ancestors(field_set(applied, root))
    return all(fields <= had for fields in conflicts.values())


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


# --- merging -------------------------------------------------------------------------------------


def _merge(live: Any, config: Any, type_: Type | None, field: Field | None) -> Any:
    """`config` over `live`, item by item where ownership is by item. Shares nothing with either."""
    shape = shape_of(config, type_, field)
    if shape == "map" and type(live) is dict:
        merged = {k: v if k in config else _copy(v) for k, v in live.items()}
        for name, item in config.items():
            sub = member(type_, name)
            merged[name] = _merge(merged[name], item, *sub) if name in live else _copy(item)
        return merged
    if shape in ("list", "set") and type(live) is list and field is not None:
        old, new = elements(live, shape, field), elements(config, shape, field)
        items = {}
        for element in _merged_order(list(old), list(new)):
            if element in old and element in new and shape == "list":
                items[element] = _merge(old[element], new[element], item_type(type_), None)
            else:
                items[element] = _copy(new.get(element, old.get(element)))
        return list(items.values())
    if config == {} and type(live) is dict and (type_ is None or type_.kind in (MAP, STRUCT)):
        return _copy(live)
    if config == [] and type(live) is list and field is not None and field.list_type != "atomic":
        return _copy(live)
    return _copy(config)


def _merged_order(old: list[str], new: list[str]) -> Iterator[str]:
    """Items of the config in its order; what only the live list has stays as early as it was."""
    given, emitted, at = set(new), set(), 0
    for element in new:
        while at < len(old) and (old[at] not in given or old[at] in emitted):
            if old[at] not in given:
                yield old[at]
            at += 1
        yield element
        emitted.add(element)
    yield from (element for element in old[at:] if element not in given)


def _copy(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


_Tree = dict[str, "_Tree"]


def _tree(paths: Iterable[Path]) -> _Tree:
    """Paths by their elements; one that ends has nothing below it, since all of it goes."""
    root: _Tree = {}
    for path in sorted(paths, key=len, reverse=True):
        node = root
        for element in path[:-1]:
            node = node.setdefault(element, {})
        node[path[-1]] = {}
    return root


def _remove(obj: Any, gone: _Tree, type_: Type | None, field: Field | None) -> None:
    """Remove the fields and items of `gone` that are there, in place; one pass over each list."""
    if type(obj) is dict:
        for element, below in gone.items():
            name = element.removeprefix("f:")
            if name == element or name not in obj:
                continue
            if below:
                _remove(obj[name], below, *member(type_, name))
            else:
                del obj[name]
    elif type(obj) is list and field is not None and gone:
        shape = "set" if next(iter(gone)).startswith("v:") else "list"
        kept, removed = [], set()
        for item in obj:
            (element,) = elements([item], shape, field)
            if element in gone and element not in removed:
                removed.add(element)
                if not gone[element]:
                    continue
                _remove(item, gone[element], item_type(type_), None)
            kept.append(item)
        obj[:] = kept


# --- managedFields -------------------------------------------------------------------------------


def _decode(obj: Object) -> _Managers:
    """The entries of managedFields; none where a client has written something unreadable."""
    managers: _Managers = {}
    for entry in (obj.get("metadata") or {}).get("managedFields") or ():
        manager = Manager(
            entry.get("manager", ""),
            entry.get("operation", "Update"),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
        )
        try:
            fields = frozenset(from_fields_v1(entry.get("fieldsV1") or {}))
        except ValueError:
            return {}
        managers[manager] = _Entry(fields, entry.get("apiVersion", ""), entry.get("time", ""))
    return managers


def _encode(obj: Object, managers: _Managers) -> None:
    """Write managedFields: appliers first, then by time, then by name."""
    entries: list[dict[str, Any]] = []
    order = sorted(
        managers.items(),
        key=lambda pair: (
            pair[0].operation,
            pair[1].time,
            pair[0].name,
            pair[1].api_version,
            pair[0].subresource,
        ),
    )
    for manager, entry in order:
        made = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": entry.api_version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(entry.fields),
        }
        if manager.subresource:
            made["subresource"] = manager.subresource
        entries.append(made)
    meta = obj.setdefault("metadata", {})
    if entries:
        meta["managedFields"] = entries
    else:
        meta.pop("managedFields", None)
