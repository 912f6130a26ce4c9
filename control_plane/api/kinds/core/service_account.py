"""Service accounts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS, NO_UPDATE_RULES, NO_VALIDATION
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), len(obj.get("secrets") or ()), age(obj, now)]


def _only_names(obj: Object) -> None:
    """Keep only the names of secrets."""
    secrets = obj.get("secrets")
    if secrets:
        obj["secrets"] = [{"name": one["name"]} if one.get("name") else {} for one in secrets]


def _prepare_update(new: Object, old: Object) -> None:
    _only_names(new)


RULES = {
    "ServiceAccount": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        prepare_create=_only_names,
        prepare_update=_prepare_update,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Secrets"), AGE), _row),
    ),
}
