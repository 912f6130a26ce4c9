"""The part of the cluster's configuration that nodes which join are told, as JSON. Pure."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig

_TOLD = (
    *("name", "nodes", "nodes_per_host", "runtime", "timing", "network_policy", "egress", "egress_allow"),
    *("pull", "missing_images", "kubelet_config", "log_format"),
)
"""Of the configuration only what is about nodes: every node may read it."""


def told_nodes(config: ClusterConfig, plan: AddressPlan) -> str:
    told = {name: value for name, value in asdict(config).items() if name in _TOLD}
    return json.dumps({"config": told, "plan": plan.to_json()}, sort_keys=True)


def read_told(text: str) -> tuple[ClusterConfig, AddressPlan]:
    """What a cluster of perhaps another build says. Raises ValueError."""
    known = {field.name for field in fields(ClusterConfig)}.intersection(_TOLD)
    try:
        data: Mapping[str, Any] = json.loads(text)
        config = ClusterConfig(**{name: value for name, value in data["config"].items() if name in known})
        return config, AddressPlan.from_json(data["plan"])
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"no configuration of node hosts: {e}") from e
