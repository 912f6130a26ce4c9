"""Audit policy (`audit.k8s.io/v1`): the rules that say which requests are recorded, and how much of them.

Owns: reading and checking a policy, the level and stages that it gives a request, and a policy for those who have none.
Does not own: what an event looks like and where it goes (`control_plane.apiserver.audit`).

Source: Kubernetes tasks "Auditing" and reference "kube-apiserver Audit Configuration (v1)".
Concurrency: pure functions over immutable values.
"""

from rayplane.control_plane.api.audit.policy import Decision, Level, Policy, Stage
from rayplane.control_plane.api.audit.reading import default_policy, read_policy

__all__ = ["Decision", "Level", "Policy", "Stage", "default_policy", "read_policy"]
