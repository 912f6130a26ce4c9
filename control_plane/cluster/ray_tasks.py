"""Work of the same kind for many items, spread over a Ray cluster and collected as it is done.

Only for work whose parts need nothing of each other. Each part is a task of one processor; the machines get this
package with the job. Results are bytes.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.ray_cluster import LOOPBACK, carrying

LOCAL = "local"
TASKS_PER_CPU = 2
"""Tasks that wait or work at once, for each processor of the cluster."""
RETRIES = 3
"""A part whose machine was lost is done again elsewhere."""
_PREFIX = "rayplane-"

C = TypeVar("C")
T = TypeVar("T")


def spread(function: Callable[[C, T], bytes], common: C, items: Iterable[T], *, address: str) -> Generator[bytes]:
    """What `function(common, item)` gives for each item, in the order in which it is done.

    `address`: HOST:PORT, "auto", or "local" for a Ray of our own, which ends with this. Close it to end what is under
    way. Raises ClusterError.
    """
    with contextlib.ExitStack() as context:
        ray = _connect(address, context)
        yield from _spread(ray, function, common, items)


def _spread(ray: Any, function: Callable[[C, T], bytes], common: C, items: Iterable[T]) -> Generator[bytes]:
    refs: list[Any] = []
    try:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(function)
        shared, rest = ray.put(common), iter(items)
        at_once = max(1, int(TASKS_PER_CPU * ray.cluster_resources().get("CPU", 1)))
        while True:
            while len(refs) < at_once and (item := next(rest, None)) is not None:
                refs.append(task.remote(shared, item))
            if not refs:
                return
            done, refs = ray.wait(refs)
            yield from _get(ray, done)
    finally:
        for ref in refs:
            ray.cancel(ref, force=True)


def _connect(address: str, context: contextlib.ExitStack) -> Any:
    """Make this process a driver. Ray reads its environment when it is imported, hence the late import."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == LOCAL:
        folder = context.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True))
        cpus = len(os.sched_getaffinity(0))
        options |= {"address": LOCAL, "include_dashboard": False, "num_cpus": cpus, "_temp_dir": folder}
        options |= {"_node_ip_address": LOOPBACK}
    else:
        options |= {"address": address, "runtime_env": carrying()}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise ClusterError(f"no Ray at {address}: {e}; start one with `ray start --head`, or use `local`") from e
    context.callback(ray.shutdown)
    return ray


def _get(ray: Any, done: list[Any]) -> Iterable[bytes]:
    try:
        found: list[bytes] = ray.get(done)
    except ray.exceptions.RayError as e:
        raise ClusterError(f"a part of the work failed on Ray: {e}") from e
    return found
