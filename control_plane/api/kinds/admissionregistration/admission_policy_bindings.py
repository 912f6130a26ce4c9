"""Bindings of mutating and validating admission policies."""

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
    ref = spec.get("paramRef") or {}
    shown = "/".join(one for one in (ref.get("namespace"), ref.get("name")) if one) or UNSET
    return [name(obj), spec.get("policyName") or "", shown, age(obj, now)]


RULES = {
    "MutatingAdmissionPolicyBinding": Rules(
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
    "ValidatingAdmissionPolicyBinding": Rules(
        name=names.subdomain_errors,
        defaults=NO_DEFAULTS,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("PolicyName"), Column("ParamRef"), AGE), _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
