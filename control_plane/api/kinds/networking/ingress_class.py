"""Ingress classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import forbidden, required, too_long
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable, one_of
from rayplane.control_plane.api.kinds.references import domain_prefixed_path, typed_reference
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

_CONTROLLER_MAX = 250


def _default(obj: Object) -> None:
    parameters = (obj.get("spec") or {}).get("parameters")
    if parameters is not None and parameters.get("scope") is None:
        parameters["scope"] = "Cluster"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    controller = spec.get("controller") or ""
    if len(controller.encode()) > _CONTROLLER_MAX:
        errs.append(too_long("spec.controller", _CONTROLLER_MAX))
    domain_prefixed_path(controller, "spec.controller", errs)
    if spec.get("parameters") is not None:
        _parameters(spec["parameters"], "spec.parameters", errs)
    return errs


def _parameters(ref: Mapping[str, Any], path: str, errs: Errors) -> None:
    typed_reference(ref, path, errs)
    scope, at = ref.get("scope"), f"{path}.namespace"
    space: str | None = ref.get("namespace")
    one_of(scope, ("Cluster", "Namespace"), f"{path}.scope", errs)
    if scope == "Namespace":
        if space is None:
            errs.append(required(at, "`parameters.scope` is set to 'Namespace'"))
        else:
            checked(names.label_errors(space), space, at, errs)
    elif scope == "Cluster" and space is not None:
        errs.append(forbidden(at, "`parameters.scope` is set to 'Cluster'"))


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    controller = (new.get("spec") or {}).get("controller")
    before = (old.get("spec") or {}).get("controller")
    immutable(controller, before, "spec.controller", errs)
    return [*errs, *_validate(new)]


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    parameters = spec.get("parameters")
    text = NONE
    if parameters:
        group = parameters.get("apiGroup")
        text = parameters.get("kind") or ""
        text += (f".{group}" if group else "") + f"/{parameters.get('name')}"
    return [name(obj), spec.get("controller") or "", text, age(obj, now)]


RULES = {
    "IngressClass": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Controller"), Column("Parameters"), AGE), _row),
    ),
}
