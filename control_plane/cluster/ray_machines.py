"""Machines of a Ray cluster that are lost on purpose, and come back.

On each that is to be lost a keeper is started (`ray_keeper`), which ends Ray's part of it and starts it again. What it
is to do stands in the tables of Ray's head, where whoever may talk to Ray can write; no port is opened for it.
"""

import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.experimental import internal_kv as tables
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayplane.control_plane.cluster import processes, ray_keeper
from rayplane.control_plane.cluster.errors import ClusterError, UsageError

HEAD = "node:__internal_head__"
"""The resource that the node of Ray's head has."""
START_S, ANSWER_S = 60.0, 5.0
_UNTOLD = (RayError, RuntimeError)
"""What Ray raises whose head does not answer now."""


def lose(address: str, for_s: float) -> None:
    """Lose a machine, for so long at most; when it is gone this returns. Raises UsageError, ClusterError."""
    node = _only(address)
    # A keeper that starts late never takes the order of another.
    loss = f"{node}-{secrets.token_hex(4)}"
    try:
        _on(node, ray_keeper.start, loss, address, for_s, timeout_s=START_S)
        _write(address, ray_keeper.LOST, loss)
        _await_gone(address, loss)
    except _UNTOLD as e:
        with contextlib.suppress(*_UNTOLD):
            _write(address, ray_keeper.BACK, loss)
        raise ClusterError(f"{address} cannot be lost now: {' '.join(str(e).split())}") from e


def recall(address: str) -> bool:
    """Have a machine come back; whether it is there."""
    order, loss = _read(address)
    nodes = _nodes(address)
    if order in (ray_keeper.LOST, ray_keeper.GONE) and all(map(loss.startswith, nodes)):
        _write(address, ray_keeper.BACK, loss)
        return False
    # For a while Ray takes a node for alive that has ended; one that was to be lost may never have been.
    there = any(not loss.startswith(node) or _answers(node) for node in nodes)
    if there:
        tables._internal_kv_del(ray_keeper.key(address), namespace=ray_keeper.SPACE)
    return there


def _on(node: str, call: Callable[..., Any], *words: Any, timeout_s: float) -> None:
    """Call it on a node of Ray's. Raises RayError."""
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    task: Any = ray.remote(call)
    options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": where}
    ray.get(task.options(**options).remote(*words), timeout=timeout_s)


def _answers(node: str) -> bool:
    try:
        _on(node, processes.running, timeout_s=ANSWER_S)
    except RayError:
        return False
    return True


def _await_gone(address: str, loss: str) -> None:
    """Raises ClusterError when the keeper does not answer; whatever it has done, it brings the machine back."""
    until = time.monotonic() + START_S
    while _read(address) != (ray_keeper.GONE, loss):
        if time.monotonic() > until:
            _write(address, ray_keeper.BACK, loss)
            raise ClusterError(f"{address} is not lost within {START_S:.0f} s; try again")
        time.sleep(ray_keeper.POLL_S)


def _read(address: str) -> tuple[str, str]:
    return ray_keeper.read(tables._internal_kv_get(ray_keeper.key(address), namespace=ray_keeper.SPACE))


def _write(address: str, order: str, loss: str) -> None:
    tables._internal_kv_put(ray_keeper.key(address), f"{order} {loss}".encode(), namespace=ray_keeper.SPACE)


def _nodes(address: str) -> list[str]:
    """Ray's nodes there that are alive."""
    return [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] == address]


def _only(address: str) -> str:
    """Ray's one node there. Raises UsageError."""
    heads = {n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"] and HEAD in n["Resources"]}
    if address in heads:
        raise UsageError(f"{address} has Ray's head, with which all would end: choose another machine")
    found = _nodes(address)
    if ray.get_runtime_context().get_node_id() in found:
        raise UsageError(f"{address} has the supervisor, which brings machines back: choose another machine")
    if len(found) != 1:
        raise UsageError(f"{address}: {len(found)} nodes of Ray are alive there; a machine that is lost has one")
    return found[0]
