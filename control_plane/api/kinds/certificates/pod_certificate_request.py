"""Pod certificate requests."""

from __future__ import annotations

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
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS

RULES = {
    "PodCertificateRequest": Rules(
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
}
