"""Pod addresses of nodes: every node gets its part of the cluster's (spec.podCIDR).

All nodes are one key, so that no two are served at the same time with the same range.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Action, Event, Patch
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

KEY = "all"


def _needy(node: Object, _view: View) -> Iterable[str]:
    return () if meta.spec(node).get("podCIDR") or meta.is_deleting(node) else (KEY,)


class NodeIpamController(BaseController):
    name = "nodeipam"
    component = "cidrAllocator"

    def __init__(self, *, cluster_cidr: str, mask: int) -> None:
        self._network = ipaddress.ip_network(cluster_cidr)
        if mask < self._network.prefixlen:
            raise ValueError(f"node_cidr_mask {mask} is wider than pod_cidr {cluster_cidr}; take a larger mask")
        self._mask = mask
        self._parts = 1 << (mask - self._network.prefixlen)
        self._size = self._network.num_addresses // self._parts
        self._next = 0
        """Where to look for the next part: in rotation, so that those before it need not be looked at again."""
        self.watches = (Watch("nodes", _needy),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        free = self._free(view.values("nodes", "cidr"))
        steps: list[Action] = []
        for node in sorted(view.indexed("nodes", "cidr", ""), key=_age):
            if meta.is_deleting(node):
                continue
            cidr = next(free, None)
            if cidr is None:
                text = f"Node {meta.name(node)} status is now: CIDRNotAvailable"
                steps.append(Event(node, "Normal", "CIDRNotAvailable", text))
                continue
            body = {
                "metadata": {"uid": meta.uid(node)},
                "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            }
            steps.append(Patch("nodes", "", meta.name(node), body))
        return result(steps)

    def _free(self, taken: Collection[str]) -> Iterator[str]:
        """Parts that no node has. `taken`: the ranges of nodes, and their lengths."""
        overlapped = self._overlapped(taken)
        for _ in range(self._parts):
            number = self._next
            self._next = (number + 1) % self._parts
            part = f"{self._network.network_address + number * self._size}/{self._mask}"
            if part not in taken and number not in overlapped:
                yield part

    def _overlapped(self, taken: Collection[str]) -> set[int]:
        """Parts in which ranges of another length lie: of nodes from when the cluster had another size."""
        found: set[int] = set()
        if not any(f"/{length}" in taken for length in range(self._network.max_prefixlen + 1) if length != self._mask):
            return found
        first = int(self._network.network_address)
        for cidr in taken:
            with contextlib.suppress(ValueError):
                other = ipaddress.ip_network(cidr)
                if other.prefixlen != self._mask and other.overlaps(self._network):
                    start, end = int(other.network_address) - first, int(other.broadcast_address) - first
                    found.update(range(max(0, start // self._size), min(self._parts - 1, end // self._size) + 1))
        return found


def _age(node: Object) -> tuple[str, str]:
    return (meta.metadata(node).get("creationTimestamp") or "", meta.name(node))
