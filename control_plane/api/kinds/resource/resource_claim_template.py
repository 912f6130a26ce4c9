"""Resource claim templates: claims to be made, one for each pod that names the template."""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api.kinds.metadata import Errors, immutable, validate_template_metadata
from rayplane.control_plane.api.kinds.resource.requests import default_claim, validate_claim_spec
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery.columns import NAME_AND_AGE
from rayplane.control_plane.api.meta import Object


def _default(obj: Object) -> None:
    default_claim((obj.get("spec") or {}).get("spec") or {})


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    validate_template_metadata(spec.get("metadata") or {}, "spec.metadata", errs)
    validate_claim_spec(spec.get("spec") or {}, "spec.spec", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("spec"), old.get("spec"), "spec", errs)
    return errs


RULES = {
    "ResourceClaimTemplate": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=False,
        printer=NAME_AND_AGE,
    ),
}
