"""Claims in use by pods on nodes, and how many volumes each node's drivers can attach.

A volume has one claim, so the claims of a node's pods are counted, each once. Volumes that are attached to a node where
no pod uses them, any more or yet, count as well.

Source: Kubernetes concepts "Node-specific Volume Limits"; API reference storage/v1 CSINode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object


class ClaimUse:
    """Pods by claim and node, volumes by driver and node; kept current as pods and claims come and go."""

    def __init__(self, driver_of: Callable[[str], str]) -> None:
        self._driver_of = driver_of
        self._nodes: dict[str, dict[str, int]] = {}  # claim: node: pods
        self._drivers: dict[str, str] = {}  # claim: the driver that it is counted under
        self._attached: dict[str, dict[str, int]] = {}  # driver: node: volumes
        self._limits: dict[str, dict[str, int]] = {}  # driver: node: volumes at most
        self._attachments: dict[str, dict[str, int]] = {}  # driver: node: VolumeAttachments
        self._drivers_of: dict[str, frozenset[str]] = {}  # node: its drivers

    def count(self, claims: Iterable[str], node: str, sign: int) -> None:
        """A pod with these claims came to a node, or left it."""
        for claim in claims:
            nodes = self._nodes.setdefault(claim, {})
            before = nodes.get(node, 0)
            if before + sign:
                nodes[node] = before + sign
            else:
                del nodes[node]
            if not (before and before + sign):
                self._attach(claim, node, sign)
            if not nodes:
                del self._nodes[claim]
                self._drivers.pop(claim, None)

    def _attach(self, claim: str, node: str, sign: int) -> None:
        driver = self._drivers.get(claim)
        if driver is None:
            driver = self._drivers[claim] = self._driver_of(claim)
        if driver:
            attached = self._attached.setdefault(driver, {})
            attached[node] = attached.get(node, 0) + sign
            if not attached[node]:
                del attached[node]

    def driver_may_differ(self, claim: str) -> None:
        """Something was learnt of a claim."""
        nodes = self._nodes.get(claim)
        if nodes is None or self._drivers.get(claim) == self._driver_of(claim):
            return
        for node in nodes:
            self._attach(claim, node, -1)
        self._drivers.pop(claim, None)
        for node in nodes:
            self._attach(claim, node, 1)

    def pods(self, claim: str) -> Mapping[str, int]:
        """How many pods of each node use a claim."""
        return self._nodes.get(claim, {})

    # -- limits --------------------------------------------------------------------------------------------

    def set_csi_node(self, csi_node: Object) -> None:
        """A node's drivers, and how many volumes each can attach there."""
        name = meta.name(csi_node)
        self.remove_csi_node(name)
        drivers = meta.spec(csi_node).get("drivers") or ()
        self._drivers_of[name] = frozenset(driver.get("name") or "" for driver in drivers)
        for driver in drivers:
            limit = (driver.get("allocatable") or {}).get("count")
            if limit is not None:
                self._limits.setdefault(driver.get("name") or "", {})[name] = int(limit)

    def has_driver(self, node: str, driver: str) -> bool:
        """Whether a driver is installed on a node."""
        return driver in self._drivers_of.get(node, ())

    def remove_csi_node(self, name: str) -> None:
        self._drivers_of.pop(name, None)
        for driver, limits in [*self._limits.items()]:
            limits.pop(name, None)
            if not limits:
                del self._limits[driver]

    def limits(self, driver: str) -> Mapping[str, int]:
        """Nodes where a driver has a limit."""
        return self._limits.get(driver, {})

    def attach(self, driver: str, node: str, sign: int) -> None:
        """A VolumeAttachment of a driver came to a node, or is gone."""
        counts = self._attachments.setdefault(driver, {})
        counts[node] = counts.get(node, 0) + sign
        if not counts[node]:
            del counts[node]
            if not counts:
                del self._attachments[driver]

    def full(self, driver: str, more: int) -> list[str]:
        """Nodes where a driver may have no room for so many more volumes, if no attached one is used by a pod."""
        used, attached = self._attached.get(driver, {}), self._attachments.get(driver, {})
        return [
            node
            for node, limit in self._limits.get(driver, {}).items()
            if used.get(node, 0) + attached.get(node, 0) + more > limit
        ]

    def attached(self, driver: str, node: str) -> int:
        """Volumes of a driver that pods use on a node."""
        return self._attached.get(driver, {}).get(node, 0)
