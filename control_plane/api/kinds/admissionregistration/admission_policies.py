"""Mutating and validating admission policies."""

from __future__ import annotations

from datetime import datetime

from rayplane.control_plane.api.kinds.rules import (
    NO_DEFAULTS,
    NO_PREPARATION,
    NO_SCALE,
    NO_STATUS,
    NO_UPDATE_RULES,
    NO_VALIDATION,
    Rules,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import (
    AGE,
    NAME,
    NAME_AND_CREATED_AT,
    UNSET,
    Cell,
    Column,
    Printer,
    age,
)
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    kind = spec.get("paramKind")
    shown = f"{kind.get('apiVersion')}/{kind.get('kind')}" if kind else UNSET
    return [name(obj), len(spec.get("validations") or ()), shown, age(obj, now)]


_COLUMNS_VALIDATING_ADMISSION_POLICY = (NAME, Column("Validations", "integer"), Column("ParamKind"), AGE)  # fmt: skip


RULES = {
    "MutatingAdmissionPolicy": Rules(
        name=names.subdomain_errors,
        defaults=NO_DEFAULTS,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=NAME_AND_CREATED_AT,
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
    "ValidatingAdmissionPolicy": Rules(
        name=names.subdomain_errors,
        defaults=NO_DEFAULTS,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer(_COLUMNS_VALIDATING_ADMISSION_POLICY, _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
