"""Reviews of what somebody may do."""

from __future__ import annotations

from rayplane.control_plane.api.kinds.review import REVIEW

RULES = {
    "LocalSubjectAccessReview": REVIEW,
    "SelfSubjectAccessReview": REVIEW,
    "SelfSubjectRulesReview": REVIEW,
    "SubjectAccessReview": REVIEW,
}
