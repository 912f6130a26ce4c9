"""Well-known labels of nodes that say where they are.

Source: Kubernetes reference "Well-Known Labels, Annotations and Taints".
"""

ZONE = "topology.kubernetes.io/zone"
REGION = "topology.kubernetes.io/region"
