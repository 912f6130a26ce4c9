"""Validation of events: they live where the object lives that they tell of."""

from __future__ import annotations

from rayplane.control_plane.api.errors import FieldError, invalid, required
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object

_MISMATCH = "does not match event.namespace"
# Where events about objects without a namespace are.
_OF_THE_CLUSTER = ("", "default")


def event(obj: Object) -> list[FieldError]:
    """Of an Event in its core/v1 form."""
    about = obj.get("involvedObject") or {}
    own = (obj.get("metadata") or {}).get("namespace") or ""
    space = about.get("namespace") or ""
    path = "involvedObject.namespace"
    errs: list[FieldError] = []
    if space != own and (space or own not in _OF_THE_CLUSTER):
        errs.append(invalid(path, space, _MISMATCH))
    kind = about.get("kind") or ""
    info = builtin_registry().by_kind(about.get("apiVersion") or "", kind)
    if info is None:
        return errs
    if info.namespaced and not space:
        errs.append(required(path, f"required for kind {kind}"))
    elif space and not info.namespaced:
        errs.append(invalid(path, space, f"not allowed for kind {kind}"))
    return errs
