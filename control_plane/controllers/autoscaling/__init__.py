"""The horizontal pod autoscaler: how many replicas a target is to have, from what its pods use or other metrics say.

Owns: what to ask of which metrics API (`metrics`), replicas from values (`replicas`), how fast and how often their
number may change (`behavior`), and the reconcile function over all of them (`horizontal`).

Does not own: asking (the manager's `autoscaler` does before each reconcile), the metrics themselves, the replicas
(the target's own controller).
"""
