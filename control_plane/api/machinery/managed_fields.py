"""The entries of metadata.managedFields: who owns which fields, since when, and in which version they are named.

Source: Kubernetes API reference "ManagedFieldsEntry", documentation "Server-Side Apply".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal

import orjson

from rayplane.control_plane.api.machinery.fieldsets import FieldSet, from_fields_v1, to_fields_v1
from rayplane.control_plane.api.meta import Object

Operation = Literal["Apply", "Update"]

ANCIENT_CHANGES: Final = "ancient-changes"
UPDATERS_MAX: Final = 10
_REMEMBERED_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Manager:
    """Identity of an entry; an applier is one whatever version it uses, so it has none."""

    name: str
    operation: Operation
    api_version: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        text = f'"{self.name}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.api_version}" if self.operation == "Update" else text


@dataclass(frozen=True, slots=True)
class Entry:
    """The fields that a manager owns. `time` is empty for one that never changed a value."""

    fields: FieldSet
    api_version: str
    time: str = ""
    nested: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    """The same fields as they were read; None where they were made here."""

    def with_fields(self, fields: FieldSet) -> Entry:
        return self if fields == self.fields else Entry(fields, self.api_version, self.time)


Managers = dict[Manager, Entry]


def applier(name: str, subresource: str = "") -> Manager:
    return Manager(name, "Apply", "", subresource)


def updater(name: str, api_version: str, subresource: str = "") -> Manager:
    return Manager(name, "Update", api_version, subresource)


def decode(obj: Object) -> Managers:
    """The entries of an object; none where a client has written something unreadable."""
    managers: Managers = {}
    for entry in (obj.get("metadata") or {}).get("managedFields") or ():
        operation, version = entry.get("operation"), entry.get("apiVersion") or ""
        if operation not in ("Apply", "Update") or not version or entry.get("fieldsType") != "FieldsV1":
            return {}
        manager = Manager(
            entry.get("manager") or "",
            operation,
            version if operation == "Update" else "",
            entry.get("subresource") or "",
        )
        nested = entry.get("fieldsV1") or {}
        try:
            text = orjson.dumps(nested)
            fields = _read(text) if len(text) <= _REMEMBERED_BYTES else frozenset(from_fields_v1(nested))
        except (ValueError, orjson.JSONEncodeError):
            return {}
        managers[manager] = Entry(fields, version, entry.get("time") or "", nested)
    return managers


@lru_cache(maxsize=1024)
def _read(text: bytes) -> FieldSet:
    # What one program sets of objects that are made alike is the same in all of them.
    return frozenset(from_fields_v1(orjson.loads(text)))


def encode(obj: Object, managers: Managers) -> None:
    """Write the entries, in place: appliers first, then by time, then by name."""
    entries: list[dict[str, Any]] = []
    for manager in sorted(managers, key=lambda one: _order(one, managers[one])):
        entry = managers[manager]
        made: dict[str, Any] = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": entry.api_version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": entry.nested if entry.nested is not None else to_fields_v1(entry.fields),
            "subresource": manager.subresource,
        }
        entries.append({key: value for key, value in made.items() if value != ""})
    meta = obj.setdefault("metadata", {})
    if entries:
        meta["managedFields"] = entries
    else:
        meta.pop("managedFields", None)


def _order(manager: Manager, entry: Entry) -> tuple[str, ...]:
    return (manager.operation, entry.time, manager.name, entry.api_version, manager.subresource)


def cap_updaters(managers: Managers) -> None:
    """Bound the entries of those who merely updated, in place: the oldest become one for each version."""
    updaters = [m for m in managers if m.operation == "Update"]
    updaters.sort(key=lambda m: (managers[m].time, m.api_version, m.name, m.subresource))
    surplus = len(updaters) - UPDATERS_MAX
    first: dict[str, Manager] = {}
    for manager in updaters:
        if surplus <= 0:
            return
        version = managers[manager].api_version
        if version not in first:
            first[version] = manager
            continue
        bucket = updater(ANCIENT_CHANGES, version)
        entry = managers.pop(manager)
        old = managers.pop(first[version])
        managers[bucket] = Entry(old.fields | entry.fields, version, entry.time)
        first[version] = bucket
        surplus -= 1


def keep_times(new: Object, old: Object) -> None:
    """Take the old entries where only their times would differ, and nothing else of the object, in place.

    So a write that says what is there already leaves the object, and its version, as they are.
    """
    after, before = (one["metadata"].get("managedFields") or [] for one in (new, old))
    if len(after) != len(before) or after == before:
        return
    if [_timeless(one) for one in after] != [_timeless(one) for one in before]:
        return
    kept = {**new, "metadata": {**new["metadata"], "managedFields": before}}
    if kept == {**old, "metadata": {**old["metadata"]}}:
        new["metadata"]["managedFields"] = before


def _timeless(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "time"}
