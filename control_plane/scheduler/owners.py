"""Services and owners of pods: which pods are of one kind with a given one, for default spreading.

Source: Kubernetes concepts "Pod Topology Spread Constraints" (cluster-level default constraints).
"""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import LabelSelector, Requirement, from_label_selector, from_map
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler.pods import PodInfo

SERVICE = "Service"
_BY_MAP = frozenset({SERVICE, "ReplicationController"})
#: The resources that are looked at.
OWNERS = ("services", "replicationcontrollers", "replicasets.apps", "statefulsets.apps")


class OwnerIndex:
    """Selectors of Services, ReplicationControllers, ReplicaSets and StatefulSets, by kind, namespace and name."""

    def __init__(self) -> None:
        self._services: dict[str, dict[str, LabelSelector]] = {}
        self._owners: dict[tuple[str, str, str], LabelSelector] = {}

    def set(self, kind: str, one: Object) -> None:
        """Add or replace; of a Service without selector nothing is kept."""
        given = meta.spec(one).get("selector")
        selector = from_map(given) if kind in _BY_MAP else from_label_selector(given)
        namespace, name = meta.namespace(one), meta.name(one)
        if kind != SERVICE:
            self._owners[kind, namespace, name] = selector
        elif given:
            self._services.setdefault(namespace, {})[name] = selector
        else:
            self.remove(kind, namespace, name)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        if kind != SERVICE:
            self._owners.pop((kind, namespace, name), None)
            return
        found = self._services.get(namespace)
        if found is not None and found.pop(name, None) is not None and not found:
            del self._services[namespace]

    def selector(self, pod: PodInfo) -> LabelSelector | None:
        """What the Services of the pod and its controller select, all at once; None when there are none."""
        found: list[Requirement] = []
        for selector in self._services.get(pod.namespace, {}).values():
            if selector.matches(pod.labels):
                found += selector.requirements
        if pod.owner is not None:
            kind, name = pod.owner
            owned = self._owners.get((kind, pod.namespace, name))
            if owned is not None:
                found += owned.requirements
        return LabelSelector(found) if found else None
