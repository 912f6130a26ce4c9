"""Features that nodes declare, and those that a pod cannot do without. Pure.

A feature that all nodes have is not declared any more: the list is short, and changes with Kubernetes' version.

Source: KEP-5328 (node declared features).
"""

from __future__ import annotations

from typing import Final

from rayplane.control_plane.api.meta import Object

_RESTARTS_ALL: Final = "RestartAllContainersOnContainerExits"
DECLARED: Final = (_RESTARTS_ALL,)
"""The features of the kubelets here."""


def required_features(spec: Object) -> tuple[str, ...]:
    """The features that a node must declare to be given a pod."""
    parts = (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    rules = (rule for part in parts if "restartPolicyRules" in part for rule in part["restartPolicyRules"] or ())
    return (_RESTARTS_ALL,) if any(rule.get("action") == "RestartAllContainers" for rule in rules) else ()
