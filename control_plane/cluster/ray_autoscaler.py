"""Ray's own autoscaler, where a Ray cluster has one: it starts machines for what is asked for, and ends idle ones.

A machine is idle for it when no actor or task is there, whatever they need, so it ends none that a cluster uses. There
is one request of all of a Ray cluster: whoever asks takes the place of whoever asked before.

Ray's modules for it are imported where they are asked for: only a supervisor does, and they take 4 MB of a process.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RpcError
from ray.experimental.internal_kv import _internal_kv_get

CPU = "CPU"
_STATUS = b"__autoscaling_status"
# Without an autoscaler each node is of a type of its own, named after its id.
_NO_TYPE = "node_"


def cpus() -> dict[str, float] | None:
    """CPUs of each machine that is alive, by its id; None where no autoscaler would start another."""
    if not any(kind and kind != f"{_NO_TYPE}{node}" for node, kind in _types().items()):
        return None
    return {node["NodeID"]: float(node["Resources"].get(CPU, 0)) for node in ray.nodes() if node["Alive"]}


def request(bundles: Sequence[Mapping[str, float]]) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[dict(bundle) for bundle in bundles])


def _types() -> dict[str, str]:
    """The types of machines, by id, as either of Ray's autoscalers tells them."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    said: Any = json.loads(_internal_kv_get(_STATUS) or b"{}")
    found: dict[str, str] = (said.get("autoscaler_report") or {}).get("node_type_mapping") or {}
    if found:
        return found
    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
    except RpcError:
        return {}
    nodes = (*status.active_nodes, *status.idle_nodes)
    return {node.node_id: node.ray_node_type_name for node in nodes if node.node_id}
