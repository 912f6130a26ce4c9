"""Reviews of who somebody is."""

from __future__ import annotations

from rayplane.control_plane.api.kinds.review import REVIEW

RULES = {
    "SelfSubjectReview": REVIEW,
    "TokenReview": REVIEW,
}
