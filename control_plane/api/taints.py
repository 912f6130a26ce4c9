"""Taints of nodes and the tolerations of pods.

Source: Kubernetes concepts "Taints and Tolerations"; API reference core/v1 Taint, Toleration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
DISK_PRESSURE = "node.kubernetes.io/disk-pressure"
MEMORY_PRESSURE = "node.kubernetes.io/memory-pressure"
PID_PRESSURE = "node.kubernetes.io/pid-pressure"
NETWORK_UNAVAILABLE = "node.kubernetes.io/network-unavailable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"

NO_SCHEDULE, NO_EXECUTE, PREFER_NO_SCHEDULE = "NoSchedule", "NoExecute", "PreferNoSchedule"
#: Effects that keep a pod without a toleration off a node.
HARD_EFFECTS = frozenset({NO_SCHEDULE, NO_EXECUTE})

#: In a list that configures a cluster or a namespace: each is held against each of a pod's.
TOLERATIONS_MAX = 256
_FIELDS = {"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}
_SECONDS_MAX = 2**31 - 1


class Taint(NamedTuple):
    key: str
    value: str
    effect: str

    @staticmethod
    def of(taint: Mapping[str, Any]) -> Taint:
        return Taint(taint.get("key") or "", taint.get("value") or "", taint.get("effect") or "")


@dataclass(frozen=True, slots=True)
class Toleration:
    """An empty key stands for every key, an empty effect for every effect."""

    key: str
    operator: str
    value: str
    effect: str

    @staticmethod
    def of(toleration: Mapping[str, Any]) -> Toleration:
        return Toleration(
            toleration.get("key") or "",
            toleration.get("operator") or "Equal",
            toleration.get("value") or "",
            toleration.get("effect") or "",
        )

    def tolerates(self, taint: Taint) -> bool:
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        if self.operator == "Exists":
            return True
        if self.operator in ("Gt", "Lt"):
            return _compares(taint.value, self.operator, self.value)
        return self.operator == "Equal" and self.value == taint.value


def _compares(taint: str, operator: str, bound: str) -> bool:
    """Gt and Lt compare the taint's value with the toleration's as numbers; what is none is not tolerated."""
    try:
        left, right = int(taint), int(bound)
    except ValueError:
        return False
    return left > right if operator == "Gt" else left < right


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether one toleration of a pod's spec covers one taint of a node's."""
    return Toleration.of(toleration).tolerates(Taint.of(taint))


def any_tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    return any(toleration.tolerates(taint) for toleration in tolerations)


def are_tolerations(found: Any) -> bool:
    """Whether a document is a list of them, and not too long."""
    return isinstance(found, list) and len(found) <= TOLERATIONS_MAX and all(map(_is_toleration, found))


def _is_toleration(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(part) is _FIELDS.get(field) and (not isinstance(part, int) or abs(part) <= _SECONDS_MAX)
        for field, part in value.items()
    )
