"""Room for a critical pod that its node has no room for: which of the pods there are ended for it. Pure.

Those that promise least go first: of each class of service as few as are needed once the classes below it are gone, and
of these the ones that free what is lacking and little else.

Source: kubernetes/pkg/kubelet/preemption (critical pod admission handler).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.priority import is_critical, yields_to
from rayplane.control_plane.api.pods.qos import qos_class
from rayplane.node.kubelet.admission import Room

REASON: Final = "Preempting"
MESSAGE: Final = "Preempted in order to admit critical pod"
DISRUPTION: Final = ("TerminationByKubelet", "Pod was preempted by Kubelet to accommodate a critical pod.")
_CLASSES: Final = ("BestEffort", "Burstable", "Guaranteed")
Amounts = Mapping[str, int]


class Holder(NamedTuple):
    """A pod that holds room of the node."""

    pod: Object
    room: Room
    is_ending: bool = False

    def has(self, resource: str) -> int:
        own = {"cpu": self.room.cpu, "memory": self.room.memory, "pods": self.room.pods}
        return own[resource] if resource in own else dict(self.room.others).get(resource, 0)


def victims(pod: Object, lacking: Amounts, holders: Sequence[Holder]) -> list[Holder]:
    """Those to wait for so that nothing is lacking any more, some of which are to be ended first.

    Nobody where the pod is not critical, or what it lacks cannot be had.
    """
    ending = [one for one in holders if one.is_ending]
    lacking = _left(lacking, ending)
    best, burstable, guaranteed = (
        [one for one in holders if not one.is_ending and qos_class(one.pod) == of_class and yields_to(one.pod, pod)]
        for of_class in _CLASSES
    )
    if not is_critical(pod) or _left(lacking, [*best, *burstable, *guaranteed]):
        return []
    first = _nearest(guaranteed, _left(lacking, [*best, *burstable]))
    second = _nearest(burstable, _left(lacking, [*best, *first]))
    third = _nearest(best, _left(lacking, [*second, *first]))
    return [*ending, *third, *second, *first]


def _left(lacking: Amounts, gone: Sequence[Holder]) -> dict[str, int]:
    """What is lacking still once these are gone."""
    left = {name: amount - sum(one.has(name) for one in gone) for name, amount in lacking.items()}
    return {name: amount for name, amount in left.items() if amount > 0}


def _nearest(holders: Sequence[Holder], lacking: Amounts) -> list[Holder]:
    """Some of these, one after the other the one that leaves least lacking; of equal ones the smallest."""
    left, ahead, found = dict(lacking), [*holders], []
    while left and ahead:
        one = min(ahead, key=lambda holder: (_distance(left, holder), holder.room.memory, holder.room.cpu))
        ahead.remove(one)
        found.append(one)
        left = _left(left, [one])
    return found


def _distance(lacking: Amounts, holder: Holder) -> float:
    shares = ((amount - holder.has(name)) / amount for name, amount in lacking.items())
    return sum(share * share for share in shares if share > 0)
