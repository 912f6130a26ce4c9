"""Disruption budgets: which pods cannot be deleted without breaking one.

Source: Kubernetes concepts "Pod Priority and Preemption" (budgets are respected where that is possible).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import LabelSelector, from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler.pods import PodInfo


@dataclass(frozen=True, slots=True)
class _Budget:
    selector: LabelSelector
    allowed: int
    disrupted: frozenset[str]
    """Names of pods whose eviction is counted already."""

    def is_about(self, pod: PodInfo) -> bool:
        return bool(pod.labels and self.selector.requirements) and self.selector.matches(pod.labels)


class BudgetIndex:
    """PodDisruptionBudgets by namespace and name. `version` grows with every change."""

    def __init__(self) -> None:
        self._budgets: dict[str, dict[str, _Budget]] = {}
        self.version = 0

    def __len__(self) -> int:
        return len(self._budgets)

    def set(self, budget: Object) -> None:
        status = meta.status(budget)
        self._budgets.setdefault(meta.namespace(budget), {})[meta.name(budget)] = _Budget(
            from_label_selector(meta.spec(budget).get("selector")),
            int(status.get("disruptionsAllowed") or 0),
            frozenset(status.get("disruptedPods") or ()),
        )
        self.version += 1

    def remove(self, namespace: str, name: str) -> None:
        found = self._budgets.get(namespace)
        if found is not None and found.pop(name, None) is not None:
            self.version += 1
            if not found:
                del self._budgets[namespace]

    def covers(self, pod: PodInfo) -> bool:
        """Whether any of them is about a pod."""
        return any(budget.is_about(pod) for budget in self._budgets.get(pod.namespace, {}).values())

    def split(self, pods: Iterable[PodInfo]) -> tuple[list[PodInfo], list[PodInfo]]:
        """(pods that break a budget if all are deleted in this order, the others)."""
        breaking: list[PodInfo] = []
        others: list[PodInfo] = []
        left: dict[int, int] = {}
        for pod in pods:
            broken = False
            for budget in self._budgets.get(pod.namespace, {}).values():
                if not budget.is_about(pod) or pod.name in budget.disrupted:
                    continue
                left[id(budget)] = left.get(id(budget), budget.allowed) - 1
                broken = broken or left[id(budget)] < 0
            (breaking if broken else others).append(pod)
        return breaking, others
