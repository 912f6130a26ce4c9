"""Experiments on a pod as events of its life: by marks among its annotations."""

from collections.abc import Iterator

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import is_failed, newly_killed
from rayplane.node.lifecycle.model import EXPERIMENT, LOST_CLUSTER, Event, Killed, Resumed, Suspended


def injected(old: Object, new: Object) -> Iterator[Event]:
    """What is done to a pod, or is over, by a change of its marks."""
    before, after = meta.annotations(old), meta.annotations(new)
    if before == after:
        return
    if is_failed(before) != is_failed(after):
        yield Suspended(EXPERIMENT) if is_failed(after) else Resumed(EXPERIMENT)
    if killed := newly_killed(before, after):
        yield Killed(killed)


def suspensions(pod: Object, *, lost_cluster: bool) -> set[str]:
    """Why nothing of a pod is to start that is seen for the first time."""
    found = {LOST_CLUSTER} if lost_cluster else set()
    return found | {EXPERIMENT} if is_failed(meta.annotations(pod)) else found
