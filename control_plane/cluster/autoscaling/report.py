"""Reports of an autoscaler, in Cluster Autoscaler's words: its events and its status. Pure."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.autoscaling.decision import Decision, Limits, Unit

STATUS_NAME: Final = "cluster-autoscaler-status"
STATUS_NAMESPACE: Final = "kube-system"
TRIGGERED, NOT_TRIGGERED = "TriggeredScaleUp", "NotTriggerScaleUp"
SCALED_UP, SCALE_DOWN, SCALE_DOWN_EMPTY = "ScaledUpGroup", "ScaleDown", "ScaleDownEmpty"
SCALE_DOWN_FAILED: Final = "ScaleDownFailed"


def triggered(group: str, before: int, add: int, limits: Limits) -> str:
    return f"pod triggered scale-up: [{{{group} {before}->{before + add} (max: {limits.nodes_max})}}]"


def not_triggered(why: str) -> str:
    return f"pod didn't trigger scale-up: {why}"


def scaled_up(group: str, before: int, add: int, limits: Limits) -> str:
    size = f"set to {before + add} instead of {before} (max: {limits.nodes_max})"
    return f"Scale-up: group {group} size {size}"


def removed(unit: Unit, *, empty: bool) -> str:
    what = ", ".join(unit.nodes)
    return f"Scale-down: empty node {what} removed" if empty else f"Scale-down: node {what} removed with drain"


def status(group: str, units: Sequence[Unit], decision: Decision, limits: Limits, *, machines: int) -> dict[str, Any]:
    """The status as Cluster Autoscaler writes it, without times. `machines`: asked for, and not there yet."""
    total = sum(len(unit.nodes) for unit in units)
    ready = sum(len(unit.nodes) for unit in units if unit.ready and not unit.leaving)
    leaving = sum(len(unit.nodes) for unit in units if unit.leaving)
    coming = len(decision.memory.coming)
    counts = {
        "registered": {"total": total, "ready": ready, "notStarted": coming, "beingDeleted": leaving},
        "longUnregistered": 0,
        "unregistered": decision.add,
    }
    up = "InProgress" if coming or decision.add else "NoActivity"
    unneeded = sorted(decision.memory.unneeded)
    down = "CandidatesPresent" if unneeded else "NoCandidates"
    sizes = {"cloudProviderTarget": total + decision.add, "minSize": limits.nodes_min, "maxSize": limits.nodes_max}
    return {
        "autoscalerStatus": "Running",
        "clusterWide": {
            "health": {"status": "Healthy", "nodeCounts": counts},
            "scaleUp": {"status": up},
            "scaleDown": {"status": down, "candidates": len(unneeded)},
        },
        "nodeGroups": [
            {
                "name": group,
                "health": {"status": "Healthy", "nodeCounts": copy.deepcopy(counts), **sizes},  # a YAML without anchors
                "scaleUp": {"status": up, "machinesAskedFor": machines},
                "scaleDown": {"status": down, "unneeded": unneeded, "kept": dict(sorted(decision.kept.items()))},
            }
        ],
    }


def status_object(text: str, stamp: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": STATUS_NAME,
            "namespace": STATUS_NAMESPACE,
            "annotations": {"cluster-autoscaler.kubernetes.io/last-updated": stamp},
        },
        "data": {"status": text},
    }
