"""An object as text that people change: what they changed of it, as a patch, and as lines to look at. Pure."""

from difflib import unified_diff
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import yaml_reader
from rayplane.control_plane.api.machinery.patching import merge_patch
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cli.printing import formatted
from rayplane.control_plane.cluster.errors import ClusterError

_NAMING = (("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"), ("metadata", "uid"))


def text_of(obj: Object) -> str:
    """What is edited, and looked at: all but who manages which field."""
    return formatted(meta.strip_managed(obj), "yaml") + "\n"


def read(text: str, before: Object) -> Object:
    """The object that a text has become. Raises ClusterError where it is none, or another than it was."""
    try:
        obj = yaml_reader.parse(text.encode())
    except ValueError as e:
        raise ClusterError(str(e)) from e
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise ClusterError("this is no object any more: it must be a mapping with apiVersion, kind and metadata")
    for path in _NAMING:
        was, now = (_at(one, path) for one in (before, obj))
        if was != now:
            raise ClusterError(f"{'.'.join(path)} cannot be changed: it was {was!r}; create another object instead")
    return obj


def patch_between(before: Any, after: Any) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes the one object of the other; empty where they are equal.

    It holds what was edited and nothing else, so that what controllers write meanwhile stays. A list can only be
    replaced whole: then it holds the resourceVersion too, by which it is refused (409) if anything was written.
    """
    patch = _changes(before, after)
    if _replaces_lists(patch, before):
        known = {"resourceVersion": meta.resource_version(before)}
        patch["metadata"] = known | patch.get("metadata", {})
    return patch


def _changes(before: Any, after: Any) -> dict[str, Any]:
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        was = before.get(key)
        if isinstance(value, dict) and isinstance(was, dict):
            if inner := _changes(was, value):
                patch[key] = inner
        elif value != was or key not in before:
            patch[key] = value
    return patch


def _replaces_lists(patch: dict[str, Any], before: Any) -> bool:
    for key, value in patch.items():
        was = before.get(key) if isinstance(before, dict) else None
        if isinstance(value, list) or isinstance(was, list):
            return True
        if isinstance(value, dict) and _replaces_lists(value, was):
            return True
    return False


def rebased(patch: dict[str, Any], now: Object) -> Object:
    """An object as it is now with what was edited of an earlier one."""
    edited: Object = merge_patch(now, patch)
    known = {"resourceVersion": meta.resource_version(now)}
    return {**edited, "metadata": meta.metadata(edited) | known}


def difference(before: Object, after: Object) -> str:
    """What is otherwise, in lines of `diff -u`."""
    was, now = (text_of(_settled(one)).splitlines() for one in (before, after))
    _files, _names, *lines = [*unified_diff(was, now, lineterm="", n=2)] or ["", ""]
    return "\n".join(lines)


def _settled(obj: Object) -> Object:
    """Without what every write changes."""
    return {**obj, "metadata": meta.without(meta.metadata(obj), ("resourceVersion", "generation"))}


def _at(obj: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj
