"""Ingress classes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import invalid
from rayplane.control_plane.api.kinds.metadata import Errors, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _default(obj: Object) -> None:
    parameters = (obj.get("spec") or {}).get("parameters")
    if parameters is not None and not parameters.get("scope"):
        parameters["scope"] = "Cluster"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    controller = (obj.get("spec") or {}).get("controller") or ""
    if controller:
        prefix, slash, _ = controller.partition("/")
        if not slash or names.subdomain_errors(prefix):
            text = "must be a domain-prefixed path (such as 'acme.io/foo')"
            errs.append(invalid("spec.controller", controller, text))
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    controller = (new.get("spec") or {}).get("controller")
    before = (old.get("spec") or {}).get("controller")
    immutable(controller, before, "spec.controller", errs)
    return errs


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
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Controller"), Column("Parameters"), AGE), _row),
    ),
}
