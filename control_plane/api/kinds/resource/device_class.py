"""Device classes: which devices a claim may ask for by one name."""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api.errors import invalid
from rayplane.control_plane.api.kinds.metadata import Errors
from rayplane.control_plane.api.kinds.pod_template.resources import is_extended
from rayplane.control_plane.api.kinds.resource.fields import (
    CONFIGS_MAX,
    each,
    validate_configuration,
    validate_selectors,
)
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME_AND_AGE
from rayplane.control_plane.api.meta import Object


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    validate_selectors(spec.get("selectors") or (), "spec.selectors", errs)
    each(spec.get("config") or (), CONFIGS_MAX, "spec.config", errs, validate_configuration)
    extended = spec.get("extendedResourceName")
    if extended is not None and (not is_extended(extended) or names.qualified_name_errors(extended)):
        errs.append(invalid("spec.extendedResourceName", extended, "must be a valid extended resource name"))
    return errs


RULES = {
    "DeviceClass": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=NAME_AND_AGE,
    ),
}
