"""The node that would be added: as the cluster's nodes are configured, with what those have for pods. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import VOLUME_CAPACITY
from rayplane.control_plane.cluster.components import node_config
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.node.kubelet.registration import node_object, node_status


def template(config: ClusterConfig, name: str, zone: str, nodes: Mapping[str, Object]) -> Object:
    """`nodes`: those that there are, whose kubelets may keep a part of what they have for themselves. What people wrote
    on them, labels and resources of their own, a new one will not have.
    """
    like = next((node for _, node in sorted(nodes.items()) if meta.status(node).get("allocatable")), {})
    made = node_config(config, name, zone)
    node = node_object(made, host_address="", volume_capacity=meta.annotations(like).get(VOLUME_CAPACITY, ""))
    node["status"] = node_status(made, node, node_ip="", port=0, stamp="")
    allocatable, found = node["status"]["allocatable"], meta.status(like).get("allocatable") or {}
    node["status"]["allocatable"] = {name: found.get(name, amount) for name, amount in allocatable.items()}
    return node
