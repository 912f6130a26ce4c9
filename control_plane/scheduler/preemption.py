"""Making room for a pod by deleting pods of lower priority.

On each node that could be helped so: take all pods of lower priority away; if the pod fits then, put back as many as
still let it fit, the most important first. What stays away are the victims. The node is chosen whose victims matter
least. Source: Kubernetes concepts "Pod Priority and Preemption"; disruption budgets are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rayplane.control_plane.scheduler import report
from rayplane.control_plane.scheduler.plugins.args import PreemptionArgs
from rayplane.control_plane.scheduler.plugins.base import PluginSet, PodView, Refusal
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Preemption:
    """The pods `victims`, all on `node`: without them the pod fits there. The least important victim comes first."""

    node: str
    victims: tuple[PodInfo, ...]


def plan(
    view: PodView, plugins: PluginSet, refusals: Mapping[int, Refusal], *, nominated: str, args: PreemptionArgs
) -> Preemption | str:
    """Whom to delete, or the sentence that says why nobody is."""
    pod, snapshot = view.pod, view.snapshot
    count = len(refusals)
    if not pod.may_preempt:
        return report.NOT_ELIGIBLE_POLICY
    on_nominated = snapshot.pods_on(nominated) if nominated else {}
    if any(other.terminating and other.priority < pod.priority for other in on_nominated.values()):
        return report.NOT_ELIGIBLE_TERMINATING
    helpful = [row for row, refusal in refusals.items() if refusal.resolvable]
    if not snapshot.has_lower_priority(pod.priority):
        return report.preemption_failed(count, count - len(helpful), len(helpful))
    enough = max(count * args.min_candidate_nodes_percentage // 100, args.min_candidate_nodes_absolute)
    candidates: list[Preemption] = []
    for row in helpful:
        victims = _victims(view, plugins, row)
        if victims:
            candidates.append(Preemption(snapshot.info(row).name, victims))
            if len(candidates) >= enough:
                break
    if not candidates:
        return report.preemption_failed(count, count - len(helpful), len(helpful))
    return min(candidates, key=_cost)


def _importance(pod: PodInfo) -> tuple[int, str, str]:
    """Ascending: lower priority, then the younger, then by name."""
    started = pod.obj.get("status", {}).get("startTime") or pod.obj.get("metadata", {}).get("creationTimestamp") or ""
    inverted = "".join(chr(0x7F - ord(c)) if ord(c) < 0x7F else c for c in started)
    return pod.priority, inverted, pod.key


def _cost(candidate: Preemption) -> tuple[int, int, int, str]:
    """Smallest is best: least important worst victim, smallest sum of priorities, fewest victims, name."""
    priorities = [victim.priority for victim in candidate.victims]
    # Priorities may be negative: shift them, so that more victims never make a smaller sum.
    shifted = sum(priority + (1 << 31) for priority in priorities)
    return max(priorities), shifted, len(priorities), candidate.node


def _victims(view: PodView, plugins: PluginSet, row: int) -> tuple[PodInfo, ...]:
    """Whose deletion lets the pod onto the node; empty when nobody's does. The snapshot is as before afterwards."""
    pod, snapshot = view.pod, view.snapshot
    lower = [other for other in snapshot.pods_on(snapshot.info(row).name).values() if other.priority < pod.priority]
    if not lower:
        return ()
    lower.sort(key=_importance)
    for other in lower:
        snapshot.remove_pod(other.key)
    victims: list[PodInfo] = []
    if _fits(view, plugins, row):
        for other in reversed(lower):
            snapshot.set_pod(other)
            if not _fits(view, plugins, row):
                snapshot.remove_pod(other.key)
                victims.append(other)
    for other in lower:
        if other.key not in snapshot.pods:
            snapshot.set_pod(other)
    return tuple(reversed(victims))


def _fits(view: PodView, plugins: PluginSet, row: int) -> bool:
    """With the pods as they are in the snapshot now."""
    return plugins.refusal(PodView(view.pod, view.cluster), row) is None


@contextmanager
def assumed(snapshot: Snapshot, pods: Iterable[PodInfo], node: str) -> Iterator[None]:
    """The pods are on the node, within this block only."""
    there = [replace(pod, node=node) for pod in pods if pod.key not in snapshot.pods]
    for pod in there:
        snapshot.set_pod(pod)
    try:
        yield
    finally:
        for pod in there:
            snapshot.remove_pod(pod.key)
