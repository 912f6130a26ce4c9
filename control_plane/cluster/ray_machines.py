"""Machines of a Ray cluster that are lost on purpose, and come back.

On each that is to be lost a keeper is started (`ray_keeper`), which ends Ray's part of it and starts it again. What it
is to do stands in the tables of Ray's head, where whoever may talk to Ray can write; no port is opened for it.
"""

import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.experimental import internal_kv as tables
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayplane.control_plane.cluster import ray_keeper
from rayplane.control_plane.cluster.errors import ClusterError, UsageError

HEAD = "node:__internal_head__"
"""The resource that the node of Ray's head has."""
START_S = 60.0


def lose(address: str, for_s: float) -> None:
    """Lose a machine, for so long at most; when it is gone this returns. Raises UsageError, ClusterError."""
    node = _only(address)
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    start: Any = ray.remote(ray_keeper.start)
    try:
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": where}
        ray.get(start.options(**options).remote(node, address, for_s), timeout=START_S)
        _write(address, ray_keeper.LOST, node)
        _await_gone(address, node)
    except RayError as e:
        raise ClusterError(f"{address} cannot be lost now: {str(e).strip().splitlines()[-1]}") from e


def recall(address: str) -> bool:
    """Have a machine come back; whether it is there."""
    order, lost = _read(address)
    there = any(node != lost for node in _nodes(address))
    if there:
        tables._internal_kv_del(ray_keeper.key(address), namespace=ray_keeper.SPACE)
    elif order in (ray_keeper.LOST, ray_keeper.GONE):
        _write(address, ray_keeper.BACK, lost)
    return there


def _await_gone(address: str, node: str) -> None:
    """Raises ClusterError when the keeper does not answer; whatever it has done, it brings the machine back."""
    until = time.monotonic() + START_S
    while _read(address) != (ray_keeper.GONE, node):
        if time.monotonic() > until:
            _write(address, ray_keeper.BACK, node)
            raise ClusterError(f"{address} is not lost within {START_S:.0f} s; try again")
        time.sleep(ray_keeper.POLL_S)


def _read(address: str) -> tuple[str, str]:
    return ray_keeper.read(tables._internal_kv_get(ray_keeper.key(address), namespace=ray_keeper.SPACE))


def _write(address: str, order: str, node: str) -> None:
    tables._internal_kv_put(ray_keeper.key(address), f"{order} {node}".encode(), namespace=ray_keeper.SPACE)


def _nodes(address: str) -> list[str]:
    """Ray's nodes there that are alive."""
    return [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] == address]


def _only(address: str) -> str:
    """Ray's one node there. Raises UsageError."""
    heads = {n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"] and HEAD in n["Resources"]}
    if address in heads:
        raise UsageError(f"{address} has Ray's head, with which all would end: choose another machine")
    found = _nodes(address)
    if len(found) != 1:
        raise UsageError(f"{address}: {len(found)} nodes of Ray are alive there; a machine that is lost has one")
    return found[0]
