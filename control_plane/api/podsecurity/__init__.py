"""Pod Security Standards: which pods the levels `privileged`, `baseline` and `restricted` allow, by version.

Owns: the checks, the levels and versions they belong to, the namespace labels that choose them, and the words a
violation is told in. Does not own: when a pod is checked, who is exempt, where warnings go (admission).

Source: Kubernetes concepts "Pod Security Standards" and "Pod Security Admission"; KEP-2579.
Concurrency: pure functions over JSON objects; nothing is changed or kept.
"""

from rayplane.control_plane.api.podsecurity.evaluation import details, reasons, violations
from rayplane.control_plane.api.podsecurity.levels import (
    LATEST,
    Level,
    LevelVersion,
    Policy,
    parse_labels,
)

__all__ = ["LATEST", "Level", "LevelVersion", "Policy", "details", "parse_labels", "reasons", "violations"]
