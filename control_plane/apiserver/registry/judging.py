"""Everything that is wrong with an object of any kind that is being written: built in, custom, or a definition."""

from __future__ import annotations

from rayplane.control_plane.api.errors import FieldError, MethodNotAllowed
from rayplane.control_plane.api.kinds import validation
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission import compilation, device_expressions
from rayplane.control_plane.apiserver.apiextensions import acceptance, custom_resource
from rayplane.control_plane.apiserver.kinds import Kinds


def create_errors(kinds: Kinds, o: Object, info: ResourceInfo, asked: ResourceInfo | None) -> list[FieldError]:
    """What is wrong with a new object. `asked`: as what a client wrote it."""
    return validation.validate_create(o, info, asked) + _extra_errors(kinds, o, info)


def update_errors(
    kinds: Kinds, new: Object, old: Object, stored: ResourceInfo, asked: ResourceInfo | None, part: str, status: bool
) -> list[FieldError]:
    """What is wrong with a changed object; `status`: only its status, or another `part`, was written."""
    if not status:
        return validation.validate_update(new, old, stored, asked) + _extra_errors(kinds, new, stored, old)
    errors = validation.validate_status_update(new, old, stored, part or "status")
    if stored.name == CRDS:
        return errors + acceptance.status_errors(new)
    return errors + _extra_errors(kinds, new, stored, old, status=True) if stored.custom else errors


def _extra_errors(
    kinds: Kinds, o: Object, info: ResourceInfo, old: Object | None = None, *, status: bool = False
) -> list[FieldError]:
    """What is wrong with a custom resource by its schema and rules, with a definition of some, or with expressions."""
    found = kinds.custom(info)
    if found is not None:
        return custom_resource.errors_of(o, found.schema, found.rules, old, found.scale, status=status)
    if info.name == CRDS:
        return acceptance.errors_of(o, kinds.in_group(acceptance.group_of(o)), old)
    if info.group == device_expressions.GROUP:
        return device_expressions.errors_of(o, info.kind, old)
    return compilation.errors_of(o, info)


def refuse_terminating(kinds: Kinds, info: ResourceInfo) -> None:
    """MethodNotAllowed where the definition of a custom resource is being deleted."""
    found = kinds.custom(info)
    if found is not None and found.terminating:
        raise MethodNotAllowed("create not allowed while custom resource definition is terminating", details={})
