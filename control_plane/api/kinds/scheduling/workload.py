"""Workloads: templates of the pod groups that a controller makes for an application; nothing runs by them alone.

Source: k8s.io/api scheduling/v1beta1; KEP-4671.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, invalid, required, too_many
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.kinds.scheduling.fields import named, validate_group, validate_group_update
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age, at_most
from rayplane.control_plane.api.meta import Object, name, spec

_TEMPLATES_MAX: Final = 8
_TEMPLATES: Final = "spec.podGroupTemplates"
_SHOWN_MAX: Final = 3


def _templates(obj: Object) -> list[Mapping[str, Any]]:
    return spec(obj).get("podGroupTemplates") or []


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    controller = spec(obj).get("controllerRef")
    if controller is not None:
        _reference(controller, "spec.controllerRef", errs)
    templates = _templates(obj)
    if not templates:
        errs.append(required(_TEMPLATES, "must have at least one item"))
    elif len(templates) > _TEMPLATES_MAX:
        errs.append(too_many(_TEMPLATES, len(templates), _TEMPLATES_MAX))
    else:
        seen: set[str] = set()
        for index, template in enumerate(templates):
            own, path = template.get("name") or "", f"{_TEMPLATES}[{index}]"
            named(own, names.label_errors, f"{path}.name", errs)
            if own in seen:
                errs.append(duplicate(path, own))
            seen.add(own)
            validate_group(template, path, errs)
    return errs


def _reference(controller: Mapping[str, Any], path: str, errs: Errors) -> None:
    """The object of the same namespace that the workload is for."""
    group = controller.get("apiGroup") or ""
    if group:
        checked(names.subdomain_errors(group), group, f"{path}.apiGroup", errs)
    for field in ("kind", "name"):
        named(controller.get(field), names.path_segment_errors, f"{path}.{field}", errs)


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(spec(new).get("controllerRef"), spec(old).get("controllerRef"), "spec.controllerRef", errs)
    before = {template.get("name"): template for template in _templates(old)}
    for index, template in enumerate(_templates(new)):
        path, was = f"{_TEMPLATES}[{index}]", before.pop(template.get("name"), None)
        if was is None:
            errs.append(invalid(path, template.get("name") or "", "item cannot be added once created"))
        else:
            validate_group_update(template, was, path, errs)
    errs += [invalid(_TEMPLATES, gone, "item cannot be removed once created") for gone in before]
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    templates = [one.get("name") or "" for one in _templates(obj)]
    return [name(obj), at_most(templates, _SHOWN_MAX), age(obj, now)]


RULES = {
    "Workload": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Pod-Group-Templates"), AGE), _row),
    ),
}
