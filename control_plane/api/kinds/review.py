"""Rules of the kinds that are questions: asked by a create, answered, never stored."""

from __future__ import annotations

from rayplane.control_plane.api.kinds.rules import REQUEST_ONLY, Rules
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS

REVIEW = Rules(
    name=names.subdomain_errors,
    defaults=REQUEST_ONLY,
    prepare_create=REQUEST_ONLY,
    prepare_update=REQUEST_ONLY,
    prepare_status_update=REQUEST_ONLY,
    validate=REQUEST_ONLY,
    validate_update=REQUEST_ONLY,
    status=REQUEST_ONLY,
    generation=False,
    printer=NAME_AND_CREATED_AT,
    fields=METADATA_FIELDS,
    scale=REQUEST_ONLY,
)
