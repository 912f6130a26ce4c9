"""Well-known labels of nodes.

Source: Kubernetes reference "Well-Known Labels, Annotations and Taints".
"""

from collections.abc import Mapping

ZONE = "topology.kubernetes.io/zone"
REGION = "topology.kubernetes.io/region"
_OLD = ("kubernetes.io/os", "kubernetes.io/arch")


def old_names(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels of a node under their old names too, which manifests still select by: `beta.` and the name."""
    return {f"beta.{name}": labels[name] for name in _OLD if name in labels}
