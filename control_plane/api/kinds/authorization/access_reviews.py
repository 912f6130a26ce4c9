"""Reviews of what somebody may do."""

from __future__ import annotations

from rayplane.control_plane.api.kinds.rules import REQUEST_ONLY, Rules
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS

RULES = {
    "LocalSubjectAccessReview": Rules(
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
    ),
    "SelfSubjectAccessReview": Rules(
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
    ),
    "SelfSubjectRulesReview": Rules(
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
    ),
    "SubjectAccessReview": Rules(
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
    ),
}
