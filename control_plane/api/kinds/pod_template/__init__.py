"""The pod template and what it consists of, wherever it stands: in pods and in the kinds that make pods.

Owns: defaults and validation of pod specs, containers, volumes, affinity, resources.
Does not own: what only a real pod has (`kinds.core.pod`).
"""
