"""Features that nodes declare, and those that a pod, or a change of one, cannot do without. Pure.

A feature that all nodes have is not declared any more: the list is short, and changes with Kubernetes' version.

Source: KEP-5328 (node declared features).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import is_sidecar
from rayplane.control_plane.api.pods.qos import GUARANTEED, qos_class

_RESTARTS_ALL: Final = "RestartAllContainersOnContainerExits"
_RESIZES_GUARANTEED: Final = "GuaranteedQoSPodCPUResize"
_RESIZES_PODS: Final = "InPlacePodLevelResourcesVerticalScaling"
_RESIZES_INIT: Final = "InPlacePodVerticalScalingInitContainers"
DECLARED: Final = (_RESIZES_GUARANTEED, _RESIZES_PODS, _RESIZES_INIT, _RESTARTS_ALL)
"""The features of the kubelets here."""


def required_features(spec: Object) -> tuple[str, ...]:
    """The features that a node must declare to be given a pod."""
    parts = (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    rules = (rule for part in parts if "restartPolicyRules" in part for rule in part["restartPolicyRules"] or ())
    return (_RESTARTS_ALL,) if any(rule.get("action") == "RestartAllContainers" for rule in rules) else ()


def features_of_change(new: Object, old: Object) -> tuple[str, ...]:
    """The features that a pod's node must have declared for the pod to be changed so."""
    return tuple(_of_change(new.get("spec") or {}, old.get("spec") or {}, guaranteed=qos_class(old) == GUARANTEED))


def _of_change(spec: Object, before: Object, *, guaranteed: bool) -> Iterator[str]:
    pairs = zip(spec.get("containers") or (), before.get("containers") or (), strict=False)
    if guaranteed and any(_cpu(new) != _cpu(old) for new, old in pairs):
        yield _RESIZES_GUARANTEED
    if (spec.get("resources") or {}) != (before.get("resources") or {}):
        yield _RESIZES_PODS
    pairs = zip(spec.get("initContainers") or (), before.get("initContainers") or (), strict=False)
    if any(not is_sidecar(old) and new.get("resources") != old.get("resources") for new, old in pairs):
        yield _RESIZES_INIT


def _cpu(container: Object) -> Any:
    return ((container.get("resources") or {}).get("requests") or {}).get("cpu")
