"""Access to object metadata: names, labels, owners, conditions and times.

Objects are Kubernetes JSON as plain dicts. Getters never fail on a missing part and never add one.
Times are aware UTC `datetime`s in Python and RFC 3339 strings in objects (seconds, or microseconds
for MicroTime).
"""

import copy
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

Object = dict[str, Any]

_EMPTY: Final[dict[str, Any]] = {}


def metadata(o: Object) -> dict[str, Any]:
    """The object's metadata, or an empty dict that must not be written to."""
    return o.get("metadata") or _EMPTY


def name(o: Object) -> str:
    return metadata(o).get("name") or ""


def namespace(o: Object) -> str:
    return metadata(o).get("namespace") or ""


def uid(o: Object) -> str:
    return metadata(o).get("uid") or ""


def resource_version(o: Object) -> str:
    return metadata(o).get("resourceVersion") or ""


def generation(o: Object) -> int:
    return metadata(o).get("generation") or 0


def labels(o: Object) -> dict[str, str]:
    """The object's labels; treat as read-only."""
    return metadata(o).get("labels") or _EMPTY


def annotations(o: Object) -> dict[str, str]:
    """The object's annotations; treat as read-only."""
    return metadata(o).get("annotations") or _EMPTY


def finalizers(o: Object) -> list[str]:
    """The object's finalizers; treat as read-only."""
    return metadata(o).get("finalizers") or []


def key(o: Object) -> str:
    """`namespace/name`, or only `name` for objects without a namespace."""
    meta = metadata(o)
    space, own = meta.get("namespace"), meta.get("name") or ""
    return f"{space}/{own}" if space else own


def split_key(value: str) -> tuple[str, str]:
    """(namespace, name) of what `key` returned."""
    space, _, own = value.rpartition("/")
    return space, own


def is_deleting(o: Object) -> bool:
    return bool(metadata(o).get("deletionTimestamp"))


def spec(o: Object) -> dict[str, Any]:
    """The object's spec; treat as read-only."""
    return o.get("spec") or _EMPTY


def status(o: Object) -> dict[str, Any]:
    """The object's status; treat as read-only."""
    return o.get("status") or _EMPTY


def group_of(o: Object) -> str:
    """API group of the object's apiVersion, empty for core/v1."""
    return (o.get("apiVersion") or "").rpartition("/")[0]


# --- owners -------------------------------------------------------------------------------------


def controller_of(o: Object) -> dict[str, Any] | None:
    """The owner reference marked as controller, if any."""
    for ref in metadata(o).get("ownerReferences") or ():
        if ref.get("controller"):
            return ref
    return None


def is_controlled_by(o: Object, owner: Object) -> bool:
    """True when the controller reference of `o` carries the uid of `owner`."""
    ref = controller_of(o)
    return ref is not None and ref.get("uid") == uid(owner)


def owner_reference(owner: Object, *, controller: bool = True, block: bool = True) -> dict[str, Any]:
    """A reference to `owner` (which carries apiVersion, kind, name and uid) for its dependents."""
    ref: dict[str, Any] = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name(owner),
        "uid": uid(owner),
    }
    if controller:
        ref["controller"] = True
    if block:
        ref["blockOwnerDeletion"] = True
    return ref


def object_reference(o: Object) -> dict[str, str]:
    """A core/v1 ObjectReference to `o`, without empty fields."""
    ref = {
        "apiVersion": o.get("apiVersion") or "",
        "kind": o.get("kind") or "",
        "namespace": namespace(o),
        "name": name(o),
        "uid": uid(o),
        "resourceVersion": resource_version(o),
    }
    return {field: value for field, value in ref.items() if value}


# --- time ---------------------------------------------------------------------------------------


def parse_time(text: str) -> datetime:
    """An RFC 3339 time as aware UTC datetime; ValueError when it is none."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone; write it as 2006-01-02T15:04:05Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"time {text!r} is before the year 1 or after the year 9999 in UTC") from None


def go_time(text: str) -> str:
    """An RFC 3339 time as Go prints it."""
    return parse_time(text).isoformat(sep=" ", timespec="seconds")[:19] + " +0000 UTC"


def format_time(moment: datetime) -> str:
    """metav1.Time: RFC 3339 in UTC, whole seconds."""
    return _utc(moment, "seconds")


def format_micro_time(moment: datetime) -> str:
    """metav1.MicroTime: RFC 3339 in UTC, microseconds."""
    return _utc(moment, "microseconds")


def _utc(moment: datetime, precision: str) -> str:
    # Not by strftime, which writes the year 999 with three digits.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=precision) + "Z"


# --- conditions ---------------------------------------------------------------------------------


def get_condition(o_or_conditions: Object | list[Any] | None, kind: str) -> dict[str, Any] | None:
    """The condition of type `kind`, from an object (its status) or from a list of conditions."""
    if isinstance(o_or_conditions, dict):
        o_or_conditions = status(o_or_conditions).get("conditions")
    for condition in o_or_conditions or ():
        if condition.get("type") == kind:
            return condition
    return None


def condition_is(o: Object, kind: str, value: str = "True") -> bool:
    condition = get_condition(o, kind)
    return condition is not None and condition.get("status") == value


def observed(o: Object, condition: dict[str, Any]) -> dict[str, Any]:
    """A condition with the generation of the object that it was concluded from, where the object has one."""
    return {**condition, "observedGeneration": generation(o)} if generation(o) else condition


def set_condition(conditions: list[dict[str, Any]], condition: dict[str, Any], now: datetime | str) -> bool:
    """Add or replace, in place, the condition of the same type; True when anything changed.

    lastTransitionTime is kept while `status` stays the same, else it becomes `now`.
    """
    stamp = now if isinstance(now, str) else format_time(now)
    for index, old in enumerate(conditions):
        if old.get("type") != condition["type"]:
            continue
        same = old.get("status") == condition.get("status")
        kept = old.get("lastTransitionTime") if same else None
        new = {**condition, "lastTransitionTime": kept or stamp}
        if new == old:
            return False
        conditions[index] = new
        return True
    conditions.append({**condition, "lastTransitionTime": stamp})
    return True


# --- pods ---------------------------------------------------------------------------------------


def node_name(pod: Object) -> str:
    return spec(pod).get("nodeName") or ""


# --- copies -------------------------------------------------------------------------------------


def copy_for_write(o: Object) -> Object:
    """A copy that may be changed freely; for objects taken from a cache or an informer."""
    return copy.deepcopy(o)


def strip_managed(o: Object) -> Object:
    """The object without managedFields; shares everything else with `o`."""
    meta = o.get("metadata")
    if not meta or "managedFields" not in meta:
        return o
    kept = {field: value for field, value in meta.items() if field != "managedFields"}
    return {**o, "metadata": kept}


def without(o: Object, fields: Iterable[str]) -> Object:
    """A shallow copy of `o` without the given top-level fields."""
    dropped = frozenset(fields)
    return {field: value for field, value in o.items() if field not in dropped}
