"""Rules of the kinds that are questions: asked by a create, answered, never stored."""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, REQUEST_ONLY
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT

REVIEW = replace(
    AS_WRITTEN,
    defaults=REQUEST_ONLY,
    prepare_create=REQUEST_ONLY,
    prepare_update=REQUEST_ONLY,
    prepare_status_update=REQUEST_ONLY,
    validate=REQUEST_ONLY,
    validate_update=REQUEST_ONLY,
    status=REQUEST_ONLY,
    generation=False,
    printer=NAME_AND_CREATED_AT,
    scale=REQUEST_ONLY,
)
