"""Finalizers: how controllers write them, and the rule by which one protects what is in use. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Patch


def with_finalizers(resource: str, o: Object, finalizers: Sequence[str]) -> Patch:
    """The write after which an object has these; refused where it has changed since it was seen."""
    guard = {"uid": meta.uid(o), "resourceVersion": meta.resource_version(o)}
    body = {"metadata": {**guard, "finalizers": list(finalizers) or None}}
    return Patch(resource, meta.namespace(o), meta.name(o), body)


def without_finalizer(resource: str, o: Object, finalizer: str) -> Patch:
    """The write that takes one away."""
    return with_finalizers(resource, o, [one for one in meta.finalizers(o) if one != finalizer])


def protection(resource: str, o: Object, finalizer: str, is_used: Callable[[], bool]) -> Patch | None:
    """The write that protects an object, or lets one go that is deleted and not in use any more; None for neither.

    `is_used` is asked only of what is deleted.
    """
    held = meta.finalizers(o)
    if not meta.is_deleting(o):
        return None if finalizer in held else with_finalizers(resource, o, [*held, finalizer])
    return without_finalizer(resource, o, finalizer) if finalizer in held and not is_used() else None
