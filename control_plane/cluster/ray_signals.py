"""Signals to the processes of actors on other machines of Ray.

Another actor of the cluster on that machine sends them, as Ray would have to start a process for a task, which a busy
machine is slow at; a task is the last resort. What was not sent in time is taken back: nobody may be stopped because
it had been asked for long ago.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import ray
from ray._private.state import actors
from ray.exceptions import GetTimeoutError, RayActorError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayplane.control_plane.cluster import processes

NEIGHBOURS_MAX = 2
NEIGHBOUR_S, TASK_S = 2.5, 10.0


def send(place: str, node: str, pid: int, number: int) -> None:
    """Send a signal to a process on a node of Ray's, by actors of the namespace `place`.

    GetTimeoutError when nobody there does so in time, RayError when nobody can.
    """
    for neighbour in _neighbours(place, node, pid):
        with contextlib.suppress(RayActorError, TaskCancelledError, GetTimeoutError):
            return _sent(neighbour.signal.remote(pid, number), NEIGHBOUR_S)
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task: Any = ray.remote(processes.send).options(num_cpus=0, scheduling_strategy=there)
    return _sent(task.remote(pid, number), TASK_S)


def _sent(asked: Any, timeout_s: float) -> None:
    try:
        ray.get(asked, timeout=timeout_s)
    except GetTimeoutError:
        ray.cancel(asked)
        raise


def _neighbours(place: str, node: str, pid: int) -> Iterator[Any]:
    """Actors of the namespace on that node, other than the process that is meant."""
    found = 0
    for ident, known in actors(actor_state_name="ALIVE").items():
        if found == NEIGHBOURS_MAX:
            return
        if known["Address"]["NodeID"] != node or int(known["Pid"]) == pid:
            continue
        with contextlib.suppress(ValueError):  # another namespace's, or it is gone
            actor: Any = ray.get_actor(known["Name"], namespace=place)
            # One of an earlier build does not know how.
            if actor._actor_id.hex() == ident and hasattr(actor, "signal"):
                found += 1
                yield actor
