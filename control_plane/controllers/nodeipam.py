"""Pod addresses of nodes: every node gets its part of the cluster's (spec.podCIDR).

All nodes are one key, so that no two are served at the same time with the same range.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import (
    Action,
    BaseController,
    Event,
    Moment,
    Patch,
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
        self.watches = (Watch("nodes", _needy),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        nodes = sorted(view.list("nodes"), key=_age)
        taken = {meta.spec(node).get("podCIDR") for node in nodes}
        free = (str(n) for n in self._network.subnets(new_prefix=self._mask) if str(n) not in taken)
        steps: list[Action] = []
        for node in nodes:
            if meta.spec(node).get("podCIDR") or meta.is_deleting(node):
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


def _age(node: Object) -> tuple[str, str]:
    return (meta.metadata(node).get("creationTimestamp") or "", meta.name(node))
